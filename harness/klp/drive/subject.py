# SPDX-License-Identifier: Apache-2.0
"""A module and a livepatch as a test handles them: loaded, observed, reversed, refused.

A test has nothing to clean up: the guest is discarded with all that is loaded in it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence

from klp.analysis.refusal_facts import RefusalFacts
from klp.drive.commands import insmod, rmmod, write_attribute
from klp.drive.refusal_facts import gather_refusal_facts
from klp.errors import CheckFailed
from klp.guest.errnos import errno_of, name_of
from klp.guest.livepatch import LivepatchState, PendingTask
from klp.guest.ssh import CommandResult
from klp.lab.lab import Lab
from klp.model import Module
from klp.trace.observer import Action, Observer

_Listener = Callable[[tuple[PendingTask, ...]], None]


class Refused(CheckFailed):
    """Something was refused that had to be done.

    Attributes:
        subject: the module's name.
        action: what was refused: ``load``, ``unload``, ``disable``, …
        errno: with what, positive; None where nothing named it.
        said: what the command said.
        facts: of the guest, just after.
    """

    def __init__(
        self, message: str, *, subject: str, action: str, errno: int | None, said: str, hint: str,
        facts: RefusalFacts,
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint)
        self.facts = facts
        self.said = said
        self.subject = subject
        self.action = action
        self.errno = errno


class Misbehaved(CheckFailed):
    """A command did not show what it had to.

    Attributes:
        moment, command, pattern, output: as `LivepatchSubject.observe` had them.
    """

    def __init__(self, name: str, moment: str, command: str, pattern: str, output: str) -> None:
        super().__init__(f"{name}: {command} says {output[-200:]!r}, not {pattern!r}")
        self.moment = moment
        self.command = command
        self.pattern = pattern
        self.output = output


class ModuleSubject:
    """A plain module in a guest.

    What can be refused takes `expect`: the errno it must be refused with, 0 (the default) for success,
    or None to take either; the errno is returned, 0 for success.

    Attributes:
        module: what was built.
        path: its file in the guest.
    """

    def __init__(self, lab: Lab, module: Module, path: str, observer: Observer | None = None) -> None:
        self._lab = lab
        self._observer = observer
        self.module = module
        self.path = path

    @property
    def name(self) -> str:
        """Its name as lsmod and sysfs show it."""
        return self.module.name

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it."""
        return self._lab.guest.run(["test", "-d", f"/sys/module/{self.name}"]).status == 0

    def load(self, parameters: str = "", *, expect: int | None = 0) -> int:
        """Load it with insmod.

        Args:
            parameters: as insmod takes them: ``k=v k=v``.
            expect: see the class.

        Raises:
            CheckFailed: the kernel did otherwise than expected; with insmod's words and the kernel's.
        """
        self._lab.second()  # now, while the guest answers: a load may hang, and someone has to ask why
        return self._do("load", insmod(self.path, parameters), expect)

    def unload(self, *, expect: int | None = 0) -> int:
        """Remove it with rmmod.

        A livepatch must be disabled before, for klp_enable_patch() takes a reference of its module.

        Raises:
            CheckFailed: the kernel did otherwise than expected.
        """
        return self._do("unload", rmmod(self.name), expect)

    def parameter(self, name: str) -> str:
        """Return a module parameter's value, as /sys/module shows it."""
        return self._lab.guest.read(f"/sys/module/{self.name}/parameters/{name}")

    def _do(self, action: Action, command: str | Sequence[str], expect: int | None) -> int:
        """Do something to it, write that into the trace, and return its errno if it is the one expected."""
        if self._observer:
            result, span = self._observer.clock.run(command)
        else:
            result, span = self._lab.guest.run(command), None
        # From its words: the exit status of insmod, rmmod and echo is 1 whatever the kernel said.
        got = errno_of(result.stderr) if result.status else 0
        if self._observer:
            # It failed in words that `errno_of` does not know, so which errno the kernel gave is lost; the
            # trace must have one, for 0 would say that it succeeded.
            code = errno.EIO if got is None else got
            self._observer.step(action, self.name, errno=-code, span=span)
        return self._settle(action, result, got, expect)

    def _settle(self, doing: str, result: CommandResult, got: int | None, expect: int | None) -> int:
        """Return what came of it, if that was expected."""
        if got is not None and expect in (None, got):
            return got
        wanted = f"; expected {name_of(expect)}" if expect else ""
        if not result.status:
            raise CheckFailed(f"{self.name}: {doing} succeeded{wanted}")
        said = result.stderr.strip().splitlines()[-1:] or [f"{result.command} said nothing"]
        # At once, for a transition that was in the way may end.
        facts = gather_refusal_facts(self._lab.guest, self.name)
        # insmod and bash name the errno alone; which of the many reasons for EINVAL it was, the kernel
        # logs.
        last = self._lab.guest.run("dmesg | tail -n 1").stdout.strip()
        raise Refused(
            f"{self.name}: {doing} failed with {name_of(got)} ({said[0]}){wanted}",
            subject=self.name, action=doing, errno=got, said=said[0],
            hint=f"the kernel's last line: {last}", facts=facts,
        )  # fmt: skip


def not_enabled(name: str) -> CheckFailed:
    """Return the error for a livepatch that was loaded and does not show in sysfs."""
    return CheckFailed(
        f"{name} was loaded, and is not in /sys/kernel/livepatch: its init function did not call "
        "klp_enable_patch(), or hid that it failed"
    )


class LivepatchSubject(ModuleSubject):
    """A livepatch in a guest; see `ModuleSubject` for `expect`.

    Args:
        deadline_s: seconds a transition may take.
        stuck: gets the pending tasks of a transition that outlasted it.
        slow: gets the pending tasks of a transition that lasts, every few seconds.
    """

    def __init__(
        self,
        lab: Lab,
        module: Module,
        path: str,
        *,
        deadline_s: float,
        stuck: _Listener,
        slow: _Listener | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(lab, module, path, observer)
        self._deadline_s = deadline_s
        self._stuck = stuck
        self._slow = slow

    def load(self, parameters: str = "", *, wait: bool = True, expect: int | None = 0) -> int:
        """Load it, which enables it, and wait for its transition.

        Args:
            parameters: as insmod takes them.
            wait: whether to wait until the transition is complete.
            expect: see the class.

        Raises:
            CheckFailed: the kernel did otherwise than expected.
            TransitionStuck: the transition outlasted its deadline.
        """
        # insmod returns once klp_enable_patch() has started the transition, which then goes on without it.
        got = super().load(parameters, expect=expect)
        if wait and not got:
            self.wait()
            self.look()
        return got

    def unload(self, *, expect: int | None = 0) -> int:
        """Remove it with rmmod, once the kernel has given its own reference of it back.

        Raises:
            CheckFailed: the kernel did otherwise than expected.
        """
        # Not where it is to be refused: what is enabled, or was forced, is held for good.
        if expect == 0:
            self._lab.livepatches.wait_put(self.name)
        return super().unload(expect=expect)

    def look(self) -> None:
        """Write into the trace what sysfs shows now, for rules that compare it with the events (L1)."""
        if self._observer:
            self._observer.sysfs()

    def observe(
        self, command: str, pattern: str, *, moment: str = "", rules: Sequence[str] = (),
        other: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Run a command that shows what the livepatch changes; hold its output against a pattern (L5).

        Args:
            pattern: must be found (`re.search`) in the output; or one of `other`.
            moment: in words, such as ``enabled``; by default what sysfs says.
            rules: further rules that this observation shows.

        Raises:
            Misbehaved: the output has no such thing.
        """
        output = self._lab.guest.run(command).stdout.strip()
        held = any(re.search(each, output) for each in (pattern, *other))
        when = moment or ("enabled" if self.enabled else "not enabled")
        if self._observer:
            self._observer.behaviour(
                patch=self.name, moment=when, command=command, pattern=" or ".join((pattern, *other)),
                output=output, held=held, rules=tuple(rules),
            )  # fmt: skip
        if not held:
            raise Misbehaved(self.name, when, command, pattern, output)
        return output

    def wait(self, *, deadline_s: float | None = None) -> None:
        """Wait until it is in no transition.

        Raises:
            TransitionStuck: it still is, after `deadline_s` or the settings' deadline.
        """
        self._lab.livepatches.wait_transition(
            self.name, deadline_s=deadline_s or self._deadline_s,
            stuck=self._told_to(self._stuck), slow=self._told_to(self._slow),
        )  # fmt: skip

    def _told_to(self, listener: _Listener | None) -> _Listener:
        """Return what writes down whom a transition waits for, and tells a listener."""

        def tell(tasks: tuple[PendingTask, ...]) -> None:
            if self._observer:
                self._observer.awaited(self.name, tasks)
            if listener:
                listener(tasks)

        return tell

    def wait_gone(self) -> None:
        """Wait until sysfs shows it no longer: the kernel frees it after its last transition.

        Raises:
            CheckFailed: it is still there at the deadline.
        """
        self._lab.livepatches.wait_gone(self.name, deadline_s=self._deadline_s)

    def disable(self, *, wait: bool = True, expect: int | None = 0) -> int:
        """Write 0 to `enabled`; with `wait` until it is gone from sysfs.

        Raises:
            CheckFailed: the kernel did otherwise than expected, or it does not go.
            TransitionStuck: the transition outlasted its deadline.
        """
        # EBUSY while another livepatch is in transition: the kernel has one at a time
        # (__klp_disable_patch, klp_transition_patch).
        got = self._write("disable", "enabled", 0, expect)
        if wait and not got:
            self.wait()
            self.wait_gone()
            self.look()
        return got

    def enable(self, *, wait: bool = True, expect: int | None = 0) -> int:
        """Write 1 to `enabled`: reverse a transition that disables it.

        The kernel takes the 1 for nothing else (enabled_store, kernel/livepatch/core.c): a livepatch that
        is disabled to the end can only be unloaded and loaded again.

        Raises:
            CheckFailed, TransitionStuck: as `load`.
        """
        got = self._write("enable", "enabled", 1, expect)
        if wait and not got:
            self.wait()
            self.look()
        return got

    def reverse(self) -> None:
        """Reverse a running transition, and do not wait.

        Raises:
            CheckFailed: there is none.
        """
        state = self.state
        if state is None or not state.transition:
            raise CheckFailed(f"{self.name}: not in transition, so there is nothing to reverse")
        # `enabled` tells where a transition goes, from its start on (__klp_enable_patch,
        # __klp_disable_patch), and enabled_store refuses the value that it has with EINVAL (all
        # kernel/livepatch/core.c).
        self._write("reverse", "enabled", int(not state.enabled), 0)

    def force(self, *, wait: bool = True, expect: int | None = 0) -> int:
        """Write 1 to `force`: switch all remaining tasks at once; the module may stay pinned for good.

        Raises:
            CheckFailed, TransitionStuck: as `load`.
        """
        # force_store refuses with EINVAL a livepatch that is not the one in transition
        # (kernel/livepatch/core.c).
        got = self._write("force", "force", 1, expect)
        if wait and not got:
            self.wait()
        return got

    @property
    def state(self) -> LivepatchState | None:
        """What sysfs shows of it, or None."""
        return self._lab.livepatches.state(self.name)

    @property
    def in_transition(self) -> bool:
        """Whether a transition of it runs."""
        state = self.state
        return state is not None and state.transition

    @property
    def enabled(self) -> bool:
        """Whether sysfs shows it enabled."""
        return self._lab.livepatches.enabled(self.name)

    def pending(self) -> tuple[PendingTask, ...]:
        """Return the tasks that have not reached the target state, with their kernel stacks."""
        tasks = self._lab.livepatches.pending(self.name)
        self._told_to(None)(tasks)
        return tasks

    def _write(self, action: Action, attribute: str, value: int, expect: int | None) -> int:
        # The guest's shell is bash, which names the error of a failed write.
        return self._do(action, write_attribute(self.name, attribute, value), expect)
