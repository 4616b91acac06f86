# SPDX-License-Identifier: Apache-2.0
"""A name that is none of those there are is answered with the one that may have been meant."""

from __future__ import annotations

import pytest

from klp.analysis.rules.registry import RULES
from klp.check.registry import NAMES
from klp.errors import did_you_mean
from klp.images.names import kernel_complaint, known_kernels
from tests.unit.runfolders import sample, write_run
from tests.unit.test_cli import Klp, run  # noqa: F401

RUN = "20261130-105406-6.12.118"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["analyze", RUN, "--rule", "T1O"], "T1"),
        (["analyze", RUN, "--rule", "t4"], "T4?"),
        (["coverage", "--rule", "C11"], "C1"),
        (["run", "version-banner", "-k", "6.21"], "6.12"),
        (["check", "version-banner", "-k", "6.21"], "6.12"),
        (["trace", "version-banner", "-k", "6.21"], "6.12"),
        (["make", "a.patch", "-k", "6.21"], "6.12"),
        (["build", "version-banner", "-k", "6.21"], "6.12"),
        (["selftests", "-k", "6.21"], "6.12"),
        (["up", "-k", "6.21"], "6.12"),
        (["image", "build", "6.21"], "6.12"),
        (["image", "verify", "6.21"], "6.12"),
        (["image", "rm", "6.21"], "6.12"),
        (["check", "version-banner", "-s", "cycle"], "cycles?"),
        (["check", "version-banner", "-s", "reverse-enabled"], "reverse-enable"),
        (["check", "version-banner", "-l", "version-baner"], "version-banner?"),
        (["run", "version-baner"], "version-banner?"),
        (["run", "sample"], "samples?"),
        (["check", "a.ptch"], "a.patch?"),
        (["build", "./a.ptch"], "a.patch?"),
        (["trace", "version_banner"], "version-banner?"),
        (["analyze", RUN[:-1]], f"{RUN}?"),
        (["report", RUN.replace("-", "_")], f"{RUN}?"),
        (["compare", RUN, "latst"], "latest?"),
        (["runs", "rm", f"{RUN}x"], f"{RUN}?"),
        (["query", "SELECT 1", RUN[1:]], f"{RUN}?"),
        (["image", "biuldd"], "'build'?"),
        (["selftest"], "'selftests'?"),
        (["run", "--krenel", "6.12"], "'--kernel'"),
    ],
    ids=" ".join,
)
def test_a_near_miss(run: Klp, tmp_path, words: list[str], meant: str) -> None:  # noqa: F811
    write_run(tmp_path / "runs" / RUN, sample())
    (tmp_path / "a.patch").write_text("--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n")
    done = run(*words, KLP_RUNS=str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "did you mean" in done.stderr.casefold()
    assert meant in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "names", [tuple(RULES), NAMES, tuple(known_kernels())], ids=["rules", "scenarios", "kernels"]
)
def test_every_name_is_found_from_one_letter_too_many_and_from_capitals(names: tuple[str, ...]) -> None:
    for name in names:
        assert name in did_you_mean(f"{name}x", names)
        assert did_you_mean(name.swapcase(), names) == f"did you mean {name}?"


def test_what_is_like_nothing_asks_nothing() -> None:
    assert did_you_mean("frobnicate", NAMES) == ""
    assert "did you mean" not in kernel_complaint("frobnicate")
    assert "did you mean 6.1 or 6.12? known" in kernel_complaint("6.21")
    assert kernel_complaint("6.12") == ""
