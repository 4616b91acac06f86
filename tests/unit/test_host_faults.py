# SPDX-License-Identifier: Apache-2.0
"""Faults of the host, of the guest and of klp itself are told as theirs, and never as a livepatch's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from test_check_plan import KO, image

from klp.analysis.checked import CheckResult
from klp.analysis.evidence import Verdict
from klp.analysis.result import PlanResult
from klp.check import host, memory
from klp.check.candidate import Wanted
from klp.check.engine import CheckRun
from klp.check.plan import CheckOrder, targets
from klp.check.scenarios.cpus import one_cpu
from klp.check.stage import NotApplicable, Stage
from klp.cli.check import exit_of
from klp.drive.lifecycle import lost_result
from klp.drive.run import _verdict
from klp.errors import (
    BootFailed,
    BuildFailed,
    CheckFailed,
    DiskFull,
    ExitCode,
    GuestPanicked,
    GuestSilent,
    GuestStalled,
    HostLacks,
    HostStalled,
    Interrupted,
    KlpError,
    OwnFault,
    QemuGone,
    TraceLost,
    VmLost,
)
from klp.guest.ssh import CommandResult, Guest
from klp.modules.plan import PatchPlan
from klp.modules.sources import find_source
from klp.paths import CheckLayout
from klp.progress import Silent
from klp.records.reading import read_check
from klp.settings import Settings
from klp.trace import events as ev
from klp.trace import tracer as tracing
from klp.trace.store import EventStore
from klp.trace.tracer import ProbeProcess, Tracer

PLAN = PatchPlan(name="p", summary="", livepatch="p")
UNSEEN, VIOLATED, HELD = Verdict.NOT_OBSERVED, Verdict.VIOLATED, Verdict.HELD


# --- klp's own -------------------------------------------------------------------------------------------


def check_of(folder: Path) -> CheckRun:
    livepatch = Wanted("banner", find_source(str(KO)), None)
    order = CheckOrder((livepatch,), targets([(image("6.12"), "tcg")]), ("build", "static"))
    return CheckRun(order, CheckLayout(folder), Settings(), progress=Silent())


def failing(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_a_failure_of_klps_own_costs_one_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "static_faults", failing(ZeroDivisionError("a bug")))
    run = check_of(tmp_path)
    failure = run.execute()
    assert isinstance(failure, OwnFault)
    assert failure.message == "banner static: klp itself failed: ZeroDivisionError: a bug"
    found = read_check(tmp_path).whole()
    [build, read] = found.outcomes
    assert build.verdict is HELD
    assert read.verdict is UNSEEN
    shown = "6.12/banner/static/traceback.txt"
    assert read.reasons == (f"klp itself failed: ZeroDivisionError: a bug ({shown})",)
    assert found.verdict is not VIOLATED
    assert found.complete
    assert "ZeroDivisionError: a bug" in (tmp_path / shown).read_text()
    assert failure.exit_code is ExitCode.CHECK_FAILED


@pytest.mark.parametrize(
    "error", [HostLacks("no QEMU"), Interrupted("enough"), OSError(28, "No space left")]
)
def test_what_the_host_lacks_ends_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(host, "static_faults", failing(error))
    run = check_of(tmp_path)
    failure = run.execute()
    assert isinstance(failure, HostLacks | Interrupted)
    assert not isinstance(failure, OwnFault)
    assert run.result.error == failure.message
    assert [each.verdict for each in run.result.outcomes] == [HELD]
    if isinstance(error, OSError):
        assert isinstance(failure, DiskFull)
        assert failure.message.startswith(f"{tmp_path}: no space left")


def test_a_build_without_room_is_no_fault_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "cc1: fatal error: error writing to /tmp/x.s: No space left on device"
    monkeypatch.setattr(host, "modules_of", failing(BuildFailed("x.c: fatal", output=words)))
    run = check_of(tmp_path)
    assert isinstance(run.execute(), DiskFull)
    assert run.result.outcomes == ()
    monkeypatch.setattr(host, "modules_of", failing(BuildFailed("x.c: fatal", output="x.c: no")))
    run = check_of(tmp_path)
    assert run.execute() is None
    assert run.result.outcomes[0].verdict is VIOLATED


def test_a_lost_guest_is_no_verdict() -> None:
    assert exit_of(cast("CheckResult", SimpleNamespace(violated=(), lost=True))) == ExitCode.VM_LOST


# --- a probe that is silent or gone ----------------------------------------------------------------------


class Guestlike:
    """Answers what a tracer asks, and writes what its probe writes; the probe lives, or does not."""

    def __init__(self, *, alive: bool) -> None:
        self.alive = alive
        self.ended = threading.Event()

    def check_alive(self) -> None:
        """The machine runs."""

    def run(self, command: str, **_: object) -> CommandResult:
        if command.startswith("tail"):
            return CommandResult(command, 0, "out of luck\n", "")
        gone = command.startswith("kill -0") and not self.alive
        return CommandResult(command, int(gone), "", "")

    def stream(self, command: str) -> Iterator[bytes]:
        del command
        head = ev.Header(
            probe="klptransition", seq=0, ts_ns=1, schema=ev.SCHEMA, kernel="k", attached=(), missing=()
        )
        yield b"==> /run/klp/trace/klptransition.jsonl <==\n" + msgspec.json.encode(head) + b"\n"
        self.ended.wait(60)


@pytest.mark.parametrize(
    ("alive", "says"),
    [
        (True, r"^the probe klptransition gave no mark within \d+ s$"),
        (False, "^the probe klptransition ended before its mark: out of luck$"),
    ],
)
def test_a_probe_that_gives_no_mark_is_a_loss_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool, says: str
) -> None:
    monkeypatch.setattr(tracing, "_DRAIN_S", 0.5 if alive else 60.0)
    monkeypatch.setattr(tracing, "_GONE_LOOK_S", 0.05)
    guest = Guestlike(alive=alive)
    with EventStore(tmp_path / "events.jsonl") as store:
        tracer = Tracer(cast("Guest", guest), store)
        tracer.follow((ProbeProcess("klptransition", 7),))
        with pytest.raises(TraceLost, match=says) as caught:
            tracer.mark()
        guest.ended.set()
    assert caught.value.exit_code is ExitCode.VM_LOST
    assert caught.value.by_nobody
    assert not isinstance(caught.value, CheckFailed)


# --- losses ----------------------------------------------------------------------------------------------

BY_NOBODY = [QemuGone("x"), HostStalled("x"), TraceLost("x"), BootFailed("x"), GuestSilent("x")]
BY_SOMEBODY = [GuestPanicked("x"), GuestStalled("x")]


def test_who_is_to_blame_for_a_loss() -> None:
    assert all(each.by_nobody for each in BY_NOBODY)
    assert not any(each.by_nobody for each in BY_SOMEBODY)


@pytest.mark.parametrize("lost", [*BY_NOBODY, *BY_SOMEBODY], ids=lambda lost: type(lost).__name__)
def test_a_plan_is_not_blamed_for_what_its_host_did(lost: VmLost) -> None:
    result = lost_result(PLAN, lost)
    # Of a guest that is silent nobody has asked why: a command may hang in the livepatch.
    blamed = lost in BY_SOMEBODY or isinstance(lost, GuestSilent)
    assert result.verdict is (VIOLATED if blamed else UNSEEN)
    assert [each.verdict for each in result.checks] == [result.verdict]
    assert result.error == "x"
    assert _verdict(lost, (), ()) is result.verdict


@pytest.mark.parametrize("error", [HostLacks("x"), DiskFull("x"), Interrupted("x"), OwnFault("x")])
def test_a_run_that_its_host_ended_blames_nobody(error: KlpError) -> None:
    assert _verdict(error, (), ()) is UNSEEN
    assert _verdict(error, (plan(HELD),), ()) is UNSEEN  # what was left undone is not held
    assert _verdict(error, (plan(VIOLATED),), ()) is VIOLATED  # what was found is true whatever came then


def plan(verdict: Verdict) -> PlanResult:
    return msgspec.structs.replace(lost_result(PLAN, GuestPanicked("x")), verdict=verdict)


@pytest.mark.parametrize("error", [None, CheckFailed("x")])
def test_any_other_end_is_as_it_was(error: KlpError | None) -> None:
    assert _verdict(error, (plan(HELD),), ()) is (VIOLATED if error else HELD)


# --- CPUs that do not go, caches that are not counted ----------------------------------------------------


class Cpus:
    """A guest of two CPUs, of which the second goes offline, or does not."""

    def __init__(self, *, there: bool = True, refusal: str = "") -> None:
        self._there, self._refusal = there, refusal

    @property
    def guest(self) -> Cpus:
        return self

    def read(self, path: str) -> str:
        assert path.endswith("/online")
        return "0-1"

    def run(self, command: Any) -> CommandResult:
        if isinstance(command, list):
            return CommandResult("test", int(not self._there), "", "")
        return CommandResult(command, int(bool(self._refusal)), "", self._refusal)


def test_a_cpu_that_does_not_go_is_the_guests_doing() -> None:
    one_cpu(cast("Stage", Cpus()))
    busy = "bash: echo: write error: Device or resource busy"
    with pytest.raises(NotApplicable, match=r"^the guest did not take CPU 1 offline: .*resource busy$"):
        one_cpu(cast("Stage", Cpus(refusal=busy)))


def test_a_kernel_without_hotplug_is_told_by_its_option() -> None:
    with pytest.raises(NotApplicable, match="CONFIG_HOTPLUG_CPU"):
        one_cpu(cast("Stage", Cpus(there=False)))


def test_a_kernel_that_counts_no_objects_is_told_by_its_option() -> None:
    assert memory.parse_large("") == {}
    sizes = memory.parse("KernelStack: 1984 kB\n")
    assert "CONFIG_SLUB_DEBUG" in memory.uncounted(sizes)
    text = "pid/order:2\npid/reclaim_account:0\npid/slabs:3\nnr_slab_unreclaimable:25\n"
    assert memory.uncounted(sizes | memory.parse_large(text)) == ""
