# SPDX-License-Identifier: Apache-2.0
"""`klp check` by its real CLI: a good livepatch, one that does not build, an interruption, a lost guest."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as Et

import pytest

from klp import paths
from klp.check.registry import NAMES
from klp.waiting import wait_until

from .conftest import KLP

pytestmark = pytest.mark.vm("6.12")


def outcomes(out):
    return json.loads((out / "check.json").read_text())["outcomes"]


@contextmanager
def checking(*words):
    with subprocess.Popen(
        [KLP, "check", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def banner(tmp_path):
    """The sources of a good livepatch, ours to change."""
    return shutil.copytree(paths.PATCHES / "version-banner", tmp_path / "banner")


def test_a_good_one_is_held_and_one_that_does_not_build_costs_only_itself(klp, banner, tmp_path):
    out, xml, broken = tmp_path / "run", tmp_path / "junit.xml", tmp_path / "broken"
    shutil.copytree(banner, broken)
    (broken / "klp_version_banner.c").write_text("#error not for this kernel\n")
    which = ("-k", "6.12", "-s", "static", "-s", "life", "-s", "cycles", "--quick")
    done = klp("check", banner, broken, *which, "--junit", xml, "-o", out)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {(each["livepatch"], each["scenario"]): each for each in outcomes(out)}
    good = {name: each for (livepatch, name), each in found.items() if livepatch == "version-banner"}
    assert {name: each["verdict"] for name, each in good.items()} == dict.fromkeys(
        ("build", "static", "life", "cycles"), "held"
    )
    assert {"T4", "T6", "L4", "L5", "L6"} <= {
        rule for rule, verdict in good["life"]["rules"].items() if verdict == "held"
    }
    calls = {name: each["calls"] for name, each in good.items() if name in ("life", "cycles")}
    assert {each["new"] for own in calls.values() for each in own} == {"klp_version_proc_show"}
    assert [len(calls[name][0]["tasks"]) for name in ("life", "cycles")] == [1, 6]
    bad = found["version-banner-2", "build"]
    assert bad["verdict"] == "violated"
    assert "#error not for this kernel" in bad["reasons"][0]
    assert found["version-banner-2", "life"]["verdict"] == "not observed"
    assert f"again: {bad['command']}" in done.stdout
    run = out / good["life"]["folder"]
    assert "held" in klp("analyze", run).stdout
    plans = json.loads((run / "run.json").read_text())["plans"]
    assert plans[0]["objects"] == [{"object": "vmlinux", "functions": ["version_proc_show,1"]}]
    assert Et.parse(xml).getroot().get("failures") == "1"
    worse = klp("check", broken, "-k", "6.12", "-s", "static", "--against", out, "-o", tmp_path / "worse")
    assert worse.returncode == 1
    result = json.loads((out / "check.json").read_text())
    [ran] = [each for each in result["exercised"] if each["functions"]]
    assert (ran["livepatch"], ran["functions"][0]["new"]) == (
        "version-banner",
        "klp_version_proc_show",
    )
    assert ran["functions"][0]["calls"] > 0
    assert "6.12 version-banner build" in worse.stdout
    # That it does not build, and what is not known any more because of it.
    assert re.search(r"^[2-9] regressions, ", worse.stdout, re.MULTILINE)


def test_every_scenario_is_held_for_a_good_one(klp, banner, tmp_path):
    out = tmp_path / "run"
    done = klp("check", banner, "-k", "6.12", "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {each["scenario"]: each["verdict"] for each in outcomes(out)}
    assert list(found) == list(NAMES)
    # It changes no module, has no older version, and nobody sleeps in what its function calls.
    nothing_to_try = {
        "target-absent", "target-comes-and-goes", "target-init-fails", "downgrade", "callee-traced",
    }  # fmt: skip
    assert {name for name, verdict in found.items() if verdict != "held"} == nothing_to_try


def test_an_interrupted_check_goes_on_where_it_stopped(klp, banner, tmp_path):
    out = tmp_path / "run"
    with checking(banner, "-s", "life", "-s", "enable-again", "--jobs", "1", "-o", out) as running:
        assert any(" life: held" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate()
    assert running.returncode == 130, stderr
    assert "not complete" in stdout
    before = outcomes(out)
    assert not list((out / "6.12").glob(".guest-*"))
    done = klp("check", "--resume", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["scenario"] for each in outcomes(out)] == ["build", "life", "enable-again"]
    assert outcomes(out)[1] == before[1]
    source = banner / "klp_version_banner.c"
    source.write_text(source.read_text() + "\n")
    refused = klp("check", "--resume", out)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{banner}: its sources have changed since {out}" in refused.stderr


def test_a_guest_lost_in_its_life_is_told_first_and_stops_what_would_wait_for_the_same(
    klp, banner, tmp_path
):
    out = tmp_path / "run"
    with checking(banner, "-s", "life", "-s", "enable-again", "--jobs", "1", "-o", out) as running:
        os.kill(wait_until(lambda: begun(running.pid, out), what="scenario", timeout_s=300, every_s=0.1), 9)
        stdout, stderr = running.communicate()
    assert running.returncode == 3, stderr
    _, life, again = outcomes(out)
    assert (life["verdict"], life["lost"]) == ("not observed", True)
    assert "QEMU was killed by signal 9" in life["reasons"][0]
    assert stdout.startswith("guest lost\n  guest lost: life on 6.12: ")
    assert stdout.splitlines()[-1].startswith("guest lost: life on 6.12: the guest was lost, which tells")
    assert again["verdict"] == "not observed"
    assert again["reasons"] == ["not tried, for the guest was lost in `life`: see `life`"]
    result = json.loads((out / "check.json").read_text())
    assert (result["verdict"], result["headlines"][0][:29]) == (
        "not observed",
        "guest lost: life on 6.12: the",
    )
    # Nobody's fault, as far as anyone knows: neither in the run's own folder.
    assert json.loads((out / life["folder"] / "run.json").read_text())["verdict"] == "not observed"
    assert "ended early: QEMU was killed by signal 9" in klp("analyze", out / life["folder"]).stdout
    assert (out / life["folder"] / "events.jsonl").stat().st_size


def begun(klp, out):
    """Return the process id of QEMU once a scenario is driven in it."""
    traces = (file.read_text() for file in out.glob("6.12/.guest-*/events.jsonl"))
    if not any('"moment":"begin"' in trace for trace in traces):
        return None
    children = [
        pid
        for task in Path(f"/proc/{klp}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    return next((int(pid) for pid in children if "qemu" in Path(f"/proc/{pid}/comm").read_text()), None)
