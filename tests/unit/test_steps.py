# SPDX-License-Identifier: Apache-2.0
"""One list of steps: in a sound order for every plan, and what a real run did and a dry run prints."""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path

import pytest

from klp import paths
from klp.drive.commands import SYSFS
from klp.drive.job import wishes
from klp.drive.preview import RunChoices, plan_lines, preview
from klp.drive.steps import (
    AwaitLog,
    Disable,
    LifeStep,
    Load,
    LookAtSysfs,
    Moment,
    Observe,
    Unload,
    acts,
    life_of,
    removal_of,
    set_up_of,
)
from klp.modules.plan import LoadedBefore as Entry
from klp.modules.plan import LogLine, LogPhase, Observation, PatchPlan, read_plan, read_plans
from klp.paths import RunLayout
from klp.settings import Settings
from klp.trace import events as ev
from klp.trace.reading import read_events

RECORDINGS = Path(__file__).parents[1] / "data/events/real"
SAMPLES = read_plans(paths.SAMPLE_PLANS)
OWN = tuple(read_plan(file) for file in sorted(paths.PATCHES.glob("*/patch.toml")))


def made() -> Iterator[PatchPlan]:
    """Yield a plan of each shape there is: with and without a livepatch, loads, observations, log lines."""
    loads = (Entry(module="a", parameters="x=1"), Entry(module="b"))
    seen = (Observation(command="true", before="x", after="y"), Observation(command="id", enabled="z"))
    log = tuple(LogLine(when=phase, pattern="p") for phase in LogPhase)
    for livepatch, count, watched, told in product(("fix", ""), range(3), (False, True), (False, True)):
        if livepatch or count:
            yield PatchPlan(
                name=f"{livepatch or 'plain'} {count} {watched:d} {told:d}", summary="s",
                livepatch=livepatch, load=loads[:count], observe=seen if watched else (),
                log=log if told else (),
            )  # fmt: skip


PLANS = (*SAMPLES, *OWN, *made())
each_plan = pytest.mark.parametrize("plan", PLANS, ids=[each.name for each in PLANS])


def names(steps: Sequence[LifeStep], kind: type[Load | Unload | Disable]) -> list[str]:
    return [each.module for each in steps if isinstance(each, kind)]


# --- the list ------------------------------------------------------------------------------------------


@each_plan
def test_all_that_is_loaded_is_unloaded_in_reverse(plan: PatchPlan) -> None:
    steps = life_of(plan)
    loaded = names(steps, Load)
    assert names(steps, Unload) == loaded[::-1]
    assert loaded == [*(each.module for each in plan.load), *([plan.livepatch] if plan.livepatch else [])]


@each_plan
def test_what_may_be_a_livepatch_is_disabled_right_before_it_is_unloaded(plan: PatchPlan) -> None:
    actions = acts(life_of(plan))
    for before, step in pairwise(actions):
        if isinstance(step, Unload):
            assert before == Disable(step.module, if_there=step.module != plan.livepatch)


@each_plan
def test_each_thing_is_seen_in_its_moment(plan: PatchPlan) -> None:
    steps = list(life_of(plan))
    own = [n for n, each in enumerate(steps) if getattr(each, "module", None) == plan.livepatch]
    loads = [n for n, each in enumerate(steps) if isinstance(each, Load)]
    if Observe(Moment.BEFORE) in steps:
        at = steps.index(Observe(Moment.BEFORE))
        assert all(n < at for n in loads if n not in own)
        assert not own or at < own[0]
    if not plan.livepatch:
        assert not any(isinstance(each, LookAtSysfs) for each in steps)
        return
    load, look, disable, unload = own
    assert steps[look] == LookAtSysfs(plan.livepatch)
    within = {Observe(Moment.ENABLED): (look, disable), AwaitLog(LogPhase.ENABLED): (look, disable),
              Observe(Moment.AFTER): (disable, unload), AwaitLog(LogPhase.DISABLED): (disable, unload),
              AwaitLog(LogPhase.UNLOADED): (unload, len(steps))}  # fmt: skip
    for step, (first, last) in within.items():
        assert step not in steps or first < steps.index(step) < last
    assert load < look < disable < unload


@each_plan
def test_all_that_the_plan_wants_seen_is_seen_once(plan: PatchPlan) -> None:
    steps = life_of(plan)
    moments = [each.moment for each in steps if isinstance(each, Observe)]
    wanted = [m for m in (Moment.BEFORE, Moment.ENABLED, Moment.AFTER)
              if any(getattr(each, m) for each in plan.observe)]  # fmt: skip
    assert moments == (wanted if plan.livepatch else wanted[:1])
    phases = [each.phase for each in steps if isinstance(each, AwaitLog)]
    expected = [phase for phase in LogPhase if any(each.when is phase for each in plan.log)]
    assert phases == (
        expected if plan.livepatch else [each for each in expected if each is LogPhase.UNLOADED]
    )
    assert steps[: len(set_up_of(plan))] == set_up_of(plan)


def test_a_module_of_which_nothing_is_known_is_removed_as_if_it_were_a_livepatch() -> None:
    assert removal_of("a") == (Disable("a", if_there=True), Unload("a"))


# --- what a real run did -------------------------------------------------------------------------------


def recorded(kernel: str, tmp_path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return what was done in each plan of a recorded run, as it stands in its trace."""
    file = tmp_path / "events.jsonl"
    file.write_bytes(gzip.decompress((RECORDINGS / f"samples-{kernel}.jsonl.gz").read_bytes()))
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for _, event in read_events(file):
        if isinstance(event, ev.Plan):
            name = event.name
        elif isinstance(event, ev.Step):
            found.setdefault(name, []).append((event.action, event.subject))
    return found


def done(plan: PatchPlan, livepatch: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Return what the steps of a plan come to, where it is known which modules are livepatches."""
    steps = (
        each for each in acts(life_of(plan)) if not isinstance(each, Disable) or livepatch(each.module)
    )
    return [(type(each).__name__.lower(), each.module) for each in steps]


def printed(plan: PatchPlan, livepatch: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Return what the lines of a dry run would do."""
    found = []
    for line in plan_lines(plan, life_of(plan)):
        words = shlex.split(line, comments=True)
        if words[:1] == ["insmod"]:
            found.append(("load", Path(words[1]).stem))
        elif words[:1] == ["rmmod"]:
            found.append(("unload", words[1]))
        elif words[-1:] and words[-1].startswith(f">{SYSFS}"):
            name = Path(words[-1].removeprefix(">")).parent.name
            found += [("disable", name)] if livepatch(name) else []
    return found


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_a_real_run_took_the_steps_that_a_dry_run_prints(kernel: str, tmp_path: Path) -> None:
    ran = recorded(kernel, tmp_path)
    livepatches = {subject for steps in ran.values() for action, subject in steps if action == "disable"}
    assert ran == {plan.name: done(plan, livepatches.__contains__) for plan in SAMPLES}
    assert ran == {plan.name: printed(plan, livepatches.__contains__) for plan in SAMPLES}


@each_plan
def test_every_step_is_printed(plan: PatchPlan) -> None:
    assert printed(plan, lambda _name: True) == done(plan, lambda _name: True)
    lines = "\n".join(plan_lines(plan, life_of(plan)))
    if plan.livepatch:
        for each in plan.observe:
            assert f"\n{each.command}\n" in lines
        assert all(each.pattern in lines for each in plan.log)


def test_what_is_known_to_be_a_plain_module_has_no_transition_to_wait_for(tmp_path: Path) -> None:
    lines = dry("module-target", tmp_path)
    waits = [line for line in lines if "/transition" in line]
    assert len(waits) == 1
    assert "/klp_module_target/" in waits[0]
    assert not [line for line in lines if "/klp_target/" in line and line.startswith("[ ! -d")]


def test_what_may_be_a_livepatch_is_waited_for_and_disabled(tmp_path: Path) -> None:
    lines = dry("states", tmp_path)
    assert len([line for line in lines if "/transition" in line]) == 2
    assert [line for line in lines if "/klp_state/" in line and line.startswith("[ ! -d")]


def test_of_the_samples_those_are_plain_that_no_plan_is_about(tmp_path: Path) -> None:
    waited = " ".join(line for line in dry("samples", tmp_path) if "/transition" in line)
    assert "livepatch_callbacks_demo/" in waited
    assert "livepatch_callbacks_mod/" not in waited


# --- the whole dry run, where nothing is built ----------------------------------------------------------


def dry(words: str, tmp_path: Path, **choices: bool | int) -> list[str]:
    settings = Settings(cache=str(tmp_path / "cache"), kernel="6.12", accelerator="tcg")
    given = RunChoices(**choices)  # type: ignore[arg-type]
    lines = list(preview(wishes(words.split()), settings, given, RunLayout(Path("RUN"))))
    assert not (tmp_path / "cache").exists()
    return lines


def test_what_is_not_known_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    lines = dry("version-banner", tmp_path)
    assert lines[:4] == [
        "# tcg: the settings ask for it",
        "# the image of kernel 6.12 is not built; that comes first",
        "klp image build 6.12",
        "klp build version-banner --kernel 6.12 -o RUN/modules",
    ]
    assert "insmod /run/klp/modules/klp_version_banner.ko" in lines
    assert not any(line.startswith("qemu") for line in lines)


def test_sources_without_a_plan(tmp_path: Path) -> None:
    source = tmp_path / "fix.c"
    source.write_text("int x;\n")
    lines = dry(str(source), tmp_path)
    assert "insmod /run/klp/modules/LIVEPATCH.ko" in lines
    assert any("no patch.toml" in line for line in lines)


def test_choices_are_told(tmp_path: Path) -> None:
    plain = dry("samples", tmp_path)
    lines = dry("samples", tmp_path, control=True, repeat=3, force=True, consistency=True, retry_lost=True)
    assert [line for line in plain if line not in lines] == []
    added = "\n".join(line for line in lines if line not in plain)
    for word in ("without probes", "3 times", "force", "klpconsistency", "once more", "dynamic_debug"):
        assert word in added
    assert lines.count("rmmod livepatch_sample") == 2
    assert lines.count("cat /sys/kernel/livepatch/livepatch_sample/enabled  # must be 1") == 1


def test_a_plan_for_another_kernel_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "fix"
    folder.mkdir()
    (folder / "Kbuild").write_text("obj-m += fix.o\n")
    (folder / "fix.c").write_text("int x;\n")
    plan = 'name = "fix"\nsummary = "s"\nlivepatch = "fix"\nkernels = ["7.2"]\n'
    (folder / "patch.toml").write_text(plan)
    assert dry(str(folder), tmp_path)[-1] == "# nothing here is for kernel 6.12: the run ends here"
    (folder / "patch.toml").write_text(plan.replace("7.2", "6.12"))
    assert "insmod /run/klp/modules/fix.ko" in dry(str(folder), tmp_path)


def test_of_a_livepatch_that_stays_nothing_is_unloaded() -> None:
    plan = PatchPlan(
        name="n", summary="s", livepatch="fix", load=(Entry(module="a"),), stays="no exit",
        observe=(Observation(command="true", after="y"),),
    )  # fmt: skip
    assert life_of(plan) == (
        Load("a"), Load("fix"), LookAtSysfs("fix"), Disable("fix"), Observe(Moment.AFTER),
    )  # fmt: skip
