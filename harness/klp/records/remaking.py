# SPDX-License-Identifier: Apache-2.0
"""The folder of an earlier `klp make`, which the next one of the same patch writes anew."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from klp.errors import HostLacks
from klp.files import remove_tree
from klp.modules.patchfile import SourcePatch
from klp.records.running import is_running
from klp.sourcepatch.report import REPORT, MadeFolder

_RELEASE = re.compile(r"\d+\.\d+")  # what the folder of a kernel's livepatches begins with


@contextmanager
def earlier_aside(folder: Path, source: SourcePatch) -> Iterator[bool]:
    """Put what `klp make` made of a patch of this name aside while it is made anew in its place.

    If the block raises, it is put back: a patch that does not build costs nothing of what was there. A
    folder with anything in it that `klp make` did not write is left alone, for `new_folder` to refuse.

    Yields:
        Whether there was such a folder.

    Raises:
        HostLacks: nothing can be put beside it.
    """
    if not _made_of(folder, source):
        yield False
        return
    folder = folder.absolute()
    try:
        room = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    except OSError as error:
        raise HostLacks(f"{folder.parent}: {error.strerror}", hint="-o DIR puts it elsewhere") from error
    with room as beside:
        earlier = Path(beside) / folder.name
        folder.rename(earlier)
        try:
            yield True
        except BaseException:
            if folder.exists():
                remove_tree(folder)
            earlier.rename(folder)
            raise


def _made_of(folder: Path, source: SourcePatch) -> bool:
    """Whether all that is in a folder was made of a patch of the same name, and may be removed."""
    try:
        made = msgspec.json.decode((folder / REPORT).read_bytes(), type=MadeFolder).made
    except (OSError, msgspec.MsgspecError):
        return False
    own = source.layers[-1].patches[-1]
    if not any(each.patches[-1:] == (own.name,) for each in made) or is_running(folder):
        return False
    inside = folder.resolve()
    if any(file.resolve().is_relative_to(inside) for file in source.files):
        return False
    patches = {name for each in made for name in each.patches} | {file.name for file in source.files}
    known = {REPORT, *patches, *(str(Path(each).with_suffix(".toml")) for each in patches)}
    return all(
        each.name in known or (each.is_dir() and _RELEASE.match(each.name)) for each in folder.iterdir()
    )
