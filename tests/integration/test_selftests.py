# SPDX-License-Identifier: Apache-2.0
"""`klp selftests`: scripts of the kernel's own, and scripts of ours that end in every bad way there is."""

from __future__ import annotations

import json
import signal
import subprocess
from xml.etree import ElementTree as Et

import pytest

from .conftest import KLP

pytestmark = pytest.mark.vm("6.12")
# A script of ours: its first case ends well, for it causes no message and expects none.
SCRIPT = """\
#!/bin/bash
. $(dirname $0)/functions.sh
setup_config
start_test "ends well"
check_result ""
start_test "{name}"
{command}
check_result ""
start_test "never begins"
check_result ""
"""
ENDINGS = {
    "dies": "kill -KILL $$",
    "fails": 'log "livepatch: nobody expects this"',
    "skips": 'skip "not on this machine"',
    "panics": "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger",
    "hangs": "exec sleep 100000",
}


@pytest.fixture
def scripts(tmp_path):
    """Our scripts, by name."""
    files = {}
    for name, command in ENDINGS.items():
        files[name] = tmp_path / f"{name}.sh"
        files[name].write_text(SCRIPT.format(name=name, command=command))
    return files


def statuses(script):
    return [case["status"] for case in script["cases"]]


def held(script):
    return {check["name"] for check in script["checks"] if check["verdict"] == "held"}


def test_lists_what_the_kernels_have(klp):
    done = klp("selftests", "--list", "--json", "-k", "6.1", "-k", "6.12", "-k", "7.2")
    listed = json.loads(done.stdout)
    counts = {kernel: (len(each), sum(map(len, each.values()))) for kernel, each in listed.items()}
    assert counts == {"6.1": (6, 22), "6.12": (7, 25), "7.2": (8, 32)}


def test_two_scripts_of_the_default_kernel(klp, tmp_path):
    out, xml = tmp_path / "run", tmp_path / "junit.xml"
    which = ("-s", "shadow-vars", "-s", "ftrace")
    done = klp("selftests", *which, "--ktap", "--junit", xml, "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(klp("selftests", *which, "--list", "--json").stdout)["6.12"]
    [kernel] = json.loads((out / "selftests.json").read_text())["kernels"]
    assert {each["name"]: [case["name"] for case in each["cases"]] for each in kernel["scripts"]} == listed
    by_name = {each["name"]: each for each in kernel["scripts"]}
    for script in by_name.values():
        assert set(statuses(script)) == {"ok"}
        folder = out / script["folder"]
        assert (folder / "output.txt").read_text().count(" ... ok\n") == len(script["cases"])
        assert all(case["name"] in (folder / "dmesg.log").read_text() for case in script["cases"])
    assert {"rule S1", "rule S2", "rule S7", "rule L6"} <= held(by_name["test-shadow-vars.sh"])
    ftrace = by_name["test-ftrace.sh"]
    assert {"no event lost", "rule T1", "rule T4", "rule T13", "rule L6"} <= held(ftrace)
    events = (out / ftrace["folder"] / "events.jsonl").read_text().splitlines()
    assert "test_klp_livepatch" in {json.loads(line).get("patch") for line in events}
    assert "# rule T4: held: " in done.stdout
    assert done.stdout.startswith("KTAP version 1\n1..1\n")
    assert done.stdout.endswith("\nok 1 6.12\n")
    assert Et.parse(xml).getroot().get("tests") == str(sum(map(len, listed.values())))


def test_bad_ends_cost_only_themselves(klp, scripts, tmp_path):
    out = tmp_path / "run"
    words = [word for name in ("dies", "fails", "skips", "panics") for word in ("-s", scripts[name])]
    done = klp("selftests", *words, "-s", "shadow-vars", "--json", "--no-trace", "-o", out)
    assert done.returncode == 1, done.stderr
    [kernel] = json.loads(done.stdout)["kernels"]
    by_name = {each["name"]: each for each in kernel["scripts"]}
    dies, fails, skips, panics = (by_name[f"{name}.sh"] for name in ("dies", "fails", "skips", "panics"))
    assert statuses(dies) == ["ok", "died", "not run"]
    assert dies["message"] == "case 'dies' has no result (the script was killed by signal 9)"
    assert statuses(fails) == ["ok", "not ok", "not run"]
    assert "+livepatch: nobody expects this" in fails["cases"][1]["detail"]
    assert statuses(skips) == ["ok", "skipped", "skipped"]
    assert (skips["status"], skips["message"]) == ("skipped", "not on this machine")
    assert statuses(panics) == ["ok", "died", "not run"]
    assert panics["status"] == "died"
    assert "in case 'panics'" in panics["message"]
    assert any("sysrq" in line for line in panics["report"])
    assert by_name["test-shadow-vars.sh"]["status"] == "ok"
    assert "case 'dies' has no result" in done.stderr


def test_a_deadline_names_the_case(klp, scripts, tmp_path):
    out = tmp_path / "run"
    done = klp("selftests", "-s", scripts["hangs"], "--deadline", "30", "--no-trace", "--json", "-o", out)
    assert done.returncode == 1, done.stderr
    [script] = json.loads(done.stdout)["kernels"][0]["scripts"]
    assert script["message"].startswith("no end within ")
    assert "in case 'hangs'" in script["message"]
    assert statuses(script) == ["ok", "died", "not run"]
    assert "TEST: hangs" in (out / script["folder"] / "dmesg.log").read_text()


def test_interrupted_it_keeps_what_is_done(scripts, tmp_path):
    out = tmp_path / "run"
    words = ["-s", "shadow-vars", "-s", scripts["hangs"], "--no-trace", "--jobs", "1", "-o", out]
    with subprocess.Popen(
        [KLP, "selftests", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        for line in running.stderr:
            if "test-shadow-vars.sh: ok" in line:
                break
        running.send_signal(signal.SIGTERM)
        stdout, stderr = running.communicate()
    assert running.returncode == 130, stderr
    result = json.loads((out / "selftests.json").read_text())
    [kernel] = result["kernels"]
    assert result["error"] == "interrupted"
    assert kernel["planned"] == ["test-shadow-vars.sh", "hangs.sh"]
    assert [each["status"] for each in kernel["scripts"]] == ["ok"]
    assert "basic shadow variable API" in stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-s", "no-such"), "no-such: no such selftest of kernel 6.12, and no file"),
        (("--ktap", "--json"), "only one of them can be printed"),
        (("--junit", "no/such/folder.xml"), "no/such/folder.xml: no such folder"),
    ],
)
def test_misuse_is_told_in_a_line(klp, tmp_path, words, told):
    done = klp("selftests", *words, "-o", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "run").exists()
