# SPDX-License-Identifier: Apache-2.0
"""Livepatch control from sysfs and /proc, in the words of the kernel's own selftests.

Documentation/livepatch/livepatch.rst and Documentation/ABI/testing/sysfs-kernel-livepatch say what the
files mean. A transition is watched, never forced unless `force` is called.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from klp.errors import CheckFailed, TransitionStuck
from klp.guest.clock import NOW
from klp.guest.ssh import Guest
from klp.waiting import DeadlineMissed, wait_until

_SYSFS = "/sys/kernel/livepatch"
_POLL_S = 0.1
# A transition that nobody holds up takes one retry, and klp_try_complete_transition
# (kernel/livepatch/transition.c) has its work come back after a second: what lasts longer than a few of
# them is worth telling.
_SLOW_S = 3.0
# Prints each folder as "./PATH/<NUL>" and each attribute that this kernel has as "./PATH<NUL>VALUE",
# between two readings of the clock. All by the guest's bash itself, here and below (see `clock.NOW`).
_LIST = (
    f"cd {_SYSFS} 2>/dev/null || exit 0; shopt -s nullglob; {NOW}; now begun; "
    "for each in */ */*/ */*/*/; do printf './%s\\0\\n' \"$each\"; done; "
    "for each in */* */*/*; do [[ -f $each && ${each##*/} != @(force|uevent) ]] || continue; "
    'IFS= read -r value 2>/dev/null <"$each" && printf \'./%s\\0%s\\n\' "$each" "$value"; done; now ended'
)
# Wait a second at most while something is so; prints 1 if it was to the end. Nothing ever comes from the
# pipe (vm-images/guest/boot makes it), so that waiting starts no program either.
_WHILE = "for each in {{1..10}}; do {} || exit 0; read -rt 0.1 <>/run/klp/silence; done; echo 1"
_WHILE_ONE = _WHILE.format('read -r now 2>/dev/null <{0} && [ "$now" = 1 ]')
_WHILE_THERE = _WHILE.format("[ -d {0} ]")
_WHILE_HELD = _WHILE.format('read -r now 2>/dev/null <{0} && [ "$now" != 0 ]')
# One grep for all: a loop that starts a program for each of 2,000 threads keeps an emulated guest busy for
# more than two minutes.
_STATES = "grep -H . /proc/[0-9]*/task/[0-9]*/patch_state 2>/dev/null"
# What takes a reference for a moment gives it back within this; a livepatch that is forced or keeps one for
# good is told by rmmod.
_HELD_S = 3.0
# Prints tid and patch_state of every thread.
_PATCH_STATES = _STATES + " | sed 's,.*/task/,,; s,/patch_state:, ,'; :"
# Prints tid, name, patch_state, `stat` and stack of the threads whose state is neither $1 nor -1 (the
# transition has just ended), of $2 at most: each costs the guest a `cat`.
_PENDING = (
    _STATES + ' | sed "s,/patch_state:, ," | while read -r t s; do '
    'if [ "$s" != "$1" ] && [ "$s" != -1 ]; then echo "$s $t"; fi; done | head -n "$2" | '
    "while read -r s t; do comm=; IFS= read -r comm <$t/comm; "
    'printf "task %s %s %s\\n" "$s" "${t##*/}" "$comm"; stat=; '
    'IFS= read -r stat <$t/stat; echo "stat $stat"; cat $t/stack; done'
)
_PENDING_AT_MOST = 100
_PF_KTHREAD = 0x00200000  # include/linux/sched.h


@dataclass(frozen=True, slots=True)
class PatchedObject:
    """An object of a livepatch: ``vmlinux`` or a module, and its functions (``name,sympos``).

    `patched` is None on kernels that do not tell: 6.1 is the first that does.
    """

    name: str
    functions: tuple[str, ...]
    patched: bool | None


@dataclass(frozen=True, slots=True)
class LivepatchState:
    """A livepatch as sysfs shows it; None where this kernel has no such file.

    `replace` is shown since 6.11; `stack_order` on 7.2, and not yet on 6.12.
    """

    name: str
    enabled: bool
    transition: bool
    replace: bool | None
    stack_order: int | None
    objects: tuple[PatchedObject, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """All of sysfs, read between two moments of the guest's monotonic clock (None where it has none)."""

    livepatches: tuple[LivepatchState, ...]
    begun_ns: int | None
    ended_ns: int | None


@dataclass(frozen=True, slots=True)
class PendingTask:
    """A thread that has not reached the target state.

    Attributes:
        stack: innermost first.
        kthread: whether it is none of a user's.
        state: its letter in /proc/PID/stat, such as S; empty where it has ended by now.
    """

    pid: int
    comm: str
    patch_state: int
    stack: tuple[str, ...]
    kthread: bool = False
    state: str = ""

    def line(self) -> str:
        """Return it in one line: who, and where it sleeps."""
        where = self.stack[0].split("] ")[-1] if self.stack else "running, or no stack"
        return f"{self.comm}[{self.pid}] patch_state {self.patch_state} in {where}"


class Livepatches:
    """The livepatches of one guest.

    Args:
        guest: the connection that works.
        diagnosis: returns a second connection that is kept free, to ask why the first one waits.
    """

    def __init__(self, guest: Guest, diagnosis: Callable[[], Guest]) -> None:
        self._guest = guest
        self._diagnosis = diagnosis

    def look(self) -> Look:
        """Return every livepatch that sysfs shows, and when it was read."""
        return parse_listing(self._guest.run(_LIST).must("listing livepatches").stdout)

    def list(self) -> tuple[LivepatchState, ...]:
        """Return every livepatch that sysfs shows, by name."""
        return self.look().livepatches

    def state(self, name: str) -> LivepatchState | None:
        """Return one livepatch's state, or None if it is not there."""
        return next((each for each in self.list() if each.name == name), None)

    def wait_transition(
        self,
        name: str,
        *,
        deadline_s: float,
        stuck: Callable[[tuple[PendingTask, ...]], None],
        slow: Callable[[tuple[PendingTask, ...]], None] | None = None,
    ) -> None:
        """Wait until `name` is no longer in transition, or is gone from sysfs.

        Args:
            name: the livepatch.
            deadline_s: seconds before the transition is called stuck.
            stuck: gets the pending tasks before anything else is done, to keep them.
            slow: gets the pending tasks every few seconds meanwhile, for whoever watches.

        Raises:
            TransitionStuck: it outlasted the deadline; nothing was forced or torn down.
        """
        last_shown = time.monotonic()

        def look() -> bool:
            nonlocal last_shown
            if not self._lasts(_WHILE_ONE, f"{_SYSFS}/{name}/transition"):
                return True
            if slow and time.monotonic() - last_shown >= _SLOW_S:
                slow(self.pending(name))
                last_shown = time.monotonic()
            return False

        try:
            wait_until(look, what="transition", timeout_s=deadline_s, every_s=_POLL_S)
        except DeadlineMissed as missed:
            pending = self.pending(name)
            stuck(pending)
            lines = tuple(task.line() for task in pending)
            raise TransitionStuck(name, missed.waited_s, lines) from None

    def wait_gone(self, name: str, *, deadline_s: float) -> None:
        """Wait until sysfs no longer shows `name`.

        That is after the end of the transition: the kernel frees it by a work item (klp_free_patch_work_fn,
        kernel/livepatch/core.c). Until then rmmod is refused, for the livepatch holds its own module.

        Raises:
            CheckFailed: it is still there.
        """
        try:
            wait_until(
                lambda: not self._lasts(_WHILE_THERE, f"{_SYSFS}/{name}"),
                what="removal", timeout_s=deadline_s, every_s=_POLL_S,
            )  # fmt: skip
        except DeadlineMissed as missed:
            raise CheckFailed(f"{name}: still in sysfs after {missed.waited_s:.0f} s") from None

    def wait_put(self, name: str) -> None:
        """Wait until nobody holds the livepatch's module, a few seconds at most, so that it can be removed.

        Its folder in sysfs goes before the reference that klp_enable_patch() took is given back
        (klp_free_patch_finish, kernel/livepatch/core.c): rmmod between the two is refused with EAGAIN. The
        kernel's own selftests wait for the same (unload_mod in their functions.sh).
        """
        path = f"/sys/module/{name}/refcnt"
        with suppress(DeadlineMissed):
            wait_until(
                lambda: not self._lasts(_WHILE_HELD, path), what="last reference",
                timeout_s=_HELD_S, every_s=_POLL_S,
            )  # fmt: skip

    def _lasts(self, script: str, path: str) -> bool:
        """Whether what `script` waits for did not come; it looks in the guest, where that costs least."""
        return self._guest.run(script.replace("{0}", shlex.quote(path))).stdout.strip() == "1"

    def enabled(self, name: str) -> bool:
        """Whether sysfs shows a livepatch enabled."""
        path = shlex.quote(f"{_SYSFS}/{name}/enabled")
        return self._guest.run(f'read -r now 2>/dev/null <{path}; echo "$now"').stdout.strip() == "1"

    def patch_states(self) -> dict[str, int]:
        """Return the patch state of every thread, by thread id: -1 where no transition runs."""
        lines = self._diagnosis().run(_PATCH_STATES).stdout.split()
        return dict(zip(lines[::2], map(int, lines[1::2]), strict=True))

    def pending(self, name: str) -> tuple[PendingTask, ...]:
        """Return the threads that hold the transition of `name`, a hundred at most, with their stacks.

        Asked over the connection kept for diagnosis: the other one may be what is stuck.
        """
        # `enabled` is set as a transition starts, so it is the state that every task is to reach.
        enabled = self._diagnosis().run(f"cat {_SYSFS}/{shlex.quote(name)}/enabled").stdout.strip()
        script = ["sh", "-c", _PENDING, "pending", enabled or "1", str(_PENDING_AT_MOST)]
        return parse_pending(self._diagnosis().run(script).stdout)


def parse_listing(text: str) -> Look:
    """Read `_LIST`'s output: ``./NAME/enabled<NUL>1``, ``./NAME/OBJECT/FUNCTION,1/<NUL>`` and so on."""
    tree: dict[str, dict[str, str]] = {}
    clock: dict[str, int] = {}
    for line in text.splitlines():
        path, _, value = line.partition("\0")
        here, _, inside = path.partition("/")
        if here != ".":
            clock[path] = int(value)
        elif inside:
            name, _, below = inside.partition("/")
            tree.setdefault(name, {})[below] = value
    return Look(
        livepatches=tuple(_one(name, files) for name, files in sorted(tree.items())),
        begun_ns=clock.get("begun"),
        ended_ns=clock.get("ended"),
    )


def _one(name: str, files: dict[str, str]) -> LivepatchState:
    flags = {key: value == "1" for key, value in files.items() if "/" not in key}
    owners = sorted({key.split("/")[0] for key in files if "/" in key})
    order = files.get("stack_order")
    return LivepatchState(
        name=name,
        enabled=flags.get("enabled", False),
        transition=flags.get("transition", False),
        replace=flags.get("replace"),
        stack_order=int(order) if order else None,
        objects=tuple(_object(owner, files) for owner in owners),
    )


def _object(name: str, files: dict[str, str]) -> PatchedObject:
    inside = [key.removeprefix(f"{name}/") for key in files if key.startswith(f"{name}/")]
    patched = files.get(f"{name}/patched")
    return PatchedObject(
        name=name,
        functions=tuple(sorted(each.rstrip("/") for each in inside if each.endswith("/"))),
        patched=patched == "1" if patched is not None else None,
    )


def parse_pending(text: str) -> tuple[PendingTask, ...]:
    """Read `_PENDING`'s output: ``task STATE TID NAME``, then that task's ``stat …`` and its stack."""
    heads: list[tuple[int, str, int]] = []
    stats: list[tuple[str, bool]] = []
    stacks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("task "):
            _, state, pid, comm = line.split(" ", 3)
            heads.append((int(pid), comm, int(state)))
            stats.append(("", False))
            stacks.append([])
        elif line.startswith("stat ") and stats:
            stats[-1] = _stat(line)
        elif line.strip() and stacks:
            stacks[-1].append(line.strip())
    return tuple(
        PendingTask(pid, comm, state, tuple(stack), kthread, letter)
        for (pid, comm, state), (letter, kthread), stack in zip(heads, stats, stacks, strict=True)
    )


def _stat(line: str) -> tuple[str, bool]:
    """Return a task's state and whether it is a kthread, from /proc/PID/stat (man 5 proc).

    After its name, which may have anything in it: state, parent, group, session, terminal and its group,
    flags.
    """
    fields = line.rpartition(")")[2].split()
    return (fields[0], bool(int(fields[6]) & _PF_KTHREAD)) if len(fields) > 6 else ("", False)
