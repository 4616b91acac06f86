# SPDX-License-Identifier: Apache-2.0
"""Linters as tests, each with a proof that it would complain."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

Tool = Callable[[str], str]
_SHEBANG = re.compile(r"#!\s*/\S*\b(?:ba|da)?sh\b|#!\s*/\S*busybox sh\b")
_SHELL_NAME = re.compile(r"# shellcheck shell=")


def lint(command: Sequence[str | Path], root: Path) -> str:
    """Run a linter at the project's root; return its complaints, empty where it has none."""
    done = subprocess.run(
        [str(word) for word in command], cwd=root, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{done.stdout}{done.stderr}".strip() if done.returncode else ""


def demand_clean(complaints: str) -> None:
    if complaints:
        pytest.fail(complaints, pytrace=False)


def is_shell(file: Path) -> bool:
    """Whether a file is a shell script, by its name or its first lines."""
    if file.suffix == ".sh":
        return True
    head = file.read_bytes()[:300].decode(errors="replace").splitlines()[:3]
    return bool(head) and bool(_SHEBANG.match(head[0]) or any(map(_SHELL_NAME.match, head)))


def shell_files(files: Iterable[Path], root: Path) -> list[Path]:
    return [file for file in files if is_shell(root / file)]


def shellcheck(tool: Tool, files: Sequence[Path], root: Path) -> str:
    return lint([tool("shellcheck"), "--external-sources", "--", *files], root)


def codespell(tool: Tool, files: Sequence[Path], root: Path) -> str:
    # The project's own settings name what is skipped.
    return lint([tool("codespell"), "--toml", root / "pyproject.toml", *files], root)


def mypy(tool: Tool, files: Sequence[Path], root: Path) -> str:
    return lint([tool("mypy"), "--strict", "--config-file", root / "pyproject.toml", *files], root)


def test_ruff_check(tool: Tool, root: Path) -> None:
    demand_clean(lint([tool("ruff"), "check", "."], root))


def test_ruff_format(tool: Tool, root: Path) -> None:
    demand_clean(lint([tool("ruff"), "format", "--check", "."], root))


def test_mypy_strict(tool: Tool, root: Path) -> None:
    demand_clean(mypy(tool, [], root))


def test_shellcheck(tool: Tool, root: Path, project_files: tuple[Path, ...]) -> None:
    demand_clean(shellcheck(tool, shell_files(project_files, root), root))


def test_codespell(tool: Tool, root: Path, project_files: tuple[Path, ...]) -> None:
    demand_clean(codespell(tool, project_files, root))


def test_every_shell_file_is_found(root: Path, project_files: tuple[Path, ...]) -> None:
    expected = {
        ".ci/run", ".ci/host-setup", ".ci/lock", "vm-images/guest/init", "vm-images/guest/boot",
        "vm-images/hooks/add-suites.sh", "vm-images/hooks/fetch-kernel.sh",
    }  # fmt: skip
    assert expected <= {str(file) for file in shell_files(project_files, root)}


# Each linter can fail: it is given something bad, under the project's own settings.


def test_ruff_check_can_fail(tool: Tool, root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\n\n\ndef f(x):\n    print(x)\n")
    said = lint([tool("ruff"), "check", "--config", root / "pyproject.toml", bad], root)
    assert all(rule in said for rule in ("F401", "ANN001", "T201"))


def test_ruff_format_can_fail(tool: Tool, root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("x = [1,2 ]\n")
    config = root / "pyproject.toml"
    assert "bad.py" in lint([tool("ruff"), "format", "--check", "--config", config, bad], root)


def test_mypy_can_fail(tool: Tool, root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f(x):\n    return x\n")
    assert "no-untyped-def" in mypy(tool, [bad], root)


def test_shellcheck_can_fail(tool: Tool, root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\nrm $1\n")
    assert "SC2086" in shellcheck(tool, shell_files([bad], root), root)


def test_codespell_can_fail(tool: Tool, root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.md"
    bad.write_text("This was recie" + "ved.\n")
    assert "received" in codespell(tool, [bad], root)


@pytest.mark.parametrize(
    ("name", "text", "shell"),
    [
        ("run", "#!/bin/bash\n", True),
        ("init", "#!/bin/busybox sh\n# SPDX\n# shellcheck shell=sh\n", True),
        ("hook", "# SPDX\n# shellcheck shell=sh\n", True),
        ("hook.sh", "true\n", True),
        ("tool", "#!/usr/bin/python3\n", False),
        ("empty", "", False),
    ],
)
def test_shell_files_are_told_from_others(tmp_path: Path, name: str, text: str, shell: bool) -> None:
    (tmp_path / name).write_text(text)
    assert is_shell(tmp_path / name) is shell
