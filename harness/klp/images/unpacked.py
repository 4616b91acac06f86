# SPDX-License-Identifier: Apache-2.0
"""A root folder of packages that are unpacked, not installed: half of the time, and enough for a compiler.

What the packages' own scripts would have done, and compilers and makefiles miss, is done here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

from klp.images.debian import LEFT_OUT
from klp.process import pipe
from klp.progress import unheard

# bookworm's packages still have files in these, which Debian's installers make links first.
_MERGED = ("bin", "sbin", "lib", "lib64")
# Of maintainer scripts: mawk's and dash's alternatives, and what base-passwd makes of its own copies.
_LINKS = {"usr/bin/awk": "mawk", "usr/bin/sh": "dash"}
_COPIES = {
    "etc/passwd": "usr/share/base-passwd/passwd.master",
    "etc/group": "usr/share/base-passwd/group.master",
}
_STATUS = "var/lib/dpkg/status"


def unpack_root(packages: Iterable[Path], root: Path, tell: Callable[[str], None] = unheard) -> None:
    """Unpack packages into the empty folder `root`, which then can be run in (see `sandbox.inside`).

    dpkg-query finds there what was unpacked, in which version.

    Args:
        packages: .deb files, each called ``NAME_VERSION_ARCHITECTURE.deb`` as apt stores them.
        tell: gets how far it is.
    """
    for folder in _MERGED:
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    wanted = sorted(packages)
    for number, package in enumerate(wanted, start=1):
        tell(f"unpacking {package.name.partition('_')[0]}, {number} of {len(wanted)}")
        _unpack(package, root)
    for place, target in _LINKS.items():
        if not (root / place).exists():
            (root / place).symlink_to(target)
    for place, source in _COPIES.items():
        if (root / source).exists():
            (root / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(root / source, root / place)
    status = root / _STATUS
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("".join(map(_stanza, wanted)))


def _unpack(package: Path, root: Path) -> None:
    left_out = (f"--exclude=.{pattern}" for pattern in LEFT_OUT)
    pipe(
        ["dpkg-deb", "--fsys-tarfile", package],
        ["tar", "--extract", "--file=-", f"--directory={root}", "--no-same-owner", "--preserve-permissions",
         "--keep-directory-symlink", *left_out],
    )  # fmt: skip


def _stanza(package: Path) -> str:
    """Return what dpkg's record says of a package; in a file's name the colon of an epoch is quoted."""
    name, version, architecture = unquote(package.stem).split("_")
    return (
        f"Package: {name}\nStatus: install ok unpacked\nArchitecture: {architecture}\n"
        f"Version: {version}\nMaintainer: Debian\nDescription: unpacked, not installed\n\n"
    )
