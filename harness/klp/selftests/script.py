# SPDX-License-Identifier: Apache-2.0
"""One selftest script in one guest that nobody has used: run, watched, and written down as it goes."""

from __future__ import annotations

import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from klp.analysis.result import Check, check
from klp.analysis.selftest_output import case_results, last_words, logged_cases, open_case, script_outcome
from klp.analysis.selftests import CaseResult, ScriptResult, Status
from klp.errors import Interrupted, KlpError, VmLost
from klp.guest.kernel_log import lines_after, write_canary
from klp.guest.ssh import Guest
from klp.lab.lab import Lab
from klp.progress import Silent
from klp.selftests.plan import ScriptUnit
from klp.selftests.rules import log_checks, trace_checks
from klp.trace.observer import Observer
from klp.trace.tracer import ProbeProcess, traced
from klp.vm.deadlines import deadlines
from klp.waiting import DeadlineMissed, wait_until

# Costs the guest nothing: what is looked at has come to this process already.
_LOOK_S = 0.02
_ARCHIVE = "/root/selftests.tar"
# Elsewhere udev makes it. bash needs it for the <(…) of check_result (functions.sh): without it, a case
# that fails does not say in what its log differs.
_DEV_FD = "ln -sfn /proc/self/fd /dev/fd"
# On 6.1 the scripts take their modules from modprobe. The kernel's own folder is on a read-only disk, so
# ours, with the test modules alone, is mounted over it.
_MODPROBE = (
    'if [ -d lib/modules ]; then mount --bind "lib/modules/$(uname -r)" "/usr/lib/modules/$(uname -r)"; fi'
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Transcript:
    """What a command writes, in a file and in memory, with the time at which each piece came."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._raw = b""
        self._times: list[tuple[int, float]] = [(0, 0.0)]

    def add(self, piece: bytes) -> None:
        """Take a piece as it came."""
        with self._lock, self._file.open("ab") as file:
            file.write(piece)
            self._raw += piece
            self._times.append((len(self._raw), self.seconds))

    def cut(self, length: int) -> None:
        """Drop what came after the first `length` bytes: it was not the script's."""
        with self._lock, self._file.open("r+b") as file:
            self._raw = self._raw[:length]
            file.truncate(length)

    @property
    def seconds(self) -> float:
        """Seconds since the command was started."""
        return round(time.monotonic() - self._begun, 3)

    @property
    def text(self) -> str:
        """All so far."""
        with self._lock:
            # One character a byte, so that positions in the text are positions in the stream.
            return self._raw.decode("ascii", errors="replace")

    def seconds_at(self, position: int) -> float:
        """Return when a position of the text had come."""
        with self._lock:
            found = next((at for length, at in self._times if length >= position), self._times[-1][1])
        return round(found, 3)


def run_script(
    lab: Lab, unit: ScriptUnit, probes: tuple[ProbeProcess, ...], stop: threading.Event
) -> ScriptResult:
    """Run a script in `lab`; whatever befalls it or the guest is told in the result.

    Args:
        probes: those that run in the guest; none for no trace.
        stop: set when the run is to end.

    Raises:
        Interrupted: `stop` was set meanwhile; what the script wrote so far stands in its folder.
    """
    run = _Run(lab, unit, probes, stop)
    try:
        return run.execute()
    finally:
        unit.own.console.write_text(lab.machine.console.text())


def lost_script(unit: ScriptUnit, lost: VmLost) -> ScriptResult:
    """Return the result of a script whose guest did not even come up."""
    return _died(unit, Transcript(unit.output), f"the guest did not come up: {lost.message}", lost)


class _Run:
    def __init__(
        self, lab: Lab, unit: ScriptUnit, probes: tuple[ProbeProcess, ...], stop: threading.Event
    ) -> None:
        self._lab = lab
        self._unit = unit
        self._probes = probes
        self._stop = stop
        unit.own.root.mkdir(parents=True, exist_ok=True)
        self._transcript = Transcript(unit.output)
        self._log: tuple[str, ...] = ()
        self._deadline_s = unit.deadline_s or deadlines(unit.request.accelerator).selftest

    def execute(self) -> ScriptResult:
        """See `run_script`."""
        failure: KlpError | None = None
        exit_status: int | None = None
        try:
            self._ship()
            with self._traced() as observer:
                exit_status = self._run()
                self._keep_log()
                if observer:
                    observer.log(self._log)
                    observer.taint()
        except DeadlineMissed as missed:
            return self._late(missed)
        except VmLost as lost:
            # Nobody can be asked for the log any more: what was printed on the console is all there is of
            # it.
            self._unit.own.dmesg.write_text(self._lab.machine.console.text())
            logged = logged_cases(self._lab.machine.console.text())
            return _died(self._unit, self._transcript, lost.message, lost, logged=logged)
        except KlpError as error:  # of the probes, or of shipping
            failure = error
        return self._conclude(exit_status, failure)

    def _ship(self) -> None:
        guest = self._lab.guest
        guest.put(self._unit.bundle.archive, _ARCHIVE)
        unpack = (
            f"cd /root && tar -xf {_ARCHIVE} && cd {self._unit.bundle.folder} && {_DEV_FD} && {_MODPROBE}"
        )
        guest.run(unpack).must("unpacking the selftests")

    @contextmanager
    def _traced(self) -> Iterator[Observer | None]:
        if not self._probes:
            yield None
            return
        lab, probes = self._lab, self._probes
        with traced(lab.guest, self._unit.own.events, Silent(), probes) as tracer:
            yield Observer(lab.guest, lab.livepatches, tracer.store)

    def _run(self) -> int:
        """Run the script to its end; return its exit status.

        Raises:
            DeadlineMissed: it has not ended in time.
        """
        self._canary = write_canary(self._lab.guest, self._unit.script.name)
        # A stream tells its end, not the exit status; random, so that no script's output is taken for it.
        end = f"klp: exit {secrets.token_hex(6)} "
        # One stream for output and errors, so that they keep the order in which they were written.
        command = (
            f"cd /root/{self._unit.bundle.folder}; export PATH={_PATH} LC_ALL=C; "
            f'./{shlex.quote(self._unit.script.name)} 2>&1; status=$?; echo; echo "{end}$status"'
        )
        self._transcript = Transcript(self._unit.output)
        ended = _follow(self._lab.guest, command, self._transcript)

        def look() -> re.Match[str] | None:
            if self._stop.is_set():
                raise Interrupted("no further result is wanted")
            over = ended()  # before the look: what came last is then in the text
            found = re.search(f"\n{end}(\\d+)\n", self._transcript.text)
            if not found:
                self._lab.machine.check_alive()
                if over:
                    raise self._lab.machine.silent(f"{self._unit.script.name}: the connection broke")
            return found

        found = wait_until(look, what="end", timeout_s=self._deadline_s, every_s=_LOOK_S)
        self._transcript.cut(found.start())
        return int(found[1])

    def _keep_log(self) -> None:
        """Write the whole kernel log down; the script's own lines go to the checks."""
        # Over the second connection: on the first one the script may still be running, past its deadline.
        guest = self._lab.diagnosis
        self._unit.own.dmesg.write_text(guest.run("dmesg").must("reading the kernel log").stdout)
        self._log = lines_after(guest, self._canary)

    def _late(self, missed: DeadlineMissed) -> ScriptResult:
        case = open_case(self._transcript.text)
        where = f"in case {case!r}" if case else "outside of any case"
        try:
            self._keep_log()
        except KlpError as error:
            self._unit.own.dmesg.write_text(f"{error.message}\n")
        return _died(
            self._unit, self._transcript, f"no end within {missed.waited_s:.0f} s, {where}", None,
            checks=log_checks(self._log),
        )  # fmt: skip

    def _conclude(self, exit_status: int | None, failure: KlpError | None) -> ScriptResult:
        cases = _cases(self._unit, self._transcript, exit_status)
        status, message = script_outcome(cases, self._transcript.text, exit_status)
        checks = self._checks()
        if failure is not None:
            # Not the script's fault, but a trace that may lack events says nothing by its silence.
            checks = (check("trace", False, failure.message), *checks)
        if exit_status is None:
            status, message = Status.DIED, failure.message if failure else message
        return ScriptResult(
            name=self._unit.script.name, status=status, exit_status=exit_status,
            seconds=self._transcript.seconds_at(len(self._transcript.text)), message=message,
            report=(), cases=cases, checks=checks, folder=_folder(self._unit),
        )  # fmt: skip

    def _checks(self) -> tuple[Check, ...]:
        events = self._unit.own.events
        judged = trace_checks(events) if events.exists() else ()
        return (*judged, *log_checks(self._log, judged))


def _follow(guest: Guest, command: str, transcript: Transcript) -> Callable[[], bool]:
    """Copy what a command writes until it, or the connection, ends; return what tells that."""

    def copy() -> None:
        for piece in guest.stream(command):
            transcript.add(piece)

    follower = threading.Thread(target=copy, name="follow a selftest", daemon=True)
    follower.start()
    return lambda: not follower.is_alive()


def _cases(
    unit: ScriptUnit, transcript: Transcript, exit_status: int | None, logged: Sequence[str] = ()
) -> tuple[CaseResult, ...]:
    return case_results(unit.script.cases, transcript.text, exit_status, transcript.seconds_at, logged)


def _died(
    unit: ScriptUnit,
    transcript: Transcript,
    message: str,
    lost: VmLost | None,
    *,
    checks: tuple[Check, ...] = (),
    logged: Sequence[str] = (),
) -> ScriptResult:
    """Return the result of a script that did not come to its end."""
    case = open_case(transcript.text, logged)
    what = f"{message} (in case {case!r})" if case and case not in message else message
    said = last_words(transcript.text)
    return ScriptResult(
        name=unit.script.name, status=Status.DIED, exit_status=None, seconds=transcript.seconds,
        message=f"{what}: {said}" if said else what,
        report=lost.report.lines if lost and lost.report else (),
        cases=_cases(unit, transcript, None, logged), checks=checks, folder=_folder(unit),
    )  # fmt: skip


def _folder(unit: ScriptUnit) -> str:
    return str(unit.own.root.relative_to(unit.layout.root))
