# SPDX-License-Identifier: Apache-2.0
"""The scenario `exercise` in a guest: what calls a function is found out once, and known from then on."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from klp import paths

pytestmark = pytest.mark.vm("6.12")


@pytest.fixture
def callers(monkeypatch, tmp_path):
    """A folder in place of the cache's, for what is found out; the cache's images are used as ever."""
    real = paths.cache_root()
    root = tmp_path / "cache"
    root.mkdir()
    for each in real.iterdir():
        if each.name != paths.CacheLayout(real).workloads.name:
            (root / each.name).symlink_to(each)
    monkeypatch.setenv("KLP_CACHE", str(root))
    return paths.CacheLayout(root).workloads


def exercised(klp, out):
    done = klp("check", paths.PATCHES / "version-banner", "-k", "6.12", "-s", "exercise", "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    [outcome] = [
        each
        for each in json.loads((out / "check.json").read_text())["outcomes"]
        if each["scenario"] == "exercise"
    ]
    assert outcome["verdict"] == "held"
    return outcome


def test_callers_are_found_once_and_make_the_calls(klp, callers, tmp_path):
    first = exercised(klp, tmp_path / "first")
    [known] = callers.rglob("*version_proc_show*.json")
    reached = [each["workload"]["text"] for each in json.loads(known.read_text())["reached"]]
    assert "/proc/version" in reached
    [calls] = [each for each in first["notes"] if "was called" in each]
    counts = [int(each.replace(",", "")) for each in re.findall(r"[\d,]*\d", calls)]
    before, _, enabled, _, after = counts
    assert before
    assert enabled >= 100
    assert after
    written = known.stat().st_mtime_ns
    exercised(klp, tmp_path / "second")
    assert known.stat().st_mtime_ns == written


def test_a_command_that_hangs_with_nothing_loaded_is_not_the_livepatchs_fault(klp, tmp_path):
    livepatch = tmp_path / "banner"
    shutil.copytree(paths.PATCHES / "version-banner", livepatch)
    with (livepatch / "patch.toml").open("a", encoding="utf-8") as plan:
        plan.write('\n[[workload]]\ncommand = "read line <>/run/klp/silence"\n')
    out = tmp_path / "out"
    done = klp("check", livepatch, "-k", "6.12", "-s", "exercise", "--quick", "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((out / "check.json").read_text())["outcomes"]
    [outcome] = [each for each in outcomes if each["scenario"] == "exercise"]
    assert outcome["verdict"] == "not observed"
    assert re.search(
        r"could not be tried: with nothing of it loaded, .*silence.* hangs", outcome["reasons"][0]
    )
