# SPDX-License-Identifier: Apache-2.0
"""What the suite and the kernel's own selftests say about a kernel.

A failure counts if it comes again when the test, or script, is run a second time on its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from klp.analysis.evidence import Verdict
from klp.analysis.selftests import ScriptResult, Status
from klp.errors import CheckFailed, KlpError, VmLost
from klp.files import remove_tree
from klp.images.library import Library
from klp.lab.warm import ensure_warm
from klp.process import Completed, run
from klp.progress import Progress
from klp.report.selftest_table import decode
from klp.settings import Settings
from klp.vm.accel import choose
from klp.vm.request import MachineRequest

_PASSED, _FAILED = 0, 1
# A script takes half a minute; one that hangs, as a fault can make it, has no more to say.
_SCRIPT_S = 120
_ROOT = Path(__file__).parents[2]
# What the environment of a test's own says about klp is handed on.
_HANDED_ON = {name: value for name, value in os.environ.items() if name.startswith("KLP_")}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two says.

    Attributes:
        by: the test, or the script and its case, that failed twice; empty if all passed.
        message: what it said.
        seconds: it took, the second run of a failure included.
        run: how many tests, or cases, were run.
        unsteady: those that failed once and then passed.
    """

    by: str
    message: str
    seconds: float
    run: int
    unsteady: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A kernel under test.

    Attributes:
        tree: its build tree.
        out: an empty folder for what tests leave.
    """

    tree: Path
    out: Path


def make_ready(library: Library, wanted: Settings, tree: Path, progress: Progress) -> str:
    """Boot the tree's kernel, arm the probes and save it; return its release.

    Raises:
        VmLost: it does not come up, twice.
        CheckFailed: a probe could not be armed.
    """
    wanted = msgspec.structs.replace(wanted, kernel=str(tree))
    image = library.ensure(str(tree))
    accel = choose(wanted, library.layout, image).accelerator
    request = MachineRequest.from_settings(image, wanted, accel)
    try:
        ensure_warm(library.cache, request, progress=progress)
    except VmLost as lost:  # a busy host loses a guest now and then; a fault that does is there again
        progress.note(lost.message)
        ensure_warm(library.cache, request, progress=progress)
    return image.kernel.release


def forget(library: Library, tree: Path) -> None:
    """Take what the cache has of a tree out of it again: the next mutant's is another."""
    for entry, _ in library.parts(str(tree)):
        remove_tree(entry)


def suite(subject: Subject, rules: Sequence[str]) -> Finding:
    """Run the suite to its first failure that comes twice; tests of `rules` first.

    Raises:
        CheckFailed: pytest itself did not work.
    """
    begun, passed_over, ran = time.monotonic(), list[str](), 0
    while True:
        left_out = [f"--deselect={each}" for each in passed_over]
        first, count = _pytest(subject, ["tests/suite", f"--first={','.join(rules)}", *left_out])
        ran += count
        again = _pytest(subject, [first[0]])[0] if first else None
        if first is None or again is not None:
            by, message = again or ("", "")
            return Finding(
                by=by, message=message, seconds=time.monotonic() - begun, run=ran,
                unsteady=tuple(passed_over),
            )  # fmt: skip
        passed_over.append(first[0])


def _pytest(subject: Subject, words: Sequence[str]) -> tuple[tuple[str, str] | None, int]:
    """Run pytest to its first failure; return that test with its message, and how many were run."""
    report = subject.out / "junit.xml"
    report.unlink(missing_ok=True)
    ended = run(
        [sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "-p", "tests.mutants.first",
         f"--klp-kernel={subject.tree}", "--everywhere", f"--klp-out={subject.out / 'kept'}",
         "-o", "junit_family=xunit1", f"--junitxml={report}", *words],
        check=False, cwd=_ROOT, env=_HANDED_ON,
    )  # fmt: skip
    if ended.status not in (_PASSED, _FAILED) or not report.is_file():
        raise _broken("pytest", ended)
    return read_junit(report.read_text())


def read_junit(text: str) -> tuple[tuple[str, str] | None, int]:
    """Return the first test of a JUnit report that failed with its message, and how many were run."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    ran = sum(each.find("skipped") is None for each in cases)
    for case in cases:
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                told = _first_line(found.get("message") or found.text or "")
                return (f"{case.get('file')}::{case.get('name')}", told), ran
    return None, ran


def selftests(subject: Subject) -> tuple[Finding, tuple[str, ...]]:
    """Run the kernel's own selftests, all; return what they say, and the rules their traces break.

    Raises:
        CheckFailed: klp itself did not work.
    """
    begun = time.monotonic()
    scripts = _klp_selftests(subject, "selftests", ())
    bad = [each for each in scripts if each.status in (Status.FAILED, Status.DIED)]
    unsteady = []
    by = message = ""
    for script in bad:
        [again] = _klp_selftests(subject, f"again-{script.name}", ("--script", script.name))
        if again.status in (Status.FAILED, Status.DIED):
            by, message = _who(again), _first_line(again.message)
            break
        unsteady.append(script.name)
    finding = Finding(
        by=by, message=message, seconds=time.monotonic() - begun,
        run=sum(len(each.cases) for each in scripts), unsteady=tuple(unsteady),
    )  # fmt: skip
    broken = {check.name for each in scripts for check in each.checks if check.verdict is Verdict.VIOLATED}
    return finding, tuple(sorted(broken))


def _klp_selftests(subject: Subject, name: str, words: Sequence[str]) -> tuple[ScriptResult, ...]:
    out = subject.out / name
    remove_tree(out)
    ended = run(
        [Path(sys.executable).with_name("klp"), "selftests", "--kernel", subject.tree, "--out", out,
         "--jobs", "2", "--deadline", str(_SCRIPT_S), *words],
        check=False, cwd=_ROOT, env=_HANDED_ON,
    )  # fmt: skip
    try:
        [kernel] = decode((out / "selftests.json").read_bytes()).kernels
    except (OSError, msgspec.DecodeError, ValueError):
        raise _broken("klp selftests", ended) from None
    if len(kernel.scripts) != len(kernel.planned):
        raise _broken("klp selftests", ended)
    return kernel.scripts


def _who(script: ScriptResult) -> str:
    bad = [each.name for each in script.cases if each.status in (Status.FAILED, Status.DIED)]
    return f"{script.name}: {bad[0]}" if bad else script.name


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _broken(what: str, ended: Completed) -> KlpError:
    told = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:] or ["it said nothing"]
    return CheckFailed(f"{what} did not work: {told[0]}")
