# SPDX-License-Identifier: Apache-2.0
"""Commands inside another root folder, by bubblewrap, which needs no root: it makes a user namespace."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def inside(
    root: Path,
    argv: Sequence[str],
    *,
    cwd: Path,
    writable: Sequence[Path] = (),
    readable: Sequence[Path] = (),
    over: Mapping[Path, Path] | None = None,
) -> list[str]:
    """Return the command that runs `argv` with `root` as its root folder and no network.

    Args:
        root: becomes ``/``, read-only.
        argv: the command, found in `root`.
        cwd: where it starts; must be among the folders below.
        writable: host folders seen at the same path, so that what a compiler prints names them.
        readable: the same, read-only.
        over: files and folders of such a folder, each with the host's that is seen in its place; read-only
            but for those that are among the writable.
    """
    shared = (*writable, *readable)
    binds = [word for each in readable for word in ("--ro-bind", str(each), str(each))]
    binds += [word for each in writable for word in ("--bind", str(each), str(each))]
    for place, file in (over or {}).items():
        binds += ["--bind" if file in writable else "--ro-bind", str(file), str(place)]
    open_folders = {parent for each in shared for parent in each.parents}
    return [
        "bwrap", *_expose(root, Path("/"), open_folders, frozenset(shared)),
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *binds,
        # The caller's PATH may name none of the root's folders.
        "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin",
        # A new session: without one, what runs inside could type into the user's terminal (TIOCSTI).
        "--unshare-all", "--die-with-parent", "--new-session", "--chdir", str(cwd), "--", *argv,
    ]  # fmt: skip


def _expose(root: Path, folder: Path, open_folders: set[Path], shared: frozenset[Path]) -> list[str]:
    """Return the mounts that show `folder` of `root` read-only, with room for what is shared below it.

    bwrap can make a mount point only in a tmpfs, so every folder on the way to a shared one becomes a
    tmpfs with its other children bound back in. ``/proc``, ``/dev`` and ``/tmp`` get mounts of their own.
    """
    mounts = ["--tmpfs", str(folder)]
    inside = root / folder.relative_to("/")
    for child in sorted(inside.iterdir()) if inside.is_dir() else ():
        place = folder / child.name
        if place in shared or str(place) in ("/proc", "/dev", "/tmp"):
            continue
        if child.is_symlink():
            mounts += ["--symlink", str(child.readlink()), str(place)]
        elif place in open_folders and child.is_dir():
            mounts += _expose(root, place, open_folders, shared)
        else:
            mounts += ["--ro-bind", str(child), str(place)]
    return mounts


def as_root_of_files(argv: Sequence[str | Path]) -> list[str]:
    """Return `argv`, run where our files look like root's: mke2fs -d writes the owner that it sees."""
    words = [str(word) for word in argv]
    return words if os.geteuid() == 0 else ["unshare", "--map-root-user", "--", *words]
