# SPDX-License-Identifier: Apache-2.0
"""Files and folders: written whole or not at all, removed whole, and what they are known by."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds the old content or the new, and never a part of it."""
    # In the same folder, for a rename is atomic within one file system only.
    growing = file.with_name(f"{file.name}.part")
    try:
        growing.write_bytes(content)
        growing.replace(file)
    except BaseException:  # a full disk
        growing.unlink(missing_ok=True)
        raise


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it, read-only folders (a toolchain has some) included.

    Of a link to a folder the link is removed: what it leads to is somebody else's.
    """

    def open_and_retry(
        function: Callable[[str], object], path: str, failure: tuple[object, BaseException, object]
    ) -> None:
        if not os.path.lexists(path):
            return
        if Path(path) == folder:  # the folder that it is in is not ours to change
            raise failure[1]
        Path(path).parent.chmod(0o700)
        function(path)

    # Python 3.12 has `onexc` in its place; 3.11, which we run on as well, has not.
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder, onerror=open_and_retry)


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(inputs: Mapping[str, str]) -> str:
    """Return a cache key made of `inputs`, whatever their order: 16 hex digits of a SHA-256."""
    text = msgspec.json.encode(sorted(inputs.items()))
    return hashlib.sha256(text).hexdigest()[:16]
