# SPDX-License-Identifier: Apache-2.0
"""What a scenario has to work with: one livepatch, in a guest nobody has used.

A scenario mostly reads like this::

    @scenario("enable-again", "disabled in mid-life, unloaded, loaded and enabled again", quick=True)
    def enable_again(stage: Stage) -> None:
        stage.set_up()                  # what patch.toml's `load` names; `before` is observed
        stage.load()                    # the livepatch, with patch.toml's parameters; waits
        stage.observe(Moment.ENABLED)
        stage.livepatch.disable()       # see klp.drive.subject for all of them
        stage.observe(Moment.AFTER)
        stage.unload()
        stage.tear_down()               # the modules that set_up loaded

A scenario loads, disables, reverses and forces by `stage.livepatch`, by `stage.module(...)` and by what
`stage.case` ships, and never by a command of its own: they write what they do into the trace, where the
rules look for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

from klp.analysis.calls import FunctionCalls
from klp.analysis.diagnosis import Misbehaviour
from klp.analysis.result import PatchedFunctions
from klp.check.candidate import Candidate
from klp.check.changed import namesakes, unpatched
from klp.check.damage import find_damage
from klp.check.resident import module_of_the_kernel
from klp.drive import steps
from klp.drive.calls import CallCounter, new_functions, untold
from klp.drive.case import Case, TestedGuest
from klp.drive.kernel_log import KernelLog
from klp.drive.steps import LifeStep, Moment, life_of, removal_of, set_up_of
from klp.drive.subject import LivepatchSubject, Misbehaved, ModuleSubject, Refused, not_enabled
from klp.drive.trace import Trace
from klp.errors import CheckFailed, KlpError
from klp.klog.expected import Expected
from klp.model import Kernel
from klp.modules.plan import LogPhase, module_name

# What the kernel itself logs is there at once; for what a livepatch logs later, patch.toml has `settle`.
_LOG_S = 2.0
# Names the events by which calls are counted.
_COUNTED = "klp_calls"
_DOING = {steps.Load: "loading", steps.Disable: "disabling", steps.Unload: "unloading"}
# Prints NAME[TID] of every task with code of module {} on its kernel stack.
# Only of tasks that sleep or are preempted: of one that runs on another CPU the kernel gives no stack
# (__unwind_start, arch/x86/kernel/unwind_orc.c), so to find none does not say that nobody is in it.
_RUNNING = (
    "grep -ls '\\[{}\\]' /proc/[0-9]*/task/[0-9]*/stack | while read -r f; do t=${{f%/stack}}; "
    'printf "%s[%s]\\n" "$(cat $t/comm)" "${{t##*/}}"; done'
)


class NotApplicable(KlpError):
    """A scenario does not apply to this livepatch, or could not show anything; the message says why.

    Raise it also where what the scenario is about did not come about, such as a transition that was over
    before it could be reversed: a scenario never holds on no observation.
    """


class Stage:
    """One scenario's guest and livepatch.

    Attributes:
        candidate: the livepatch, its plan, and all modules that its sources gave.
        kernel: what it was built for.
        case: ships further modules and livepatches by a word: `Case.module`, `Case.livepatch`. A word is
            a folder (also one of patches/), a .c file, a .ko, or a module of the kernel's own samples
            and selftests, such as ``test_klp_livepatch``.
        guest: runs commands: `TestedGuest.run`, `read`, `put`, `version`.
        trace: what the probes see: `Trace.events`, `transitions`, `history`.
        log: the kernel log: `KernelLog.find`, `wait`.
        livepatch: the livepatch, shipped, not loaded.
        counter: counts the calls of the livepatch's own functions; `perform` arms it.
        quick: whether only a first look is wanted (``--quick``).
        loaded: the modules that `set_up` loaded, in order.
        before_unload: called when the livepatch, disabled, is about to be unloaded by `unload`.
    """

    def __init__(
        self,
        case: Case,
        candidate: Candidate,
        objects: tuple[PatchedFunctions, ...],
        tell: Callable[[str], None],
        *,
        quick: bool,
    ) -> None:
        self.case = case
        self._tell = tell
        self._part = ""
        self.candidate = candidate
        self.kernel: Kernel = candidate.kernel
        self.guest: TestedGuest = case.guest
        self.trace: Trace = case.trace
        self.log: KernelLog = case.log
        self.quick = quick
        self.loaded: list[ModuleSubject] = []
        self._parameters: dict[str, str] = {}
        self.faults: list[str] = []
        self.misbehaved: list[Misbehaviour] = []
        self.inside: tuple[str, ...] = ()
        self.before_unload: Callable[[], None] = lambda: None
        self._heard: dict[str, str] = {}
        self.notes: list[str] = []
        self.expects = tuple(Expected(each.pattern, each.reason) for each in candidate.plan.expect)
        self._objects = objects
        self.livepatch: LivepatchSubject = case.patch(candidate.livepatch)
        self.counter = CallCounter(self.guest, new_functions(candidate.livepatch), _COUNTED)

    @property
    def objects(self) -> tuple[PatchedFunctions, ...]:
        """What the livepatch changes, object by object, functions as ``name,sympos``: as sysfs shows it.

        Only for a scenario that was declared with ``informed=True``.

        Raises:
            NotApplicable: it is not known, for the livepatch cannot be loaded.
        """
        if not self._objects:
            raise NotApplicable("what it changes is not known, for it could not be loaded")
        return self._objects

    @property
    def functions(self) -> tuple[tuple[str, str], ...]:
        """The functions it changes, as (object, function) without position; see `objects`."""
        return tuple((each.object, name.split(",")[0]) for each in self.objects for name in each.functions)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The objects that are modules, loaded or not; see `objects`."""
        return tuple(each.object for each in self.objects if each.object != "vmlinux")

    @property
    def commands(self) -> tuple[str, ...]:
        """The author's commands that show what is changed, and so call the changed functions."""
        return tuple(each.command for each in self.candidate.plan.observe)

    def module(self, name: str) -> ModuleSubject:
        """Return a module: one that the livepatch's own sources gave, shipped, else one of the kernel's.

        What one of the kernel's needs is loaded by then.

        Raises:
            NotApplicable: there is none of that name.
        """
        found = self.candidate.modules.get(module_name(name))
        if found is None:
            subject = module_of_the_kernel(self.case, name)
            if subject is None:
                raise NotApplicable(f"{name} is neither built with it nor a module of the guest's kernel")
            return subject
        return self.case.patch(found) if found.livepatch else self.case.plain(found)

    def set_up(self, *, without: Sequence[str] = ()) -> None:
        """Load what patch.toml's `load` names, in order, but for `without`; observe `before`.

        Raises:
            CheckFailed, TransitionStuck: a module, or a livepatch below, could not be loaded.
        """
        for step in set_up_of(self.candidate.plan):
            left_out = step.module in without if isinstance(step, steps.Load) else bool(without)
            if not left_out:
                self._take(step)

    @property
    def stays(self) -> str:
        """Why its module stays loaded for good; empty where it can be unloaded."""
        return self.candidate.plan.stays

    def unload(self) -> None:
        """Unload the livepatch, which must be disabled; note in `inside` which tasks are in its code now.

        Should the guest die of it, they are who ran code that is no longer there. One that stays is left
        where it is, and a note says so.

        Raises:
            Refused: the kernel did not let it go.
            CheckFailed: a probe is dead.
        """
        if self.stays:
            self.note(f"not unloaded, for it stays: {self.stays}")
            return
        self.trace.mark()  # with the module go its symbols, by which the probes name who called
        if self.case.debug:
            find_damage(self.guest)  # with the symbols go the names of who allocated and freed, too
        # Nothing but the functions it replaces is waited for: a timer, a work item or a kthread of its own
        # may still run its code, and a module's reference count does not know of them.
        self.inside = self.running()
        self.before_unload()
        self.livepatch.unload()

    def _load(self, name: str, parameters: str) -> None:
        subject = self.module(name)
        implied = name in self.candidate.implied  # nobody asked for it
        if name not in self.candidate.modules and subject.loaded:
            if not implied:  # of the kernel's own, such as the disk's driver: it cannot be had otherwise
                self.note(f"{name} was loaded already, with whatever parameters")
            return
        try:
            subject.load(parameters)
        except Refused as refused:
            if not implied:
                raise
            self.note(f"{refused.message}: what is changed in {name} was not tried")
            return
        self.loaded.append(subject)
        self._parameters[subject.name] = parameters

    def tear_down(self) -> None:
        """Unload what was loaded by `set_up`, the last one first.

        Where the livepatch stays, they do, too: it may hold them.

        Raises:
            CheckFailed, TransitionStuck: one did not go.
        """
        while self.loaded and not self.stays:
            self._take_all(removal_of(self.loaded[-1].name))

    def live(self) -> None:
        """Take every step of the plan, from the first load to the last module's removal.

        Raises:
            CheckFailed, TransitionStuck: one could not be taken.
        """
        self._take_all(life_of(self.candidate.plan))

    def _take_all(self, wanted: Iterable[LifeStep]) -> None:
        for step in wanted:
            self._take(step)

    def tell(self, words: str) -> None:
        """Say how far it is to whoever watches: ``cycle 12 of 60``; a life tells of its steps by itself."""
        self._part = words
        self._tell(words)

    def _take(self, step: LifeStep) -> None:
        if isinstance(step, steps.Act):
            doing = f"{_DOING[type(step)]} {step.module}"
            self._tell(f"{self._part}, {doing}" if self._part else doing)
        match step:
            case steps.Load(name, parameters):
                self.load() if name == self.livepatch.name else self._load(name, parameters)
            case steps.LookAtSysfs():
                pass  # `load` has looked
            case steps.Observe(moment):
                self.observe(moment)
            case steps.AwaitLog(phase):
                self.await_log(phase)
            case steps.Disable(name, if_there):
                subject = self._subject(name)
                if isinstance(subject, LivepatchSubject) and (not if_there or subject.state):
                    subject.disable()
            case steps.Unload(name):
                self._remove(name)
            case _:
                assert_never(step)

    def _subject(self, name: str) -> ModuleSubject | None:
        """Return the livepatch, or what `set_up` loaded, by its name; None if it was there before."""
        return {each.name: each for each in (*self.loaded, self.livepatch)}.get(name)

    def _remove(self, name: str) -> None:
        subject = self._subject(name)
        if subject is self.livepatch:
            self.unload()
        elif subject is not None:
            subject.unload()
            self.loaded.remove(subject)

    def put_back(self) -> None:
        """Load those livepatches of `set_up` again that the livepatch replaced, so that it can once more.

        Raises:
            CheckFailed, TransitionStuck: one could not be.
        """
        for subject in self.loaded:
            # A replaced livepatch is freed, though its module stays: sysfs shows it no more, and writing
            # to `enabled` cannot bring it back. Its module has to go and come again
            # (klp_free_replaced_patches_async, kernel/livepatch/core.c).
            if isinstance(subject, LivepatchSubject) and not subject.state:
                subject.unload()
                subject.load(self._parameters[subject.name])

    def load(self, *, wait: bool = True, expect: int | None = 0) -> int:
        """Load the livepatch with patch.toml's parameters; see `LivepatchSubject.load`.

        Raises:
            NotApplicable: it was loaded before, and stays.
            CheckFailed: the kernel did otherwise than expected.
            TransitionStuck: the transition outlasted its deadline.
        """
        if self.stays and self.livepatch.loaded:
            raise NotApplicable(f"it stays, and this loads it a second time: {self.stays}")
        got = self.livepatch.load(self.candidate.plan.parameters, wait=wait, expect=expect)
        if not got and not self._objects:
            self._objects = self._changes()
        return got

    def _changes(self) -> tuple[PatchedFunctions, ...]:
        state = self.livepatch.state
        if state is None:
            raise not_enabled(self.livepatch.name)
        return tuple(PatchedFunctions(object=each.name, functions=each.functions) for each in state.objects)

    @property
    def known_objects(self) -> tuple[PatchedFunctions, ...]:
        """What is known of `objects`: nothing where it was never loaded."""
        return self._objects

    def observe(self, moment: Moment) -> None:
        """Run the author's commands and hold what they print against patch.toml; a difference is a fault.

        Does nothing where patch.toml has no [[observe]] for the moment.
        """
        namesakes: tuple[str, ...] | None = None
        for each in self.candidate.plan.observe:
            # A load that is refused after patching began is undone (klp_cancel_transition): all is as
            # before it.
            pattern = getattr(each, Moment.BEFORE if moment is Moment.REFUSED else moment)
            before = self._said(each.command)
            # Without its target a command was not run before, and then there is nothing to be as it was.
            if not pattern or (moment is Moment.REFUSED and before is None):
                continue
            try:
                said = self.livepatch.observe(
                    each.command, pattern, moment=moment.value, rules=self.candidate.plan.rules
                )
            except Misbehaved as wrong:
                said = wrong.output
                # Only now, and once a moment: to read /proc/kallsyms takes an emulated CPU half a second.
                if namesakes is None:
                    namesakes = self._why_unchanged() if moment is Moment.ENABLED else ()
                misbehaviour = Misbehaviour(moment.value, each.command, pattern, said, before, namesakes)
                self.misbehaved.append(misbehaviour)
            self._heard[each.command] = said

    def _said(self, command: str) -> str | None:
        """Return what a command said last, or None if it was not run yet."""
        return self._heard.get(command)

    def _why_unchanged(self) -> tuple[str, ...]:
        """Return, in words, what may keep an enabled livepatch from changing what its author expects."""
        state = self.livepatch.state
        if state is None:
            return ()
        return (*unpatched(state), *self._namesakes())

    def _namesakes(self) -> tuple[str, ...]:
        """Return, in words, the changed functions whose name is in their object several times."""
        return namesakes(self.listed(), self.objects) if self._objects else ()

    def listed(self) -> str:
        """Return the lines of /proc/kallsyms with the names of the functions that it changes."""
        names = "|".join(sorted({re.escape(name) for _, name in self.functions}))
        return self.guest.run(["grep", "-E", f" [tT] ({names})(\\s|$)", "/proc/kallsyms"]).stdout

    def await_log(self, when: LogPhase) -> None:
        """Wait, up to patch.toml's `settle`, for its log lines of a phase; one missing is a fault."""
        for each in self.candidate.plan.log:
            if each.when is when:
                try:
                    self.log.wait(each.pattern, deadline_s=max(self.candidate.plan.settle, _LOG_S))
                except CheckFailed:
                    self.fault(f"the kernel log has no line with {each.pattern!r} when {when.value}")

    def running(self) -> tuple[str, ...]:
        """Return the tasks with code of the livepatch's module on their kernel stack, as ``name[pid]``."""
        script = _RUNNING.format(self.livepatch.name)
        return tuple(self.guest.run(script).stdout.splitlines())

    def counted(self) -> tuple[FunctionCalls, ...]:
        """Return how often each of the livepatch's own functions ran by now, and write that into the trace.

        A copy of it under another name has functions of its own, which are not counted.

        Raises:
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        # Before anything is asked of the guest: a panic is then told as one, and not as silence.
        self.guest.lab.machine.check_alive()
        found = self.counter.read() or untold(self._objects)
        self.case.tell_calls(self.livepatch.name, found)
        return found

    def fault(self, words: str) -> None:
        """Say what is wrong with the livepatch, in the words of its author, and go on."""
        self.faults.append(words)

    def note(self, words: str) -> None:
        """Say what was seen that is no fault, but worth knowing: numbers, how often, by which way."""
        self.notes.append(words)
