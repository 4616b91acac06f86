# SPDX-License-Identifier: Apache-2.0
"""What a check has to do, as units: what is in them, which may be tried, and who performs them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest
from test_modules_modinfo import KO, RELEASE

from klp.analysis.checked import NOT_TRIED, ScenarioOutcome
from klp.analysis.diagnosis import DOES_NOT_END
from klp.analysis.evidence import Verdict
from klp.analysis.result import PatchedFunctions
from klp.check.candidate import Wanted, livepatches_of
from klp.check.engine import CheckRun
from klp.check.gate import LOST_EARLY, Learned, why_not
from klp.check.host import UnitOutcome, perform_unit
from klp.check.outcomes import Outcomes
from klp.check.plan import (
    CheckOrder,
    CheckUnit,
    TargetKernel,
    outcome_of,
    planned_units,
    survey_for,
    targets,
)
from klp.check.registry import NAMES, SCENARIOS
from klp.check.static import STATIC
from klp.model import Image, Kernel
from klp.modules.plan import Skip
from klp.modules.sources import find_source
from klp.paths import CheckLayout
from klp.progress import Silent
from klp.records.reading import read_check
from klp.settings import Settings

HELD, VIOLATED, UNSEEN = Verdict.HELD, Verdict.VIOLATED, Verdict.NOT_OBSERVED
CHANGES = (PatchedFunctions(object="vmlinux", functions=("f,1",)),)


def image(name: str, release: str = RELEASE) -> Image:
    here = Path()
    kernel = Kernel(name, release, "", here, here, here, here, here, None)
    return Image("debian", name, kernel, here, here, "")


def units(
    folder: Path, *words: str, kernels: tuple[str, ...] = ("6.12",), **more: object
) -> tuple[CheckUnit, ...]:
    order = CheckOrder(
        livepatches_of(words), targets([(image(each), "tcg") for each in kernels]),
        **{"scenarios": NAMES, **more},
    )  # fmt: skip
    return planned_units(order, Settings(), folder)


def test_every_unit_is_one_of_its_own_and_can_go_to_another_machine(tmp_path: Path) -> None:
    found = units(tmp_path, "version-banner", str(KO), kernels=("6.1", "6.12"), repeat=2)
    assert len({each.key for each in found}) == len(found)
    assert len(found) == 2 * 2 * (len(STATIC) + 2 * len(SCENARIOS))
    assert pickle.loads(pickle.dumps(found)) == found
    assert hash(found[0].livepatch.source) == hash(pickle.loads(pickle.dumps(found[0].livepatch.source)))


def test_what_must_come_first_is_planned_before(tmp_path: Path) -> None:
    seen: set[tuple[str, str, str, int]] = set()
    for unit in units(tmp_path, "version-banner", kernels=("6.1", "6.12"), repeat=2):
        assert set(unit.first) <= seen
        assert all(key[:2] == unit.key[:2] for key in unit.first)
        seen.add(unit.key)
        names = [key[2] for key in unit.first]
        assert ("life" in names) is (unit.scenario not in (*STATIC, "life"))


def test_a_unit_has_the_settings_of_its_guest(tmp_path: Path) -> None:
    for unit in units(tmp_path, "version-banner", kernels=("6.1",)):
        wanted = SCENARIOS[unit.scenario].cpus if unit.scenario in SCENARIOS else None
        assert (unit.settings.kernel, unit.settings.cpus) == ("6.1", wanted or Settings().cpus)


def test_two_trees_of_one_release_have_folders_of_their_own() -> None:
    names = ("/a/linux", "/b/linux", "6.12", "/c/linux")
    found = targets([(image(each), "tcg") for each in names])
    assert [each.label for each in found] == [RELEASE, f"{RELEASE}-2", "6.12", f"{RELEASE}-3"]
    assert [each.name for each in found] == list(names)
    layout = CheckLayout(Path("/check"))
    assert len({layout.scenario(each.label, "fix", "life").root for each in found}) == 4


def test_a_command_repeats_its_unit(tmp_path: Path) -> None:
    [*_, unit] = units(tmp_path, "samples", quick=True, scenarios=("build", "life"))
    words = outcome_of(unit, HELD).command
    assert words == (
        f"klp check samples --kernel 6.12 --livepatch {unit.livepatch.name} --scenario life --quick"
    )


def test_a_command_has_the_deadline_that_was_given(tmp_path: Path) -> None:
    [*_, unit] = units(tmp_path, "version-banner", scenarios=("life",))
    assert "--deadline" not in outcome_of(unit, VIOLATED).command
    for seconds, words in ((20.0, "--deadline 20"), (0.25, "--deadline 0.25")):
        short = replace(unit, settings=Settings(deadline_s=seconds))
        assert outcome_of(short, VIOLATED).command.endswith(words)


def unit_of(tmp_path: Path, scenario: str = "held-up", **changes: object) -> CheckUnit:
    found = next(each for each in units(tmp_path, "version-banner") if each.scenario == scenario)
    return replace(found, **changes)


def came(
    unit: CheckUnit, verdict: Verdict, reason: str = "", lost: bool = False
) -> dict[tuple[str, str, str, int], ScenarioOutcome]:
    outcome = outcome_of(unit, verdict, (reason,) if reason else ())
    outcome = msgspec.structs.replace(outcome, lost=lost)
    return {outcome.key: outcome}


@pytest.mark.parametrize(
    ("scenario", "built_for", "objects", "life", "why"),
    [
        ("held-up", RELEASE, CHANGES, (HELD,), ""),
        ("held-up", RELEASE, CHANGES, (VIOLATED, "it leaks"), ""),
        ("held-up", RELEASE, CHANGES, (VIOLATED, f"{DOES_NOT_END}: x"), "does not end: see `life`"),
        ("held-up", RELEASE, (), (VIOLATED, "refused"), "could not be loaded and enabled: see `life`"),
        ("held-up", RELEASE, (), (UNSEEN, "it is not for it"), ""),
        ("held-up", RELEASE, CHANGES, (UNSEEN, "gone", True), "the guest was lost in `life`: see `life`"),
        ("held-up", RELEASE, CHANGES, (VIOLATED, "it died", True), "not tried, for the guest was lost in"),
        ("static", RELEASE, CHANGES, (UNSEEN, "gone", True), ""),
        ("life", RELEASE, CHANGES, (UNSEEN, "gone", True), ""),
        ("held-up", "", (), None, "could not be built: see `build`"),
        ("static", "", (), None, "could not be built: see `build`"),
        ("static", "5.10", (), None, ""),
        ("held-up", "5.10", (), None, "built for another kernel: see `static`"),
        ("static", "6.1.0-9", (), None, "built for 6.1.0-9, and this kernel is"),
        ("build", "", (), None, ""),
    ],
)
def test_what_is_not_worth_trying(
    tmp_path: Path,
    scenario: str,
    built_for: str,
    objects: tuple[PatchedFunctions, ...],
    life: tuple[Verdict | str | bool, ...] | None,
    why: str,
) -> None:
    found = came(unit_of(tmp_path, "life"), *life) if life else {}
    learned = Learned(built_for, objects)
    said = why_not(unit_of(tmp_path, scenario), found, learned, {RELEASE, "6.1.0-9"})
    assert why in said
    assert bool(said) is bool(why)


def test_a_guest_lost_in_a_survey_keeps_the_scenarios_from_being_tried_that_wait_for_it(
    tmp_path: Path,
) -> None:
    learned = Learned(RELEASE, (), "QEMU was killed")
    said = why_not(unit_of(tmp_path, "held-up"), {}, learned, {RELEASE})
    assert said == f"{LOST_EARLY}QEMU was killed"
    assert not why_not(unit_of(tmp_path, "static"), {}, learned, {RELEASE})


def test_what_the_author_leaves_out_is_left_out(tmp_path: Path) -> None:
    unit = unit_of(tmp_path, "cycles")
    plan = unit.livepatch.plan
    assert plan is not None
    learned = Learned(RELEASE, CHANGES)

    def said(**changes: object) -> str:
        own = replace(unit.livepatch, plan=msgspec.structs.replace(plan, **changes))
        return why_not(replace(unit, livepatch=own), {}, learned, {RELEASE})

    assert said(skip=(Skip(scenario="cycles", reason="pins"),)) == "pins"
    assert said(skip=(Skip(scenario="life", reason="pins"),)) == ""
    assert said(kernels=("6.1",)) == "patch.toml says it is for 6.1 only"


def test_a_survey_is_no_unit_that_is_told(tmp_path: Path) -> None:
    unit = unit_of(tmp_path, "on-top")
    survey = survey_for(unit, "life")
    assert survey.survey
    assert not unit.survey
    assert survey.key not in {each.key for each in units(tmp_path, "version-banner")}


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def test_of_scenarios_not_tried_for_one_reason_the_first_is_told(tmp_path: Path) -> None:
    own = [each for each in units(tmp_path, "version-banner") if each.scenario != "build"]
    order = CheckOrder(livepatches_of(["version-banner"]), targets([(image("6.12"), "tcg")]), ())
    notes = Notes()
    outcomes = Outcomes(order, own, CheckLayout(tmp_path), notes, None)
    for each in own:
        outcomes.record(outcome_of(each, UNSEEN, (f"{NOT_TRIED}it could not be built",)))
    assert len(outcomes.found) == len(own) > 3
    assert len(notes.lines) == 1
    outcomes.record(outcome_of(own[0], VIOLATED, ("it leaks",)))
    assert notes.lines[1].endswith("violated: it leaks")


def test_every_outcome_is_written_down_and_found_by_a_later_part_of_the_check(tmp_path: Path) -> None:
    one, other = livepatches_of(["version-banner", "shadow-extension"])
    kernels = targets([(image("6.12"), "tcg")])
    order = CheckOrder((one, other), kernels, ("build", "life"), quick=True, repeat=2)
    planned = {each.key: each for each in planned_units(order, Settings(), tmp_path)}

    def unit(which: Wanted, scenario: str, repetition: int = 1) -> CheckUnit:
        return planned["6.12", which.name, scenario, repetition]

    first = Outcomes(order, tuple(planned.values()), CheckLayout(tmp_path), Silent(), None)
    first.record(outcome_of(unit(other, "life", 2), HELD))
    first.record(outcome_of(unit(one, "build"), HELD))
    found = read_check(tmp_path).whole()
    assert [each.key for each in found.outcomes] == [unit(one, "build").key, unit(other, "life", 2).key]
    assert not found.complete
    again = Outcomes(order, tuple(planned.values()), CheckLayout(tmp_path), Silent(), found)
    assert set(again.found) == {each.key for each in found.outcomes}
    for each in planned.values():
        if each.key not in again.found:
            again.record(outcome_of(each, UNSEEN, ("no",)))
    whole = read_check(tmp_path).whole()
    assert (whole.complete, len(whole.outcomes)) == (True, 6)
    assert [each.key for each in whole.outcomes] == list(planned)


def check_of(tmp_path: Path, kernels: tuple[TargetKernel, ...], executor: object = None) -> CheckRun:
    livepatch = Wanted("banner", find_source(str(KO)), None)
    order = CheckOrder((livepatch,), kernels, ("build", "static"))
    return CheckRun(order, CheckLayout(tmp_path), Settings(), progress=Silent(), executor=executor)


def test_another_executor_performs_units_in_processes_of_its_own(tmp_path: Path) -> None:
    """Only what can be pickled gets there and back; what is made ready there is that process' own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        elsewhere = check_of(tmp_path / "other", targets([(image("6.12"), "tcg")]), processes)
        (tmp_path / "other").mkdir()
        assert elsewhere.execute() is None
    (tmp_path / "own").mkdir()
    here = check_of(tmp_path / "own", targets([(image("6.12"), "tcg")]))
    assert here.execute() is None
    for run in (elsewhere, here):
        verdicts = {each.scenario: each.verdict for each in run.result.outcomes}
        assert verdicts == {"build": HELD, "static": HELD}
        assert run.result.complete


class Written(Silent):
    """Writes down what is told, as one who watches has it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        self.lines.append(what)
        yield

    @contextmanager
    def under_way(self, what: str) -> Iterator[None]:
        self.lines.append(f"{what} is running")
        yield

    def note(self, line: str) -> None:
        self.lines.append(line)

    def teller(self) -> Callable[[str], None]:
        return self.lines.append


def test_who_watches_is_told_what_is_running_and_how_much_there_is(tmp_path: Path) -> None:
    watching = Written()
    livepatch = Wanted("banner", find_source(str(KO)), None)
    order = CheckOrder((livepatch,), targets([(image("6.12"), "tcg")]), ("build", "static"))
    run = CheckRun(order, CheckLayout(tmp_path), Settings(), progress=watching)
    assert run.execute() is None
    steps = [line.partition(", 0.")[0] for line in watching.lines]
    assert steps == [
        f"checking banner on {RELEASE}: build, static",
        f"building {KO.name}",
        "banner build is running",
        "1/2 banner build: held",
        "banner static is running",
        "2/2 banner static: held",
    ]


class Prepared(Executor):
    """Gives each unit the outcome that was prepared for its scenario; a survey counts as one."""

    def __init__(self, outcomes: dict[str, UnitOutcome]) -> None:
        self.asked: list[str] = []
        self._outcomes = outcomes

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[UnitOutcome]:
        unit = args[0]
        assert isinstance(unit, CheckUnit)
        name = "survey" if unit.survey else unit.scenario
        self.asked.append(name)
        done: Future[UnitOutcome] = Future()
        outcome = self._outcomes[name]
        done.set_result(outcome if unit.survey else replace(outcome, outcome=outcome_of(unit, HELD)))
        return done


def test_a_guest_that_is_lost_in_a_survey_is_told_of(tmp_path: Path) -> None:
    """A survey has no outcome of its own: what it was for would else be held, or tried in vain."""
    executor = Prepared({
        "build": UnitOutcome(None, built_for=RELEASE), "survey": UnitOutcome(None, lost="QEMU was killed"),
    })  # fmt: skip
    order = CheckOrder((Wanted("banner", find_source(str(KO)), None),), targets([(image("6.12"), "tcg")]),
                       ("build", "on-top"))  # fmt: skip
    run = CheckRun(order, CheckLayout(tmp_path), Settings(), progress=Silent(), executor=executor)
    assert run.execute() is None
    assert executor.asked == ["build", "survey"]
    [_, on_top] = run.result.outcomes
    assert (on_top.verdict, on_top.lost) == (UNSEEN, True)
    assert run.result.headlines[0].startswith("guest lost: on-top on 6.12: not tried, for the guest was")
    assert run.result.headlines[0].endswith(": QEMU was killed")
    assert (run.result.verdict, run.result.complete) == (UNSEEN, True)


def test_a_module_for_another_kernel_is_told_by_the_kernels_of_the_check(tmp_path: Path) -> None:
    run = check_of(tmp_path, targets([(image("6.12"), "tcg"), (image("6.1", "6.1.0-9"), "tcg")]))
    assert run.execute() is None
    found = {(each.kernel, each.scenario): each for each in run.result.outcomes}
    assert found["6.12", "static"].verdict is HELD
    assert found["6.1", "static"].verdict is UNSEEN
    assert found["6.1", "static"].reasons == (f"built for {RELEASE}, and this kernel is 6.1.0-9",)
    alone = check_of(tmp_path, targets([(image("6.1", "6.1.0-9"), "tcg")]))
    assert alone.execute() is None
    assert alone.result.outcomes[1].verdict is VIOLATED


def test_a_unit_alone_is_performed_by_a_host_that_is_made_for_it(tmp_path: Path) -> None:
    order = CheckOrder((Wanted("banner", find_source(str(KO)), None),), targets([(image("6.12"), "tcg")]),
                       ("build",))  # fmt: skip
    [unit] = planned_units(order, Settings(), tmp_path)
    done = perform_unit(unit, ())
    assert done.outcome is not None
    assert (done.outcome.verdict, done.built_for) == (HELD, RELEASE)
    assert pickle.loads(pickle.dumps(done)) == done
