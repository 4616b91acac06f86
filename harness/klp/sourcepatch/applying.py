# SPDX-License-Identifier: Apache-2.0
"""Patches applied to copies of the files that they touch, so that nothing else can be changed by them.

GNU patch does it, on one file at a time, whose name it is given: what a patch says of other files, of links
or of an editor to call never reaches it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.errors import HostLacks, PatchRefused
from klp.images.sandbox import inside
from klp.process import run
from klp.sourcepatch.diff import FileDiff, read_diff
from klp.sourcepatch.values import PreparedTree

# Not TMPDIR: a folder below /tmp can be bound into every root folder (images/sandbox.py).
_SCRATCH_PARENT = "/tmp"


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """A file that patches change.

    Attributes:
        path: relative to the tree.
        before: its content in the tree; None where the patches make it.
        after: its content with all patches; None where they remove it.
    """

    path: str
    before: bytes | None
    after: bytes | None


def apply(patches: Sequence[Path], tree: PreparedTree) -> tuple[PatchedFile, ...]:
    """Apply patches, each to what those before it left, and return the files that differ, by path.

    Hunks may stand some lines away from where the patch has them; all their context must be there.

    Raises:
        PatchRefused: a patch cannot be read, or does not apply; has the rejected hunk.
        HostLacks: the sandbox does not work here.
    """
    work = _Work(tree)
    for patch in patches:
        work.apply(patch)
    return work.files()


class _Work:
    """Files on their way from the tree through all patches."""

    def __init__(self, tree: PreparedTree) -> None:
        self._tree = tree
        self._before: dict[str, bytes | None] = {}
        self._now: dict[str, bytes | None] = {}

    def files(self) -> tuple[PatchedFile, ...]:
        """Return what differs from the tree by now."""
        return tuple(
            PatchedFile(path, before, self._now[path])
            for path, before in sorted(self._before.items())
            if before != self._now[path]
        )

    def apply(self, patch: Path) -> None:
        """Apply one patch to all its files.

        Raises:
            PatchRefused: it does not apply.
        """
        for each in read_diff(patch):
            content = self._read(patch, each.source) if each.source else b""
            if each.target and each.target != each.source and self._content(each.target) is not None:
                raise PatchRefused(
                    f"{each.target}: {patch} makes this file, and {self._where} has it already", output=""
                )
            result = self._patched(patch, each, content)
            if each.source and each.target != each.source and not each.copied:
                self._now[each.source] = None
            if each.target:
                self._now[each.target] = result
            elif result:
                raise PatchRefused(
                    f"{each.source}: {patch} removes this file, and {self._where} has more in it", output=""
                )

    @property
    def _where(self) -> str:
        return self._tree.kernel.release

    def _read(self, patch: Path, path: str) -> bytes:
        content = self._content(path)
        if content is None:
            raise PatchRefused(
                f"{path}: {patch} changes this file, and the source of {self._where} has none",
                output="",
                hint="paths are taken as by `patch -p1`: their first folder is left out",
            )
        return content

    def _content(self, path: str) -> bytes | None:
        """Return a file's content as it is by now; None where there is no such file."""
        if path not in self._now:
            self._before[path] = self._now[path] = _in_tree(self._tree.tree, path)
        return self._now[path]

    def _patched(self, patch: Path, each: FileDiff, content: bytes) -> bytes:
        if not each.hunks:
            return content
        with tempfile.TemporaryDirectory(prefix="klp-patch-", dir=_SCRATCH_PARENT) as made:
            attempt = _Attempt(Path(made), self._tree)
            attempt.prepare(each, content)
            rejected = attempt.run()
            if not rejected:
                return attempt.result()
            if not attempt.run("--reverse", "--dry-run"):
                raise PatchRefused(
                    f"{each.target or each.source}: {patch} is in {self._where} already",
                    output="",
                    hint="what the patch would change is so in this kernel's source",
                )
        number, count = rejected[0], len(each.hunks)
        hunk = each.hunks[number - 1]
        more = f"; nor do {len(rejected) - 1} more" if len(rejected) > 1 else ""
        raise PatchRefused(
            f"{patch.name}: hunk {number} of {count} at line {hunk.line} does not apply to "
            f"{each.source or each.target} of {self._where}{more}",
            output="".join(each.hunks[one - 1].text for one in rejected)
            .encode("utf-8", "surrogateescape")
            .decode("utf-8", "replace"),
            hint="the source that the patch was made for differs there: make it anew for this kernel",
        )


class _Attempt:
    """GNU patch at work on one file in a folder of its own."""

    def __init__(self, folder: Path, tree: PreparedTree) -> None:
        self._folder = folder
        self._tree = tree

    def prepare(self, each: FileDiff, content: bytes) -> None:
        """Write the file, and the hunks with names that mean nothing."""
        (self._folder / "file").write_bytes(content)
        hunks = "".join(one.text for one in each.hunks)
        text = f"--- a/file\n+++ b/file\n{hunks}"
        (self._folder / "hunks").write_bytes(text.encode("utf-8", "surrogateescape"))

    def run(self, *options: str) -> tuple[int, ...]:
        """Run patch, and return the numbers of the hunks that it rejects.

        Raises:
            HostLacks: the sandbox does not work here.
            PatchRefused: it ended in another way.
        """
        argv = ["patch", "--unified", "--binary", "--force", "--fuzz=0", "--no-backup-if-mismatch",
                "--output=result", "--reject-file=rejected", *options, "file", "hunks"]  # fmt: skip
        done = run(
            inside(self._tree.root, argv, cwd=self._folder, writable=[self._folder]),
            check=False, env={"TMPDIR": "/tmp"},
        )  # fmt: skip
        rejected = tuple(
            int(each) for each in re.findall(r"^Hunk #(\d+) FAILED", done.stdout, re.MULTILINE)
        )
        if done.status and not rejected:
            said = (done.stderr or done.stdout).strip().partition("\n")[0]
            if said.startswith("bwrap: "):
                raise HostLacks(
                    f"the sandbox does not work here: {said.removeprefix('bwrap: ')}",
                    hint="klp doctor says what to allow",
                )
            raise PatchRefused(f"patch could not apply it: {said}", output=done.stdout)
        return rejected

    def result(self) -> bytes:
        """Return the patched file's content."""
        return (self._folder / "result").read_bytes()


def _in_tree(tree: Path, path: str) -> bytes | None:
    """Return a file's content; None where there is none.

    Raises:
        PatchRefused: a link is on the way, which may lead anywhere, or it is no file.
    """
    file = tree / path
    for place in (file, *file.parents):
        if place == tree:
            break
        if place.is_symlink():
            raise PatchRefused(
                f"{path}: {place.relative_to(tree)} is a symbolic link in the source", output=""
            )
    if file.is_dir():
        raise PatchRefused(f"{path}: is a folder in the source", output="")
    # A file that stands where the path has a folder.
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
