# SPDX-License-Identifier: Apache-2.0
"""From the kernel's source package only what klp works with: samples, selftests, documentation."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.process import run

SAMPLES = "samples/livepatch"
SELFTESTS = "tools/testing/selftests/livepatch"
DOCUMENTATION = "Documentation/livepatch"


def extract(tarball: Path, members: tuple[str, ...], destination: Path) -> None:
    """Unpack `members` (folders, relative to the source's top) of a linux-source tarball.

    Raises:
        UsageError: the tarball lacks one of them.
    """
    destination.mkdir()
    top = tarball.name.removesuffix(".tar.xz")
    run(["tar", "--extract", f"--file={tarball}", "--use-compress-program=xz --threads=0 --decompress",
         f"--directory={destination}", "--strip-components=1", "--no-same-owner",
         *(f"{top}/{member}" for member in members)])  # fmt: skip
    for member in members:
        if not (destination / member).is_dir():
            raise UsageError(f"{tarball.name}: has no {member}")
