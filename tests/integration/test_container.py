# SPDX-License-Identifier: Apache-2.0
"""vm-images/Containerfile is built, and klp works in what comes of it, where there is a tool to do so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_BASE = "debian:trixie-slim"
_IMAGE = "klp-test"


def said(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def engine() -> str:
    """A container engine that can have the base image: neither is a thing that klp's own set-up brings."""
    for name in ("podman", "docker"):
        if shutil.which(name) and said(name, "pull", _BASE).returncode == 0:
            return name
    pytest.skip(f"neither podman nor docker can have {_BASE} here")


def test_klp_works_in_its_container(engine: str, root: Path) -> None:
    built = said(engine, "build", "--file", "vm-images/Containerfile", "--tag", _IMAGE, ".", cwd=root)
    assert built.returncode == 0, built.stdout + built.stderr
    try:
        told = said(engine, "run", "--rm", "--privileged", _IMAGE, "doctor")
        assert told.returncode == 0, told.stdout + told.stderr
    finally:
        said(engine, "rmi", _IMAGE)
