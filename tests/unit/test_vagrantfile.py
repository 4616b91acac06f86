# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile: valid to Vagrant, and set up by the same Makefile as any other host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def validate(vagrant: str, folder: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    own = {
        "VAGRANT_HOME": str(scratch / "home"),
        "VAGRANT_DOTFILE_PATH": str(scratch / "dot"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    return subprocess.run(
        [vagrant, "validate", "--ignore-provider"], cwd=folder, env=os.environ | own, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip


def test_vagrant_validates_it(tool: Callable[[str], str], root: Path, tmp_path: Path) -> None:
    done = validate(tool("vagrant"), root, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


def test_validation_can_fail(tool: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "Vagrantfile").write_text(
        'Vagrant.configure("2") { |config| config.vm.no_such_setting = 1 }\n'
    )
    assert validate(tool("vagrant"), tmp_path, tmp_path).returncode != 0


@pytest.mark.parametrize(
    "word",
    [
        'cpu_mode = "host-passthrough"', "nested = true", '"--nested-hw-virt", "on"', 'type: "rsync"',
        "make -C #{PROJECT} setup", "MEMORY_MIB = 4096", "CPUS = 2",
    ],
)  # fmt: skip
def test_it_has_what_guests_in_it_need(root: Path, word: str) -> None:
    assert word in (root / "Vagrantfile").read_text()
