# SPDX-License-Identifier: Apache-2.0
"""Every module's C is in the kernel's own style, by the kernel's own checker."""

from __future__ import annotations

import subprocess
from pathlib import Path

from klp import paths
from klp.images import source

TESTS = Path(__file__).parents[1]
FOLDERS = (paths.PATCHES, TESTS / "faults", TESTS / "livepatches")


def checked(kernel, *files):
    """What the checker says of files, and how it ends."""
    argv = ["perl", kernel.source / source.CHECKPATCH, "--strict", "--no-tree", "--terse", "--quiet"]
    return subprocess.run([*argv, "--file", *files], capture_output=True, text=True, check=False)


def test_checkpatch_finds_nothing(image):
    # What is a link here is one file, shared by several modules.
    files = sorted(file for folder in FOLDERS for file in folder.rglob("*.[ch]") if not file.is_symlink())
    assert len(files) > 50
    finished = checked(image.kernel, *files)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_checkpatch_finds_what_is_wrong(image, tmp_path):
    file = tmp_path / "wrong.c"
    file.write_text("/* SPDX-License-Identifier: GPL-2.0-only */\nint f(void){return (0);}\n")
    finished = checked(image.kernel, file)
    assert finished.returncode == 1
    assert "space required after that ';'" in finished.stdout
