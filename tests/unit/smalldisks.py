# SPDX-License-Identifier: Apache-2.0
"""Programs on a disk that is really full: a small tmpfs in a mount namespace, which needs no root."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_MOUNTED = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_small_disk(folder: Path, kib: int, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program that sees `folder` as a disk of `kib` KiB; sys.argv[1] is that folder.

    Skips the test where this user may make no namespaces.
    """
    folder.mkdir(exist_ok=True)
    shell = [
        "unshare",
        "--map-root-user",
        "--mount",
        "--",
        "sh",
        "-c",
        _MOUNTED,
        "sh",
        f"{kib}k",
        str(folder),
    ]
    tried = subprocess.run([*shell, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace of one's own here: {tried.stderr.strip()}")
    command = [*shell, sys.executable, "-c", program, str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
