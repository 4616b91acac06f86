# SPDX-License-Identifier: Apache-2.0
"""One test's guest: what a test may do with it, and what is judged and kept at the test's end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.analysis.calls import FunctionCalls, fields_of
from klp.analysis.evidence import Verdict
from klp.analysis.result import RUN_SCHEMA, PlanResult, RunResult
from klp.analysis.rules.registry import RuleVerdict
from klp.drive.commands import guest_path
from klp.drive.ending import LastLook, ended_verdict, look_last
from klp.drive.kernel_log import KernelLog
from klp.drive.subject import LivepatchSubject, ModuleSubject
from klp.drive.trace import Trace
from klp.errors import CheckFailed, KlpError, VmLost
from klp.guest.livepatch import Livepatches, PendingTask
from klp.guest.ssh import CommandResult
from klp.kernels import series
from klp.klog import canary, expected
from klp.lab.ready import ReadyGuest, ReadyKernel
from klp.model import Module
from klp.paths import CacheLayout
from klp.records.writing import add_pending, write_run
from klp.settings import Settings


class TestedGuest:
    """A pristine guest, the test's own.

    Attributes:
        kernel: what the kernel was asked for by: ``6.12``, or the folder of a build tree.
        release: ``uname -r``.
        version: its first two numbers, to compare with: ``(6, 12)``.
        livepatches: control of its livepatches by name.
        lab: machine and connections, for what is not offered here.
    """

    __test__ = False  # pytest: no class of tests, whatever its name begins with

    def __init__(self, ready_guest: ReadyGuest) -> None:
        self.lab = ready_guest.lab
        self.kernel = self.lab.image.kernel.name
        self.release = self.lab.image.kernel.release
        self.version = series(self.release)
        self.livepatches: Livepatches = self.lab.livepatches

    def run(
        self, command: str | Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None
    ) -> CommandResult:
        """Run a command as root to its end; its status is not judged (see `CommandResult.must`).

        Args:
            command: a line for the guest's shell, or words that are quoted for it.
            stdin: what it reads.
            timeout_s: seconds it may take.

        Raises:
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        return self.lab.guest.run(command, stdin=stdin, timeout_s=timeout_s)

    def read(self, path: str) -> str:
        """Return a small text file, without its last newline.

        Raises:
            CheckFailed: there is none.
        """
        return self.lab.guest.read(path)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file in the guest.

        Raises:
            CheckFailed: the guest refused it.
        """
        self.lab.guest.write(path, content).must(f"writing {path}")

    def put(self, source: Path, destination: str) -> None:
        """Copy a file into the guest.

        Raises:
            CheckFailed: the guest refused it.
        """
        self.lab.guest.put(source, destination)

    def get(self, source: str, destination: Path) -> None:
        """Copy a file out of the guest.

        Raises:
            CheckFailed: it cannot be read there, or written here.
        """
        self.lab.guest.get(source, destination)


@dataclass(frozen=True, slots=True)
class Promised:
    """What a test's markers say will come of it.

    Attributes:
        log: lines that the kernel log must hold, and may.
        holds: rules that the trace must show to hold.
        breaks: rules that the trace must show broken.
    """

    log: tuple[expected.Expected, ...] = ()
    holds: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()

    def kept_by(self, verdict: RuleVerdict) -> bool:
        """Whether a verdict is what was promised, or at least no rule broken that nobody spoke of."""
        if verdict.rule.id in self.breaks:
            return verdict.verdict is Verdict.VIOLATED
        if verdict.rule.id in self.holds:
            return verdict.verdict is Verdict.HELD
        return verdict.verdict is not Verdict.VIOLATED


def _broken_promise(verdict: RuleVerdict) -> str:
    events = "; ".join(each.words for each in verdict.evidence[:3])
    shown = f" ({events})" if events and events != verdict.why else ""
    return f"rule {verdict.rule.id} {verdict.verdict.value}: {verdict.why}{shown}"


class Case:
    """One test: its guest, the modules it shipped, what it expects of the kernel log.

    Args:
        name: the test's.
        places: folders that a module's path may be relative to.
        promised: what the test says will come of it.
        livepatch: the module the test is about, where it is about one.

    Attributes:
        verdicts: of the rules, once the trace was judged.
        modules: those it shipped, by name.
        pending: the tasks that held a transition when it was called stuck.
    """

    def __init__(
        self,
        ready_kernel: ReadyKernel,
        ready_guest: ReadyGuest,
        name: str,
        places: Iterable[Path],
        promised: Promised,
        *,
        livepatch: str = "",
    ) -> None:
        ready_guest.begun_at = time.time()
        self._ready_kernel = ready_kernel
        self._ready_guest = ready_guest
        self._name = name
        self._places = tuple(places)
        self._promised = promised
        self.verdicts: dict[str, RuleVerdict] = {}
        self._livepatch = livepatch
        ready_guest.observer.begin(name, livepatch)
        self.modules: dict[str, Module] = {}
        self.pending: tuple[PendingTask, ...] = ()
        self._last_look: LastLook | None = None
        self.guest = TestedGuest(ready_guest)
        self.trace = Trace(ready_guest)
        self.log = KernelLog(ready_guest, ready_kernel.settings.deadline_s)

    def module(self, word: str, name: str | None = None) -> ModuleSubject:
        """Build a plain module, or take it as built before, and ship it.

        Raises:
            UsageError, BuildFailed: there is none, or it cannot be built.
        """
        return self.plain(self._ready_kernel.module(word, self._places, name, livepatch=False))

    def livepatch(self, word: str, name: str | None = None) -> LivepatchSubject:
        """Build a livepatch, or take it as built before, and ship it.

        Raises:
            UsageError, BuildFailed, NotALivepatch: there is none, or it cannot be built.
        """
        return self.patch(self._ready_kernel.module(word, self._places, name, livepatch=True))

    def plain(self, module: Module) -> ModuleSubject:
        """Ship a plain module that is built already."""
        return ModuleSubject(self.guest.lab, module, self._ship(module), self._ready_guest.observer)

    def patch(self, module: Module) -> LivepatchSubject:
        """Ship a livepatch that is built already."""
        return LivepatchSubject(
            self.guest.lab, module, self._ship(module),
            deadline_s=self._ready_kernel.settings.deadline_s, stuck=self._keep_pending,
            observer=self._ready_guest.observer,
        )  # fmt: skip

    def resident(self, module: Module, path: str) -> ModuleSubject:
        """Return a plain module whose file is in the guest already."""
        return ModuleSubject(self.guest.lab, module, path, self._ready_guest.observer)

    @property
    def settings(self) -> Settings:
        """The settings of its guest."""
        return self._ready_kernel.settings

    @property
    def debug(self) -> bool:
        """Whether the guest's kernel looks for faults in memory."""
        return self._ready_kernel.settings.debug

    @property
    def cache(self) -> CacheLayout:
        """The cache that the guest's image is in."""
        return self._ready_kernel.cache

    @property
    def scratch(self) -> Path:
        """A folder on the host for modules that are made for this test alone; it goes with the guest."""
        return self._ready_guest.layout.modules

    @property
    def deadline_s(self) -> float:
        """How many seconds a transition may take."""
        return self._ready_kernel.settings.deadline_s

    def _ship(self, module: Module) -> str:
        path = guest_path(module.name)
        known = self.modules.get(module.name)
        # By `write`: the kept shell takes a module in half the time of SFTP, under emulation 0.2 s less.
        if known != module:
            self.guest.write(path, module.file.read_bytes())
            self.modules[module.name] = module
        return path

    def _keep_pending(self, tasks: tuple[PendingTask, ...]) -> None:
        self.pending = tasks
        add_pending(self._ready_guest.layout, tasks)

    def tell_calls(self, livepatch: str, calls: Iterable[FunctionCalls]) -> None:
        """Write into the trace how often a livepatch's own functions ran."""
        for each in calls:
            self._ready_guest.observer.calls(livepatch, **fields_of(each))

    def close(self, expects: Iterable[expected.Expected] = ()) -> tuple[str, ...]:
        """See that the guest lives, end its trace, and judge it; return the kernel log's lines.

        Args:
            expects: what the kernel log may hold besides what was promised.

        Raises:
            VmLost: the guest was lost since the test's last word.
            CheckFailed: the kernel log overflowed, or a probe is dead.
        """
        # Before anything is asked of the guest: a panic is then told as one, and not as silence.
        self.guest.lab.machine.check_alive()
        # The log goes into the trace before its `end`: L6 and the rules that hold the log against the
        # trace are judged on what stands there.
        lines = self.log.lines()
        excuses = expected.reasons(lines, (*self._promised.log, *expects))
        self._ready_guest.observer.log(lines, excuses)
        self._ready_guest.observer.taint()
        self._ready_guest.observer.end(self._name, self._livepatch)
        self.verdicts = self.trace.verdicts()
        return lines

    def check(self) -> None:
        """See that the guest lives, that its log holds what was expected and nothing worse, and the rules.

        Raises:
            CheckFailed: a report that nobody expected, or nothing where something was expected; a rule
                was broken, or one that the test is about was not seen to hold.
            VmLost: the guest was lost since the test's last word.
        """
        lines, expects = self.close(), self._promised.log
        # L6 is the rule of the kernel log's reports: a test that promises to break it expects one.
        alarms = () if "L6" in self._promised.breaks else expected.unexpected(lines, expects)
        for report in alarms:
            raise CheckFailed("the kernel log holds an unexpected report:\n" + "\n".join(report))
        for one in expected.missing(lines, expects):
            raise CheckFailed(f"the kernel log has no {one.pattern!r}, expected because {one.reason}")
        wrong = [each for each in self.verdicts.values() if not self._promised.kept_by(each)]
        if wrong:
            raise CheckFailed("\n".join(_broken_promise(each) for each in wrong))

    def properties(self) -> list[tuple[str, str]]:
        """Return what the test ran on, as names and values for a JUnit file."""
        known = self._ready_kernel.provenance(())
        return [
            ("klp_kernel", known.kernel),
            ("klp_image", known.image_digest),
            ("klp_accelerator", known.accelerator),
            *((f"klp_module_{name}", module.sha256) for name, module in self.modules.items()),
            *((f"klp_verdict_{rule}", verdict.value) for rule, verdict in self.observed().items()),
        ]

    def observed(self) -> dict[str, Verdict]:
        """Return the verdict on each rule that the trace has something to say on, once it was judged."""
        verdicts = ((name, each.verdict) for name, each in self.verdicts.items())
        return {name: verdict for name, verdict in verdicts if verdict is not Verdict.NOT_OBSERVED}

    def console(self) -> tuple[str, ...]:
        """Return what the guest's console says since the test began; nothing where that is not on it."""
        lines = self.guest.lab.machine.console.text().splitlines()
        try:
            return canary.after(self._ready_guest.canary, lines)
        except CheckFailed:
            return ()

    def last_look(self) -> VmLost | None:
        """Take the guest's kernel log, for its folder, and return how it was lost by then, if it was.

        It is looked at once; nothing is asked of the guest after it.
        """
        if self._last_look is None:
            lab, log = self.guest.lab, self._ready_guest.layout.dmesg
            self._last_look = look_last(lab, log, self.trace.mark)
        return self._last_look.lost

    def keep(self, folder: Path, error: str | None, plans: tuple[PlanResult, ...] = ()) -> None:
        """Have the guest's files kept in `folder`, with what they are, once the guest is ended.

        Args:
            error: why it did not end well, if it did not.
            plans: what is told of livepatches in it.
        """
        layout, store = self._ready_guest.layout, self._ready_guest.tracer.store
        self.last_look()
        failure = self._last_look.failure if self._last_look else ""
        error = "; ".join(each for each in (error, failure) if each) or None
        layout.modules.mkdir(exist_ok=True)
        for module in self.modules.values():
            # The very files, for a crash report names offsets in them, and a build of the same sources may
            # differ.
            (layout.modules / module.file.name).write_bytes(module.file.read_bytes())
        result = RunResult(
            schema=RUN_SCHEMA,
            begun_at=self._ready_guest.begun_at,
            ended_at=time.time(),
            provenance=self._ready_kernel.provenance(self.modules.values()),
            plans=plans,
            events=store.count(),
            lost_events=store.lost(),
            unseen=self._ready_guest.tracer.missing(),
            error=error,
            rules=tuple(self.verdicts.values()),
            verdict=ended_verdict(error, plans),
        )
        write_run(layout, result)
        self._ready_guest.keep_as = folder


def story(error: KlpError) -> str:
    """Return what a failure has to tell, for a test's report: the guest's traces, and none of ours."""
    lines = [error.message]
    report = getattr(error, "report", None)
    if report is not None:
        lines += ["call trace:", *(f"  {frame.strip()}" for frame in report.trace)] if report.trace else []
    elif isinstance(error, VmLost):
        lines += [f"console: {line}" for line in error.console_tail[-10:]]
    output = getattr(error, "output", "")
    lines += [output.rstrip()] if output else []
    return "\n".join([*lines, *([f"({error.hint})"] if error.hint else [])])
