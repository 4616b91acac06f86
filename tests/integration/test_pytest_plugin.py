# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin as its users meet it: inner runs of pytest, with real guests."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from klp.trace.tracer import PROBES
from klp.waiting import wait_until
from tests.integration.test_bad_input import cache_here

pytestmark = pytest.mark.vm("6.12")
ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "tests/faults/klp_fault.c"
CACHE = os.environ.get("KLP_CACHE") or str(cache_here())  # before pytester gives us another home
WARNS = """// SPDX-License-Identifier: GPL-2.0-only
#include <linux/module.h>

static noinline void warns_on_purpose(void)
{
	WARN(1, "told to warn");
}

static int __init warns_init(void)
{
	warns_on_purpose();
	return 0;
}

module_init(warns_init);
MODULE_DESCRIPTION("Warns");
MODULE_LICENSE("GPL");
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a test file's text beside `files`, with guests; its folders go to ``out``."""
    for name in ("KLP_CONFIG", "KLP_KERNEL", "KLP_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KLP_CACHE", CACHE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pytester.path / "config"))
    monkeypatch.setenv("KLP_RUNS", str(pytester.path / "runs"))

    def inner(text, *options):
        pytester.makepyfile(test_it=text)
        return pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "--klp-kernel=6.12", "--klp-out=out", *options
        )

    return inner


def kept(pytester):
    """The names of what a run left in its folder."""
    out = pytester.path / "out"
    return sorted(each.name for each in out.iterdir()) if out.exists() else []


def test_fixtures_do_what_they_say_and_leave_nothing(pytester, run):
    result = run(
        """
        import errno
        import hashlib
        import pytest
        from klp.errors import CheckFailed

        @pytest.mark.klp_rules("T1", "L4")
        def test_life(guest, livepatch, trace, kernel_log, klp_kernel):
            assert klp_kernel == "6.12" and guest.version == (6, 12)
            fix = livepatch("patches/version-banner")
            assert fix.load() == 0 and fix.enabled and not fix.in_transition
            assert "livepatched by klp" in guest.read("/proc/version")
            assert fix.load(expect=errno.EEXIST) == errno.EEXIST
            assert fix.unload(expect=errno.EAGAIN) == errno.EAGAIN
            position = trace.mark()
            fix.disable()
            assert fix.state is None
            fix.unload()
            assert not fix.loaded
            assert [each.direction for each in trace.transitions(fix)] == ["patching", "unpatching"]
            assert {"init", "complete"} <= {event.__struct_config__.tag for event in trace.events(position)}
            assert kernel_log.find("unpatching complete")

        def test_next_guest_knows_nothing_of_it(guest, livepatch, kernel_log, trace):
            assert guest.livepatches.list() == ()
            assert kernel_log.lines() == () and trace.transitions() == ()
            livepatch("livepatch-sample").load()
            livepatch("test_klp_livepatch", "test_klp_livepatch")

        def test_target(guest, livepatch, module):
            fix, target = (make("module-target") for make in (livepatch, module))
            target.load("seed=6")
            fix.load()
            assert guest.read("/proc/klp_target") == "42" and target.parameter("seed") == "6"

        def test_files(guest):
            content = bytes(range(256)) * 2000
            guest.write("/root/a b", content)
            sums = guest.run(["sha256sum", "/root/a b"]).stdout
            assert sums.split()[0] == hashlib.sha256(content).hexdigest()
            for nowhere, reason in (("/nonesuch/a", "No such file"), ("/dev/full", "No space left")):
                with pytest.raises(CheckFailed, match=f"{nowhere}: .*{reason}"):
                    guest.write(nowhere, content)
            guest.write("/root/small", b"x")
            assert guest.read("/root/small") == "x"
        """,
        "--junitxml=it.xml",
    )
    result.assert_outcomes(passed=4)
    assert kept(pytester) == []
    [life] = ET.parse(pytester.path / "it.xml").findall(".//testcase[@name='test_life[6.12]']")
    known = {each.get("name"): each.get("value") for each in life.iter("property")}
    assert known["klp_kernel"].startswith("6.12.")
    assert known["klp_accelerator"] in ("tcg", "kvm")
    assert re.fullmatch(r"[0-9a-f]{16}", known["klp_image"])
    assert re.fullmatch(r"[0-9a-f]{64}", known["klp_module_klp_version_banner"])
    assert [each.get("value") for each in life.iter("property") if each.get("name") == "klp_rule"] == [
        "T1",
        "L4",
    ]


def test_failure_is_told_in_lines_and_keeps_its_folder(pytester, run):
    result = run(
        """
        import errno

        def test_load(livepatch):
            livepatch("livepatch-sample").load(expect=errno.EINVAL)

        def test_no_such_thing(livepatch):
            livepatch("no-such-thing")

        def test_own_assertion(guest):
            assert guest.run("exit 3").status == 4

        def test_passes(guest): ...
        """
    )
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines([
        "livepatch_sample: load succeeded; expected EINVAL",
        "at test_it.py:4: *expect=errno.EINVAL)",
        "*out/test_it.py-test_load[[]6.12]",
        "no-such-thing: no such file or folder",
        "E * assert 3 == 4",
        "FAILED test_it.py::test_load[[]6.12] - Failed: livepatch_sample: load succeeded*",
    ])  # fmt: skip
    assert "harness/" not in result.stdout.str()
    assert kept(pytester) == [
        f"test_it.py-{name}[6.12]" for name in ("test_load", "test_no_such_thing", "test_own_assertion")
    ]
    folder = pytester.path / "out/test_it.py-test_load[6.12]"
    assert {each.name for each in folder.iterdir()} == {
        "console.log", "dmesg.log", "events.jsonl", "modules", "qemu.log", "run.json",
    }  # fmt: skip
    assert "enabling patch 'livepatch_sample'" in (folder / "dmesg.log").read_text()
    assert '"type":"init"' in (folder / "events.jsonl").read_text().replace(" ", "")
    summary = json.loads((folder / "run.json").read_text())
    assert list(summary["provenance"]["modules"]) == ["livepatch_sample"]
    assert summary["verdict"] == "violated"


def test_lost_guest_fails_its_own_test_alone(pytester, run):
    result = run(
        f"""
        import pytest
        FAULTS = {str(FAULTS)!r}

        def test_panics(guest, module):
            module(FAULTS).load("how=panic")

        def test_next(guest):
            assert guest.read("/proc/sys/kernel/tainted") == "0"

        def test_oopses_after_its_last_word(guest, module):
            module(FAULTS).load("how=oops", expect=None)

        @pytest.mark.timeout(10, func_only=True)
        def test_takes_too_long(guest):
            guest.run("sleep 600")

        def test_last(guest): ...
        """
    )
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines([
        "the guest is lost: panic in klp_fault_panic [[]klp_fault]*",
        "call trace:",
        "  klp_fault_init+*",
        "at test_it.py:5: module(FAULTS).load(\"how=panic\")",
        "*out/test_it.py-test_panics[[]6.12]",
        "the guest is lost: oops in klp_fault_oops [[]klp_fault]*",
        "*Timeout*10*",
    ])  # fmt: skip
    assert "Traceback" not in result.stdout.str()
    folder = pytester.path / "out/test_it.py-test_panics[6.12]"
    assert "Kernel panic" in (folder / "dmesg.log").read_text()
    # A guest that was left in the midst of a command still answers: its probes told all they had.
    traced = (pytester.path / "out/test_it.py-test_takes_too_long[6.12]/events.jsonl").read_text()
    assert [json.loads(line)["type"] for line in traced.splitlines()].count("mark") == len(PROBES)


def test_unexpected_report_fails_the_test(pytester, run):
    pytester.makefile(".c", warns=WARNS)
    expects = "@pytest.mark.klp_expects(r'WARNING: .*warns_on_purpose', reason='it is told to')"
    result = run(
        f"""
        import pytest

        def test_warns(module):
            module("warns.c").load()

        {expects}
        def test_warns_as_expected(module):
            module("warns.c").load()

        {expects}
        def test_does_not_warn(guest): ...
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines([
        "the kernel log holds an unexpected report:",
        "*WARNING: *warns_on_purpose*",
        "*end trace*",
        "the kernel log has no 'WARNING: .*warns_on_purpose', expected because it is told to",
        "FAILED test_it.py::test_warns[[]6.12] - *",
        "FAILED test_it.py::test_does_not_warn[[]6.12] - *",
    ])  # fmt: skip


def test_workers_have_guests_of_their_own_and_leave_none(pytester, run, monkeypatch):
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_alone(guest, number):
            guest.run(f"touch /root/{number}").must("touching")
            assert guest.run("ls /root").stdout.split() == [str(number)]
            print("QEMU", guest.lab.machine.pid)
        """,
        "-n", "2", "-rP",
    )  # fmt: skip
    result.assert_outcomes(passed=4)
    pids = {int(line.split()[1]) for line in result.outlines if line.startswith("QEMU ")}
    assert len(pids) == 4
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids),
        what="end",
        timeout_s=20,
        every_s=0.1,
    )
    assert not list(temporary.glob("klp*"))
    assert kept(pytester) == []


def test_example_of_the_documentation_works(pytester, run):
    text = (ROOT / "docs/writing-tests.md").read_text()
    blocks = dict(re.findall(r"```(c|python)\n(.*?)```", text, re.DOTALL))
    pytester.makefile(".c", loadavg_fix=blocks["c"])
    run(blocks["python"]).assert_outcomes(passed=blocks["python"].count("\ndef test_"))
