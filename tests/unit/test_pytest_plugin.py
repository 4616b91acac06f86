# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin without a guest: what it costs others, its options and markers, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from klp.settings import Settings  # kept imported: pytester takes back what an inner run imports

USES_A_GUEST = "def test_fix(guest, livepatch, trace, kernel_log): ..."
# What the session did that it must not: it is told at its end.
WATCHED = """
import os, sys
from klp import paths
seen = []
# By folder, not by words in a path: the checkout, and the package in it, may be called anything.
PLACES = [os.environ["KLP_CACHE"], os.environ["XDG_CONFIG_HOME"], os.environ["XDG_STATE_HOME"], "/proc",
          *map(str, (paths.IMAGE_DEFINITIONS, paths.PROBE_SOURCES, paths.PATCHES))]

def watch(event, args):
    if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind"):
        seen.append(event)
    file = args[0] if event == "open" and isinstance(args[0], str) else ""
    if any(file.startswith(f"{each}/") for each in PLACES):
        seen.append(f"opens {file}")

sys.addaudithook(watch)

def pytest_terminal_summary(terminalreporter):
    heavy = {name.split(".")[0] for name in sys.modules} & {"paramiko", "qemu", "cryptography", "rich"}
    terminalreporter.write_line(f"WATCHED: {seen} {sorted(heavy)}")
"""


@pytest.fixture(autouse=True)
def settings_of_nobody(pytester, monkeypatch):
    """No settings, an empty cache, and no program: whatever tries to boot fails at once."""
    for name in ("KLP_CONFIG", "KLP_KERNEL", "KLP_ACCELERATOR", "KLP_RUNS"):
        monkeypatch.delenv(name, raising=False)
    empty = pytester.mkdir("empty")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty))
    monkeypatch.setenv("XDG_STATE_HOME", str(pytester.path / "state"))
    monkeypatch.setenv("KLP_CACHE", str(empty))
    monkeypatch.setenv("PATH", str(empty))
    # Each inner run, and each worker of one, would import hypothesis: twice the time of all else.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


@pytest.fixture
def run(pytester):
    """Run pytest on a text, in this process."""

    def inner(text, *options):
        pytester.makepyfile(test_it=text)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return inner


@pytest.fixture
def watched(pytester):
    """Run pytest on a text in a process of its own, which tells what it touched."""

    def inner(text, *options):
        pytester.makeconftest(WATCHED)
        pytester.makepyfile(test_it=text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return inner


def test_importing_the_plugin_loads_neither_ssh_nor_qmp_nor_a_terminal():
    program = "import sys, klp.testing.plugin; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "klp.testing.plugin" in loaded
    assert not {"paramiko", "qemu", "qemu.qmp", "cryptography", "msgspec", "rich", "asyncio"} & set(loaded)


@pytest.mark.parametrize("options", [("--klp-kernel=6.12", "--klp-kernel=7.2"), ()])
def test_collecting_boots_and_opens_nothing(watched, options):
    result = watched(USES_A_GUEST, "--collect-only", "-q", *options)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"*test_fix?{Settings().kernel}?", "WATCHED: [[][]] [[][]]"])


def test_tests_without_fixtures_are_untouched(watched):
    result = watched("def test_own(): ...\ndef test_klp_error():\n    from klp.errors import KlpError\n"
                 "    raise KlpError('own')")  # fmt: skip
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*raise KlpError('own')", "WATCHED: [[][]] [[][]]"])


def test_kernels_are_run_one_after_the_other(run):
    text = f"{USES_A_GUEST}\ndef test_other(guest): ...\ndef test_none(): ..."
    result = run(text, "--collect-only", "-q", "--klp-kernel=6.12", "--klp-kernel=7.2")
    ids = [line for line in result.outlines if "::" in line]
    guests = [line.partition("::")[2] for line in ids if "[" in line]
    assert guests == ["test_fix[6.12]", "test_other[6.12]", "test_fix[7.2]", "test_other[7.2]"]
    assert "test_it.py::test_none" in ids


def test_kernel_comes_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("KLP_KERNEL", "6.1")
    run(USES_A_GUEST, "--collect-only", "-q").stdout.fnmatch_lines(["test_it.py::test_fix?6.1?"])


@pytest.mark.parametrize("where", ["option", "environment"])
def test_unknown_kernel_is_refused_in_one_line(run, monkeypatch, where):
    if where == "environment":
        monkeypatch.setenv("KLP_KERNEL", "9.9")
    result = run(USES_A_GUEST, *(["--klp-kernel=9.9"] if where == "option" else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = [line for line in result.errlines if line]
    assert len(told) == 1
    assert "unknown kernel '9.9'; known: 6.1, 6.12, 7.2" in told[0]


def test_wrong_settings_are_refused_in_one_line(watched, monkeypatch):
    monkeypatch.setenv("KLP_KERNLE", "6.12")
    result = watched(USES_A_GUEST)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == ["ERROR: KLP_KERNLE: unknown setting"]


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("klp_expects('WARNING')", "klp_expects: has no reason="),
        ("klp_expects(reason='why')", "klp_expects: takes one regular expression"),
        ("klp_expects('(', reason='why')", "klp_expects: '(' is no regular expression"),
        ("klp_expects('x', reason='why', count=2)", "klp_expects: no such argument: count"),
        ("klp_kernels('6.12')", "klp_kernels: has no reason="),
        ("klp_kernels(reason='why')", "klp_kernels: names no kernel"),
        ("klp_kernels('six', reason='why')", "klp_kernels: 'six' is no kernel"),
        ("klp_rules()", "klp_rules: names no rule"),
        ("klp_rules('t1')", "klp_rules: 't1' is no rule"),
    ],
)
def test_markers_that_say_nothing_are_refused(run, marker, complaint):
    result = run(f"import pytest\n@pytest.mark.{marker}\n{USES_A_GUEST}", "--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_fix?6.12?: {complaint}*".replace("[", "?")])


def test_workers_fail_the_test_whose_marker_says_nothing(run):
    text = f"import pytest\n@pytest.mark.klp_rules()\n{USES_A_GUEST}\ndef test_own(): ..."
    result = run(text, "-n", "2")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["klp_rules: names no rule"])


def test_markers_are_registered(run):
    marks = (
        "klp_expects('x', reason='y')",
        "klp_kernels('6.12', min='6.1', reason='y')",
        "klp_rules('T1')",
    )
    text = "import pytest\n" + "".join(f"@pytest.mark.{mark}\n" for mark in marks) + USES_A_GUEST
    assert run(text, "--strict-markers", "--collect-only").ret == 0


@pytest.mark.parametrize(
    ("marker", "skipped"),
    [
        ("'7.2', reason='new sysfs file'", True),
        ("min='7.2', reason='new sysfs file'", True),
        ("max='6.1', reason='new sysfs file'", True),
        ("'6.12', reason='new sysfs file'", False),
        ("min='6.1', max='6.12', reason='new sysfs file'", False),
    ],
)
def test_other_kernels_are_skipped_before_anything_is_booted(run, marker, skipped):
    text = f"import pytest\n@pytest.mark.klp_kernels({marker})\n{USES_A_GUEST}"
    result = run(text, "-rs", "--klp-kernel=6.12")
    result.assert_outcomes(skipped=int(skipped), errors=int(not skipped))
    if skipped:
        result.stdout.fnmatch_lines(["SKIPPED*not for this kernel: new sysfs file"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_host_without_qemu_is_told_in_one_line_and_costs_no_other_test(watched, workers):
    result = watched(f"{USES_A_GUEST}\ndef test_own(): ...", *workers)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["qemu-system-x86_64 is not installed here"])
    assert "Traceback" not in result.stdout.str()
    assert "harness/klp" not in result.stdout.str()


RECORDED = f"""
import pytest
{USES_A_GUEST}
@pytest.mark.klp_kernels("7.2", reason="newer")
@pytest.mark.klp_breaks("T1", reason="on purpose")
def test_other(guest): ...
def test_own(): ...
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_verdicts_are_one_line_a_test_with_a_guest_begun_anew(pytester, watched, workers):
    file = pytester.path / "build" / "verdicts.jsonl"
    for _ in range(2):
        watched(RECORDED, "--klp-verdicts", "build/verdicts.jsonl", *workers)
    records = sorted(
        (json.loads(line) for line in file.read_text().splitlines()), key=lambda one: one["test"]
    )
    told = [(one["test"], one["kernel"], one["outcome"], one["verdicts"], one["breaks"]) for one in records]
    assert told == [
        ("test_it.py::test_fix[6.12]", "6.12", "failed", {}, []),
        ("test_it.py::test_other[6.12]", "6.12", "skipped", {}, ["T1"]),
    ]


def test_collecting_leaves_the_recorded_verdicts(pytester, run):
    file = pytester.path / "verdicts.jsonl"
    file.write_text("old\n")
    run(USES_A_GUEST, "--collect-only", "--klp-verdicts", str(file))
    assert file.read_text() == "old\n"


def test_a_file_of_verdicts_that_cannot_be_written_is_refused_in_one_line(pytester, run):
    result = run(USES_A_GUEST, "--klp-verdicts", str(pytester.mkdir("folder")))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        f"ERROR: --klp-verdicts: {pytester.path / 'folder'}: Is a directory"
    ]


def test_what_is_waited_for_has_an_estimate(run, pytester):
    (pytester.path / "empty" / "durations.json").write_text('{"making guests ready": 200.0}')
    result = run("""
        from klp.testing import plugin

        def test_it(pytestconfig):
            with plugin._session(pytestconfig)._progress.step("making guests ready"):
                pass
    """)
    result.assert_outcomes(passed=1)
    assert "making guests ready … (last time 3 min)" in "\n".join([*result.outlines, *result.errlines])
