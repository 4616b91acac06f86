# SPDX-License-Identifier: Apache-2.0
"""Commands inside a root folder, as root and as an ordinary user alike (bubblewrap)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def inside(
    root: Path,
    argv: Sequence[str],
    *,
    cwd: Path,
    writable: Sequence[Path] = (),
    readable: Sequence[Path] = (),
) -> list[str]:
    """Return the command that runs `argv` with `root` as its root folder and no network.

    Args:
        root: becomes ``/``, read-only.
        argv: the command, found in `root`.
        cwd: where it starts; must be among the folders below.
        writable: host folders seen at the same path, so that what a compiler prints names them.
        readable: the same, read-only.
    """
    binds = [word for each in readable for word in ("--ro-bind", str(each), str(each))]
    binds += [word for each in writable for word in ("--bind", str(each), str(each))]
    # A folder below / that the root lacks can only be made in a tmpfs.
    tops = sorted({f"/{each.parts[1]}" for each in (*writable, *readable)})
    covers = [word for top in tops if not (root / top[1:]).is_dir() for word in ("--dir", top)]
    mounts = ["--tmpfs", "/"]
    for child in sorted(root.iterdir()):
        if child.is_symlink():
            mounts += ["--symlink", str(child.readlink()), f"/{child.name}"]
        elif child.is_dir() and child.name not in ("proc", "dev", "tmp"):
            mounts += ["--ro-bind", str(child), f"/{child.name}"]
    return [
        "bwrap", *mounts, *covers, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *binds,
        "--unshare-all", "--die-with-parent", "--new-session", "--chdir", str(cwd), "--", *argv,
    ]  # fmt: skip


def as_root_of_files(argv: Sequence[str | Path]) -> list[str]:
    """Return `argv` run so that files of ours look like root's: mke2fs -d copies the owner it sees."""
    words = [str(word) for word in argv]
    return words if os.geteuid() == 0 else ["unshare", "--map-root-user", "--", *words]
