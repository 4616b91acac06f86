# SPDX-License-Identifier: Apache-2.0
"""The trimmed kernel: of Debian's source package, built once, and again with one mutant in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from klp.errors import UsageError
from klp.images.compiled import CompiledTree, KernelSource
from klp.progress import Progress
from tests.mutants.edit import Mutant, apply

HERE = Path(__file__).parent
CONFIG = HERE / "trimmed.config"


class Trimmed:
    """The trimmed kernel's build tree, with at most one mutant in it.

    Args:
        folder: where the tree is, or will be; `folder`.pristine keeps the files that mutants change.
    """

    def __init__(self, folder: Path, made_of: KernelSource, progress: Progress) -> None:
        self.folder = folder
        self._tree = CompiledTree(folder, CONFIG, made_of, progress)
        self._pristine = folder.with_name(f"{folder.name}.pristine")
        self._progress = progress

    def digest(self) -> str:
        """Return a key of what the unmutated kernel is made from."""
        return self._tree.digest()

    def build(self, mutant: Mutant | None) -> None:
        """Build the kernel with `mutant` in it, or without any; only what changed is compiled.

        Raises:
            UsageError: the mutant does not fit the source, or an option of the configuration is gone.
            BuildFailed: the compiler refused it.
        """
        self._unpack()
        self._tree.configure()
        self._put(mutant)
        what = f"kernel with {mutant.name}" if mutant else "unmutated kernel"
        with self._progress.step(f"building the {what}"):
            self._tree.compile()

    def check(self, mutant: Mutant) -> None:
        """Refuse a mutant that does not fit the source.

        Raises:
            UsageError: as `edit.apply`.
        """
        self._unpack()
        apply(self._original(mutant.file), mutant)

    def _unpack(self) -> None:
        if not self._tree.is_unpacked():
            shutil.rmtree(self._pristine, ignore_errors=True)
            self._tree.unpack()

    def _put(self, mutant: Mutant | None) -> None:
        """Write the mutant's file, and every other one as it was; what is right already keeps its age."""
        wanted = {str(each.relative_to(self._pristine)): each.read_text()
                  for each in self._pristine.rglob("*.[ch]")}  # fmt: skip
        if mutant:
            wanted[mutant.file] = apply(self._original(mutant.file), mutant)
        for name, text in wanted.items():
            if (self.folder / name).read_text() != text:
                (self.folder / name).write_text(text)

    def _original(self, name: str) -> str:
        """Return a source file's text as it was unpacked; it is kept the first time, before any change."""
        kept = self._pristine / name
        if not kept.is_file():
            if not (self.folder / name).is_file():
                raise UsageError(f"{name}: the kernel's source has no such file")
            kept.parent.mkdir(parents=True, exist_ok=True)
            growing = kept.with_suffix(".part")
            shutil.copyfile(self.folder / name, growing)
            growing.replace(kept)
        return kept.read_text()
