# SPDX-License-Identifier: Apache-2.0
"""The kernel's source package: all of it unpacked, or only what klp works with.

What it uses is the samples, selftests and documentation of livepatches, and the kernel's style checker.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from klp.errors import HostLacks, UsageError
from klp.process import run
from klp.progress import unheard

SAMPLES_FOLDER = "samples/livepatch"
SELFTESTS = "tools/testing/selftests/livepatch"
DOCUMENTATION = "Documentation/livepatch"
CHECKPATCH = "scripts/checkpatch.pl"
# checkpatch.pl reads two lists that stand beside it.
_CHECKED_BY = (CHECKPATCH, "scripts/spelling.txt", "scripts/const_structs.checkpatch")
# tar counts records of this length, and is asked to tell of each thousandth: of each ten megabytes.
_RECORD_BYTES = 10240
_TOLD_EACH = 1000
_READ = re.compile(r"^(?:tar: )?(\d+)$")


def members(selftest_modules: str) -> tuple[str, ...]:
    """Return the files and folders of a source that klp keeps; the selftests' modules may stand apart."""
    apart = () if selftest_modules.startswith(SELFTESTS) else (selftest_modules,)
    return (SAMPLES_FOLDER, SELFTESTS, DOCUMENTATION, *_CHECKED_BY, *apart)


def tarball_in(root: Path) -> Path:
    """Return the source's tarball in a folder that Debian's source package is unpacked in."""
    [found] = (root / "usr/src").glob("linux-source-*.tar.xz")
    return found


def unpack(tarball: Path, destination: Path, *wanted: str, tell: Callable[[str], None] = unheard) -> None:
    """Unpack a linux-source tarball, without its top folder: all of it, or what is wanted of it.

    Args:
        tell: gets how far it is.
    """
    destination.mkdir(parents=True)
    top = tarball.name.removesuffix(".tar.xz")
    whole = unpacked_bytes(tarball)

    def take(line: str) -> None:
        if found := _READ.match(line):
            tell(f"{int(found[1]) * _RECORD_BYTES / 1e6:.0f} of {whole / 1e6:.0f} MB")

    run(["tar", "--extract", f"--file={tarball}", "--use-compress-program=xz --threads=0 --decompress",
         f"--directory={destination}", "--strip-components=1", "--no-same-owner",
         f"--checkpoint={_TOLD_EACH}", "--checkpoint-action=echo=%u",
         *(f"{top}/{member}" for member in wanted)], listen=take)  # fmt: skip


def check_path(folder: Path) -> None:
    """See that a kernel can be built in a folder.

    Raises:
        HostLacks: its path holds what no makefile of the kernel's can do with.
    """
    if re.search(r"[\s:]", str(folder)):
        raise HostLacks(
            f"{folder}: no kernel can be built where the path has a blank or a colon",
            hint="KLP_CACHE=DIR puts the cache into a folder whose path has none",
        )


def unpacked_bytes(tarball: Path) -> int:
    """Return how many bytes an .xz file unpacks to, by its own index."""
    table = run(["xz", "--robot", "--list", tarball]).stdout.splitlines()
    # The word "file", streams, blocks, bytes as they are, bytes unpacked.
    [columns] = (words for line in table if (words := line.split("\t"))[0] == "file")
    return int(columns[4])


def extract(
    tarball: Path,
    wanted: tuple[str, ...],
    destination: Path,
    tell: Callable[[str], None] = unheard,
) -> None:
    """Unpack what is wanted (files and folders, relative to the source's top) of a linux-source tarball.

    Args:
        tell: gets how far it is.

    Raises:
        UsageError: the tarball lacks one of them.
    """
    unpack(tarball, destination, *wanted, tell=tell)
    for member in wanted:
        if not (destination / member).exists():
            raise UsageError(f"{tarball.name}: has no {member}")
