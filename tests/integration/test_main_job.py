# SPDX-License-Identifier: Apache-2.0
"""The main job as a user runs it: `klp run` on real kernels, and what its folder holds."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from klp import paths
from klp.paths import RunLayout
from klp.trace.tracer import PROBES

SAMPLES = {
    "livepatch_sample",
    "livepatch_shadow_mod",
    "livepatch_shadow_fix1",
    "livepatch_shadow_fix2",
    "livepatch_callbacks_mod",
    "livepatch_callbacks_busymod",
    "livepatch_callbacks_demo",
}
# What a run of the samples decides on every kernel; the others need a scenario of their own.
SHOWN_BY_SAMPLES = {
    *("T1", "T2", "T3", "T4", "T5", "T6", "T7", "T13", "T14"),
    *("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8"),
    *("C1", "C2", "C3", "L1", "L2", "L4", "L5", "L6"),
}


@pytest.fixture(scope="module")
def main_run(klp, tmp_path_factory):
    """One run of the seven samples on the default kernel: run.json as printed, and its folder."""
    folder = tmp_path_factory.mktemp("main") / "run"
    done = klp("run", "--json", "--control", "--kernel", "6.12", "--out", folder)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    return json.loads(done.stdout), RunLayout(folder)


@pytest.fixture(scope="module")
def events(main_run):
    return [json.loads(line) for line in main_run[1].events.read_text().splitlines()]


def plan(result, name):
    [found] = [each for each in result["plans"] if each["name"] == name]
    return found


@pytest.mark.vm("6.12")
class TestSamples:
    def test_all_seven_are_run_and_held(self, main_run):
        result, _ = main_run
        assert set(result["provenance"]["modules"]) == SAMPLES
        assert {each["name"].split(" ")[0].replace("-", "_") for each in result["plans"]} == SAMPLES
        assert {each["verdict"] for each in result["plans"]} == {"held"}
        assert result["verdict"] == "held"

    def test_printed_result_is_the_one_in_the_folder(self, main_run):
        result, layout = main_run
        assert json.loads(layout.summary.read_text()) == result

    def test_transitions_agree_with_the_kernels_own_log(self, main_run):
        """Counted here from dmesg.log on its own, by plan: between one canary and the next."""
        result, layout = main_run
        spans = re.split(r"\] klp: ", layout.dmesg.read_text())[1:]
        assert len(spans) == len(result["plans"])
        for span, each in zip(spans, result["plans"], strict=True):
            assert span.startswith(f"{each['name']} [")
            for target, word in ((1, "patching"), (0, "unpatching")):
                logged = span.count(f"livepatch: '{each['livepatch']}': {word} complete")
                traced = [t for t in each["transitions"] if t["target"] == target]
                assert len(traced) == logged == (1 if each["livepatch"] else 0)
                assert all(t["outcome"] == "complete" for t in traced)

    def test_every_task_is_accounted_for(self, main_run):
        """Tasks that switched: as many both ways, give or take those that came and went between."""
        for each in main_run[0]["plans"]:
            for transition in each["transitions"]:
                assert sum(transition["tasks"].values()) > 50
                assert transition["twice"] == []

    def test_busy_task_is_named_with_its_function(self, main_run):
        [patching] = [
            t
            for t in plan(main_run[0], "livepatch-callbacks-demo (busy)")["transitions"]
            if t["target"] == 1
        ]
        sleepers = [s for s in patching["stragglers"] if "sleeping in busymod_work_func" in s["reasons"]]
        assert len(sleepers) == 1
        assert sleepers[0]["comm"].startswith("kworker/")
        assert sleepers[0]["switched_by"]
        assert patching["passes"] > 1

    def test_shadow_variables_balance_with_the_log(self, main_run):
        """fix1 prints a line for each variable it makes, and one for each it destroys."""
        fix1 = plan(main_run[0], "livepatch-shadow-fix1")
        text = "\n".join(fix1["log"])
        assert fix1["shadow"]["allocated"] == text.count("livepatch_fix1_dummy_alloc: dummy @") > 0
        assert fix1["shadow"]["freed"] == text.count("prevented leak @") > 0
        assert fix1["shadow"]["left"] == []
        fix2 = plan(main_run[0], "livepatch-shadow-fix2")
        assert fix2["shadow"]["allocated"] == fix2["shadow"]["freed"] > fix1["shadow"]["allocated"]
        assert fix2["shadow"]["found"] > 0  # its counter is got again for every later check

    def test_what_the_samples_can_show_is_decided(self, main_run):
        verdicts = {each["rule"]["id"]: each["verdict"] for each in main_run[0]["rules"]}
        assert "violated" not in verdicts.values()
        assert {rule for rule, verdict in verdicts.items() if verdict == "held"} >= SHOWN_BY_SAMPLES

    def test_a_recorded_run_is_judged_the_same_again(self, main_run, klp):
        result, layout = main_run
        again = klp("analyze", "--json", layout.root)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == result["rules"]

    def test_what_held_a_transition_up_is_told(self, main_run, klp):
        told = klp("analyze", main_run[1].root).stdout
        assert "sleeping in busymod_work_func, which this livepatch changes; " in told

    def test_callbacks_come_in_the_documented_order(self, main_run):
        calls = plan(main_run[0], "livepatch-callbacks-demo")["callbacks"]
        by_object = {}
        for call in calls:
            by_object.setdefault(call["object"], []).append(call["kind"])
        order = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"]
        assert by_object == {"vmlinux": order, "livepatch_callbacks_mod": order}
        assert [call["result"] for call in calls if call["kind"] == "pre_patch"] == [0, 0]
        assert all(call["duration_ns"] > 0 for call in calls)

    def test_events_fit_the_published_schema(self, events):
        schema = json.loads((paths.PROBE_SOURCES / "events.schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        by_type = {event["type"]: event for event in events}
        for event in by_type.values():
            validator.validate(event)
        wanted = {"header", "init", "start", "pass", "attempt", "complete", "object", "callback", "end"}
        wanted |= {"shadow_alloc", "shadow_free", "shadow_free_all", "shadow_freed", "mark"}
        assert wanted <= set(by_type)

    def test_streams_are_whole(self, events):
        for probe in PROBES:
            own = [event for event in events if event["probe"] == probe]
            assert [event["seq"] for event in own] == list(range(len(own)))
            assert own[0]["type"] == "header"
            assert own[-1]["type"] == "end"
            assert own[-1]["events"] == len(own) - 1
            assert own[-1]["lost"] == 0

    def test_folder_describes_itself(self, main_run):
        result, layout = main_run
        known = result["provenance"]
        assert known["kernel"].startswith("6.12")
        assert known["accelerator"] in ("tcg", "kvm")
        assert len(known["image_digest"]) == 16
        assert re.match(r"\d+\.\d+", known["qemu"])
        assert "klptransition.bpf.c" in known["probes"]
        assert layout.console.read_text(errors="replace").startswith("[    0.000000]")
        assert "livepatch_sample" in layout.dmesg.read_text()
        assert not layout.disk.exists()
        assert len(list(layout.modules.glob("*.ko"))) == len(SAMPLES)


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
def test_other_kernels(klp, tmp_path, kernel):
    """Smoke: the project's own two livepatches, whose callbacks and shadow variable a trace must show."""
    folder = tmp_path / "run"
    done = klp("run", "version-banner", "module-target", "--json", "--kernel", kernel, "--out", folder)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    result = json.loads(done.stdout)
    assert result["provenance"]["kernel"].startswith(f"{kernel}.")
    assert {each["verdict"] for each in result["plans"]} == {"held"}
    assert "violated" not in {each["verdict"] for each in result["rules"]}
    target = plan(result, "module-target")
    assert target["shadow"]["allocated"] == target["shadow"]["freed"] == 1
    assert {call["kind"] for call in target["callbacks"]} == {
        "pre_patch", "post_patch", "pre_unpatch", "post_unpatch",
    }  # fmt: skip
    assert all(sum(t["tasks"].values()) > 50 for each in result["plans"] for t in each["transitions"])
