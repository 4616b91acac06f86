# SPDX-License-Identifier: Apache-2.0
"""`klp check` without a guest: what words stand for, the scenarios, check.json and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree as Et

import msgspec
import pytest
from click.testing import CliRunner

from klp import paths
from klp.analysis.acquittal import judged
from klp.analysis.checked import CHECK_SCHEMA, CheckedKernel, CheckedLivepatch, CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.analysis.growth import Meter, Sample, growth, growth_by_calls
from klp.analysis.recording import NotARecord
from klp.check import memory
from klp.check.candidate import livepatches_of
from klp.check.registry import NAMES, SCENARIOS, chosen
from klp.check.stage import Stage
from klp.check.static import STATIC, modinfo_faults
from klp.cli.main import klp
from klp.drive import steps
from klp.drive.subject import LivepatchSubject
from klp.errors import UsageError
from klp.model import Kernel, Module
from klp.modules.plan import Skip, read_plan
from klp.paths import CheckLayout
from klp.records.encoding import encode
from klp.records.finding import find_check_folder, find_folder, find_folders
from klp.records.reading import read_check, read_runs
from klp.records.writing import write_check
from klp.report.check_junit import EVERY_FUNCTION, check_junit
from klp.report.check_table import check_problems, check_totals

HELD, VIOLATED, UNSEEN = Verdict.HELD, Verdict.VIOLATED, Verdict.NOT_OBSERVED
KERNEL = CheckedKernel(
    name="6.12", release="6.12.1-amd64", kernel_digest="0", image_digest="1", accelerator="tcg"
)


def outcome(scenario: str, verdict: Verdict, *reasons: str, lost: bool = False) -> ScenarioOutcome:
    return ScenarioOutcome(
        kernel="6.12", livepatch="fix", scenario=scenario, repetition=1, verdict=verdict, reasons=reasons,
        notes=(), rules={"T1": HELD}, lost=lost, seconds=1.5, command=f"klp check fix -s {scenario}",
        folder=f"6.12/fix/{scenario}",
    )  # fmt: skip


def result(*outcomes: ScenarioOutcome, scenarios: tuple[str, ...] = ("life", "cycles")) -> CheckResult:
    return judged(CheckResult(
        schema=CHECK_SCHEMA, klp="0", qemu="7", begun_at=0.0, ended_at=9.0,
        livepatches=(CheckedLivepatch(name="fix", word="/src/fix", digest="d"),), kernels=(KERNEL,),
        scenarios=scenarios, quick=False, repeat=1, outcomes=outcomes, error=None,
        complete=len(outcomes) == len(scenarios),
    ))  # fmt: skip


def test_scenarios_are_chosen_in_their_own_order() -> None:
    assert chosen(("cycles", "life"), quick=False) == ("build", "life", "cycles")
    assert chosen((), quick=False) == NAMES
    quick = chosen((), quick=True)
    assert set(STATIC) < set(quick)
    assert {name for name in quick if name in SCENARIOS} == {
        name for name, each in SCENARIOS.items() if each.quick
    }
    with pytest.raises(UsageError, match="--scenario livelong: no such scenario"):
        chosen(("life", "livelong"), quick=False)
    with pytest.raises(UsageError, match="--scenario modinfo: it is called static now"):
        chosen(("modinfo",), quick=False)


def test_scenarios_can_be_named_and_stand_in_a_folder() -> None:
    for name in NAMES:
        assert name == "".join(each for each in name.lower() if each.isalnum() or each == "-")


def test_words_to_livepatches() -> None:
    one, *samples = livepatches_of(["version-banner", "samples", "version-banner"])
    assert (one.name, one.alone) == ("version-banner", True)
    assert one.plan is not None
    assert len(samples) > 3
    assert not any(each.alone for each in samples)
    assert all(each.plan and each.plan.livepatch for each in samples)
    assert len({each.name for each in samples}) == len(samples)


def test_names_of_livepatches_are_folders_and_differ(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "my fix!", tmp_path / "b" / "my fix!"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "Kbuild").write_text("obj-m += fix.o\n")
    assert [each.name for each in livepatches_of([str(each) for each in folders])] == ["my-fix", "my-fix-2"]


def test_a_plan_of_plain_modules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Kbuild").write_text("obj-m += m.o\n")
    (tmp_path / "patch.toml").write_text('name = "m"\nsummary = "s"\nload = [{ module = "m" }]\n')
    with pytest.raises(UsageError, match="names no livepatch"):
        livepatches_of([str(tmp_path)])


def test_patch_toml_can_leave_scenarios_out(tmp_path: Path) -> None:
    file = tmp_path / "patch.toml"
    file.write_text(
        'name = "m"\nsummary = "s"\nlivepatch = "m"\n[[skip]]\nscenario = "cycles"\nreason = "pins"\n'
        '[[expect]]\npattern = "WARNING"\nreason = "on purpose"\n'
    )
    plan = read_plan(file)
    assert plan.skip == (Skip(scenario="cycles", reason="pins"),)
    assert plan.expect[0].reason == "on purpose"


def module(**changes: object) -> Module:
    good = Module(
        name="fix", file=Path("fix.ko"), vermagic="6.12.1-amd64 SMP", livepatch=True, depends=(),
        licence="GPL", sha256="",
    )  # fmt: skip
    return Module(**{name: changes.get(name, getattr(good, name)) for name in Module.__slots__})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"livepatch": False}, 'MODULE_INFO(livepatch, "Y") is missing'),
        ({"licence": "Proprietary"}, "MODULE_LICENSE('Proprietary')"),
        ({"licence": ""}, "no MODULE_LICENSE"),
        ({"vermagic": "6.1.0-9 SMP"}, "built for 6.1.0-9, and the kernel is 6.12.1-amd64"),
        ({"name": "x" * 55}, ""),
        ({"name": "x" * 56}, "its name has 56 characters"),
    ],
)
def test_modinfo(changes: dict[str, object], words: str) -> None:
    here = Path()
    kernel = Kernel("6.12", "6.12.1-amd64", "", here, here, here, here, here, None)
    found = modinfo_faults(module(**changes), kernel)
    assert (words in found[0]) if words else not found


def grows(*counts: int) -> tuple[str, ...]:
    return growth([Sample(10 * n, {"kmalloc-64": Meter(count, 64)}) for n, count in enumerate(counts)])


def test_growth_is_told_from_what_comes_and_goes() -> None:
    assert grows(100, 110, 120, 130) == (
        "memory grows: 30 more objects of 64 bytes in kmalloc-64 after 30 cycles, 1.0 a cycle",
    )
    assert grows(100, 110, 120, 119, 130, 140)
    assert grows(100, 120, 140, 150, 180, 200)
    assert grows(100, 110, 120, 160, 140, 150)
    assert not grows(100, 140, 140, 140)
    assert not grows(100, 100, 100, 180, 180, 180)
    assert not grows(100, 110, 100, 110, 100, 110)
    assert not grows(100, 110, 130, 140, 700, 1000)  # by chance
    assert not grows(100, 105, 110, 116)
    assert not grows(100, 130, 90, 101)
    assert not grows(100)


def test_memory_is_read_as_the_kernel_tells_it() -> None:
    text = "kmalloc-64 1234 64\nkmalloc-cg-8 5 8\npid 20 112\nKernelStack:        1984 kB\n"
    assert memory.parse(text) == {
        "kmalloc-64": Meter(1234, 64), "kmalloc-cg-8": Meter(5, 8), "pid": Meter(20, 112),
        "KernelStack": Meter(496, 4096),
    }  # fmt: skip


def test_the_copies_of_a_cache_are_counted_together() -> None:
    """Which of them a module's allocations come from changes with each load."""
    text = "kmalloc-1k 10 1024\nkmalloc-rnd-01-1k 3 1024\nkmalloc-rnd-15-1k 4 1024\n"
    assert memory.parse(text) == {"kmalloc-1k": Meter(17, 1024)}


def test_large_memory_is_what_no_cache_accounts_for() -> None:
    """A slab of `order` n has 2^n pages; those that are reclaimed are counted elsewhere."""
    text = (
        ":0000064/order:0\n:a-0000104/order:1\npid/order:2\n"
        ":0000064/reclaim_account:0\n:a-0000104/reclaim_account:1\npid/reclaim_account:0\n"
        ":0000064/slabs:7\n:a-0000104/slabs:100\npid/slabs:3\nnr_slab_unreclaimable:25\n"
    )
    assert memory.parse_large(text) == {"large kmalloc": Meter(1, 16384)}


def test_check_json_is_written_and_found_again(tmp_path: Path) -> None:
    layout = CheckLayout(tmp_path / "20261121-check")
    layout.root.mkdir()
    told = result(outcome("life", HELD))
    write_check(layout, told)
    for word in (str(layout.root), layout.root.name, "latest"):
        assert read_check(find_check_folder(word, tmp_path)).result == told
    assert not told.complete


def test_a_check_stands_for_the_runs_of_its_scenarios(tmp_path: Path) -> None:
    for scenario in ("life", "cycles"):
        folder = tmp_path / "checked" / "6.12" / "fix" / scenario
        folder.mkdir(parents=True)
        (folder / "events.jsonl").touch()
    unguested = msgspec.structs.replace(outcome("build", HELD), folder="")
    write_check(
        CheckLayout(tmp_path / "checked"), result(unguested, outcome("life", HELD), outcome("cycles", HELD))
    )
    names = [each.name for each in read_runs(find_folders(["checked"], tmp_path))]
    assert names == ["6.12/fix/life", "6.12/fix/cycles"]


def test_the_latest_is_a_run_or_a_check(tmp_path: Path) -> None:
    for name in ("20261121-1", "20261121-3", "20261121-4-of-another-kind"):
        (tmp_path / name).mkdir()
    (tmp_path / "20261121-1/events.jsonl").touch()
    assert find_folder("latest", tmp_path).name == "20261121-1"
    (tmp_path / "20261121-2").mkdir()
    write_check(CheckLayout(tmp_path / "20261121-2"), result(outcome("life", HELD)))
    assert find_folder("latest", tmp_path).name == "20261121-2"
    (tmp_path / "20261121-3/events.jsonl").touch()
    assert find_folder("latest", tmp_path).name == "20261121-3"


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs with a check in it; the settings name it."""
    monkeypatch.setenv("KLP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KLP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs" / "20261121-check"
    (folder / "6.12" / "fix" / "life").mkdir(parents=True)
    (folder / "6.12" / "fix" / "life" / "events.jsonl").touch()
    write_check(CheckLayout(folder), result(outcome("life", VIOLATED), outcome("cycles", HELD)))
    return folder


def klp_runs(*words: str) -> str:
    return CliRunner().invoke(klp, ["runs", *words], catch_exceptions=False).stdout


def test_a_check_is_listed_among_the_runs_and_removed_with_all_in_it(listed: Path) -> None:
    [told] = json.loads(klp_runs("--json"))
    assert (told["run"], told["kind"], told["plans"]) == (listed.name, "check", 2)
    assert told["verdict"] == "violated"
    assert json.loads(klp_runs("--verdict", "held", "--json")) == []
    assert json.loads(klp_runs("--kernel", "6.12", "--json")) == [told]
    assert klp_runs("rm", "--yes", listed.name).startswith("removed")
    assert not listed.exists()


def test_a_check_that_cannot_be_read_is_listed_and_can_be_removed(listed: Path) -> None:
    (listed / "check.json").write_text("{")
    [told] = json.loads(klp_runs("--json"))
    assert "cut or damaged" in told["error"]
    klp_runs("rm", "--yes", listed.name)
    assert not listed.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no check.json in it"),
        (encode(result(outcome("life", HELD)))[:200], "cut or damaged"),
        (b'{"schema": 99}', "of a newer klp (schema 99"),
        (b'{"schema": 0}', "of an older klp"),
    ],
)
def test_a_check_that_cannot_be_read_is_refused(tmp_path: Path, text: bytes | None, words: str) -> None:
    if text is not None:
        (tmp_path / "check.json").write_bytes(text)
    with pytest.raises(NotARecord) as refused:
        read_check(find_check_folder(str(tmp_path), paths.PROJECT)).whole()
    assert words in refused.value.message


def test_what_is_wrong_is_told_with_its_command() -> None:
    told = result(outcome("life", VIOLATED, "it leaks", "and more"), outcome("cycles", HELD))
    [(wrong, text)] = check_problems(told, "/runs/a check")
    assert wrong.scenario == "life"
    assert text.splitlines() == [
        "fix life on 6.12: violated", "  it leaks", "  and more", "  again: klp check fix -s life",
        "  run folder: '/runs/a check/6.12/fix/life'",
    ]  # fmt: skip
    assert check_totals(told) == "1 held, 1 violated, 0 not observed"
    assert check_totals(result(outcome("life", HELD))).endswith("; not complete")


def test_junit_has_a_case_for_every_scenario() -> None:
    names = ("life", "cycles", "cpus", "load", "never")
    told = result(
        outcome("life", HELD), outcome("cycles", VIOLATED, "it leaks"), outcome("cpus", UNSEEN, "no\x00"),
        outcome("load", UNSEEN, "guest lost", lost=True), scenarios=names,
    )  # fmt: skip
    top = Et.fromstring(check_junit(msgspec.structs.replace(told, error="interrupted")))
    [suite] = top
    counts = [suite.get(each) for each in ("tests", "failures", "errors", "skipped")]
    assert counts == ["6", "1", "2", "2"]
    cases = {case.get("name"): [each.tag for each in case] for case in suite.iter("testcase")}
    assert cases == {
        EVERY_FUNCTION: ["skipped"], "life": [], "cycles": ["failure"], "cpus": ["skipped"],
        "load": ["error"], "never": ["error"],
    }  # fmt: skip
    missing = next(case for case in suite.iter("testcase") if case.get("name") == "never")
    assert missing[0].get("message") == "interrupted"


@pytest.mark.parametrize(
    ("more", "calls", "usual", "grows"),
    [
        (500, 500, 0, True),  # an object a call
        (500, 500, 200, True),
        (260, 500, 0, True),  # in every other call
        (100, 500, 0, False),  # caches keep some
        (50, 50, 0, False),  # too few to tell
        (500, 500, 400, False),  # without the livepatch as well
        (-500, 500, 0, False),
    ],
)
def test_memory_that_grows_with_calls_is_told(more: int, calls: int, usual: int, *, grows: bool) -> None:
    before, after = {"kmalloc-1k": Meter(1000, 1024)}, {"kmalloc-1k": Meter(1000 + more, 1024)}
    found = growth_by_calls(before, after, calls, {"kmalloc-1k": usual})
    words = f"memory grows: {more} more objects of 1024 bytes in kmalloc-1k after {calls} calls"
    assert [each.startswith(words) for each in found] == [True] * grows


def test_a_meter_that_is_not_in_both_counts_for_nothing() -> None:
    assert growth_by_calls({}, {"kmalloc-1k": Meter(900, 1024)}, 900, {}) == ()


def test_who_watches_a_life_is_told_what_is_done_to_which_module() -> None:
    told: list[str] = []
    stage = object.__new__(Stage)  # what it has of a guest is not asked for
    stage._tell, stage._part, stage.loaded = told.append, "", []
    stage.livepatch = cast("LivepatchSubject", SimpleNamespace(name="fix"))
    stage._take(steps.Unload("other"))
    stage.tell("life 2 of 2")
    stage._take(steps.LookAtSysfs("fix"))
    stage._take(steps.Disable("other"))
    assert told == ["unloading other", "life 2 of 2", "life 2 of 2, disabling other"]
