# SPDX-License-Identifier: Apache-2.0
"""The harness's own part of a trace: what it did to the guest, and what it saw there.

A recorded run is judged from its events alone, so what no probe can see is written among them: steps,
sysfs, behaviour, the kernel log, taint. The stream is named ``klp``, and has no `End`: it is written as
long as the guest lives.
"""

from __future__ import annotations

from typing import Any, Literal

from klp.guest.clock import Clock, Span
from klp.guest.livepatch import Livepatches, LivepatchState, PendingTask
from klp.guest.ssh import Guest
from klp.klog.lines import without_stamp
from klp.trace import events as ev
from klp.trace.store import EventStore

STREAM = "klp"
# The kernel's letters for the bits of /proc/sys/kernel/tainted: kernel/panic.c, taint_flags. Its G, for a
# bit 0 that is not set, is left out: it says nothing. J is newer than 6.12, and seen on 7.2.
_TAINTS = "PFSRMBUDAWCIOELKXTNJ"
# For a bit that has no letter here: a kernel newer than this table has set it.
_UNKNOWN_TAINT = "?"
Action = Literal["load", "unload", "enable", "disable", "reverse", "force"]


class Observer:
    """Writes klp's events of one guest to a store.

    Attributes:
        clock: by which they are stamped, and by which what is done to the guest is timed.
    """

    def __init__(self, guest: Guest, livepatches: Livepatches, store: EventStore) -> None:
        self._guest = guest
        self._livepatches = livepatches
        self._store = store
        self.clock = Clock(guest)
        kernel = guest.read("/proc/sys/kernel/osrelease")
        self._record(ev.Header, schema=ev.SCHEMA, kernel=kernel, attached=(), missing=())

    def _record(self, kind: type[ev.Event], **fields: Any) -> None:
        self._store.record(STREAM, kind, self.clock.now_ns(), **fields)

    def begin(self, name: str, livepatch: str) -> None:
        """Say that a plan begins."""
        self._record(ev.Plan, name=name, livepatch=livepatch, moment="begin")

    def end(self, name: str, livepatch: str) -> None:
        """Say that a plan has ended."""
        self._record(ev.Plan, name=name, livepatch=livepatch, moment="end")

    def step(self, action: Action, subject: str, *, errno: int, span: Span | None) -> None:
        """Say what was done to `subject`, and when.

        Args:
            errno: 0, or negative: how the kernel refused.
            span: by the guest's own clock, because a step is judged by what came before and after it: told
                by the host's, an rmmod came out before the free of its livepatch (docs/facts.md). None
                where the guest shows no clock.
        """
        if span is None:
            self._record(ev.Step, action=action, subject=subject, errno=errno, duration_ns=0)
            return
        self._store.record(
            STREAM, ev.Step, span.ended_ns, lasts_from_ns=span.begun_ns,
            action=action, subject=subject, errno=errno,
        )  # fmt: skip

    def sysfs(self) -> tuple[LivepatchState, ...]:
        """Write down every livepatch as sysfs shows it now, and return that."""
        seen = self._livepatches.look()
        self._record(
            ev.Sysfs,
            patches=tuple(_as_event(each) for each in seen.livepatches),
            begun_ns=seen.begun_ns,
            ended_ns=seen.ended_ns,
        )
        return seen.livepatches

    def behaviour(self, **fields: Any) -> None:
        """Write down what a command showed; `fields` are those of `Behaviour`."""
        self._record(ev.Behaviour, **fields)

    def log(self, lines: tuple[str, ...], expected: dict[str, str] | None = None) -> None:
        """Write down lines of the kernel log; `expected` gives a reason for each that is no alarm."""
        reasons = expected or {}
        for line in lines:
            self._record(ev.LoggedLine, text=without_stamp(line), expected=reasons.get(line))

    def taint(self) -> None:
        """Write down the kernel's taint flags."""
        self._record(ev.Taint, flags=taint_letters(int(self._guest.read("/proc/sys/kernel/tainted"))))

    def awaited(self, patch: str, tasks: tuple[PendingTask, ...]) -> None:
        """Write down whom a transition waits for."""
        self._record(
            ev.Awaited,
            patch=patch,
            tasks=tuple(
                ev.AwaitedTask(
                    pid=each.pid, comm=each.comm, kthread=each.kthread, state=each.state,
                    stack=tuple(line.split("] ", 1)[-1] for line in each.stack),
                )
                for each in tasks
            ),
        )  # fmt: skip

    def control(self, patch: str, target: int, *, passes: int, duration_ns: int) -> None:
        """Write down the same transition as a guest without probes made it (see `Control`)."""
        self._record(ev.Control, patch=patch, target=target, passes=passes, duration_ns=duration_ns)

    def calls(self, patch: str, **fields: Any) -> None:
        """Write down how often one of a livepatch's functions ran; `fields` are those of `Calls`."""
        self._record(ev.Calls, patch=patch, **fields)

    def patch_states(self) -> dict[str, int]:
        """Sample the patch state of every thread, write it down, and return it."""
        tasks = self._livepatches.patch_states()
        self._record(ev.PatchStates, tasks=tasks)
        return tasks


def taint_letters(mask: int) -> str:
    """Return the taint flags of a mask as the kernel's letters, in the order of their bits.

    A flag that has none here is told all the same, by a question mark.
    """
    known = "".join(letter for bit, letter in enumerate(_TAINTS) if mask >> bit & 1)
    return known + _UNKNOWN_TAINT * (mask >> len(_TAINTS)).bit_count()


def _as_event(state: LivepatchState) -> ev.SysfsPatch:
    return ev.SysfsPatch(
        name=state.name,
        enabled=state.enabled,
        transition=state.transition,
        replace=state.replace,
        stack_order=state.stack_order,
        objects={each.name: each.patched for each in state.objects},
    )
