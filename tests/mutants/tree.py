# SPDX-License-Identifier: Apache-2.0
"""The trimmed kernel: of Debian's source package, built once, and again with one mutant in it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from klp.errors import BuildFailed, UsageError
from klp.files import digest_of, file_digest
from klp.images import debian
from klp.images.cache import Cache
from klp.images.definition import ImageDefinition
from klp.images.kconfig import read_config
from klp.images.sandbox import inside
from klp.process import run
from klp.progress import Progress
from tests.mutants.edit import Mutant, apply

HERE = Path(__file__).parent
CONFIG = HERE / "trimmed.config"
# What building a whole kernel takes beside what builds modules for it.
_PACKAGES = ("bc", "bison", "flex", "dwarves", "perl", "python3-minimal", "kmod", "cpio", "xz-utils")
# Equal sources make equal kernels.
_FIXED = ("KBUILD_BUILD_TIMESTAMP=2026-01-01", "KBUILD_BUILD_USER=klp", "KBUILD_BUILD_HOST=klp")
_GOT = ".unpacked"


@dataclass(frozen=True, slots=True)
class Builder:
    """A root folder with the compiler and the kernel's source package, as Debian has them."""

    root: Path
    compiler: str

    @property
    def tarball(self) -> Path:
        """The kernel's source."""
        [found] = (self.root / "usr/src").glob("linux-source-*.tar.xz")
        return found

    def source_version(self) -> str:
        """Return the version of the source package."""
        told = run(["dpkg-query", f"--admindir={self.root / 'var/lib/dpkg'}", "--show",
                    "--showformat=${Version}\n", "linux-source-*"]).stdout.split()  # fmt: skip
        return told[0] if told else "unknown"


def builder(cache: Cache, definition: ImageDefinition, mirror: str, progress: Progress) -> Builder:
    """Return what kernels of `definition` are built with, fetched from the archive if it is not there.

    Raises:
        HostLacks: the archive cannot be reached.
    """
    packages = (*definition.toolchain_packages, *_PACKAGES, definition.kernel_source)

    def fill(into: Path) -> tuple[dict[str, str], tuple[str, ...]]:
        (into / "root").mkdir()
        with progress.step(f"compiler and source of kernel {definition.name}"):
            debian.make_root(definition, mirror, packages, into / "root")
        return {}, ()

    inputs = {
        "suite": definition.suite,
        "architecture": definition.architecture,
        "packages": " ".join(packages),
        "mirror": mirror,
    }
    entry, _ = cache.ensure("builder", inputs, fill)
    [compiler] = (each for each in packages if each.startswith("gcc-"))
    return Builder(entry / "root", compiler)


class Trimmed:
    """The trimmed kernel's build tree, with at most one mutant in it.

    Args:
        folder: where the tree is, or will be; `folder`.pristine keeps the files that mutants change.
    """

    def __init__(self, folder: Path, builder: Builder, progress: Progress) -> None:
        self.folder = folder
        self._pristine = folder.with_name(f"{folder.name}.pristine")
        self._builder = builder
        self._progress = progress

    def digest(self) -> str:
        """Return a key of what the unmutated kernel is made from."""
        return digest_of({
            "source": self._builder.source_version(),
            "config": file_digest(CONFIG),
        })  # fmt: skip

    def build(self, mutant: Mutant | None) -> None:
        """Build the kernel with `mutant` in it, or without any; only what changed is compiled.

        Raises:
            UsageError: the mutant does not fit the source, or an option of the configuration is gone.
            BuildFailed: the compiler refused it.
        """
        self._unpack()
        self._configure()
        self._put(mutant)
        what = f"kernel with {mutant.name}" if mutant else "unmutated kernel"
        with self._progress.step(f"building the {what}"):
            self._make(f"-j{os.cpu_count()}", "all")

    def check(self, mutant: Mutant) -> None:
        """Refuse a mutant that does not fit the source.

        Raises:
            UsageError: as `edit.apply`.
        """
        self._unpack()
        apply(self._original(mutant.file), mutant)

    def _unpack(self) -> None:
        stamp, wanted = self.folder / _GOT, self._builder.source_version()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        for each in (self.folder, self._pristine):
            shutil.rmtree(each, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with self._progress.step(f"unpacking {self._builder.tarball.name}"):
            run(["tar", "--extract", f"--file={self._builder.tarball}", f"--directory={self.folder}",
                 "--use-compress-program=xz --threads=0 --decompress", "--strip-components=1",
                 "--no-same-owner"])  # fmt: skip
        stamp.write_text(wanted)

    def _configure(self) -> None:
        stamp, wanted = self.folder / ".configured", file_digest(CONFIG)
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        self._make(f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig")
        asked, got = read_config(CONFIG), read_config(self.folder / ".config")
        lost = [f"CONFIG_{name}" for name, value in asked.items() if got.get(name) != value]
        if lost:
            raise UsageError(f"{CONFIG.name}: this kernel does not take {', '.join(lost)}")
        stamp.write_text(wanted)

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

    def _make(self, *words: str) -> None:
        compiler = self._builder.compiler
        tools = (f"CC={compiler}", f"HOSTCC={compiler}")
        argv = ["nice", "make", "-C", str(self.folder), *tools, *_FIXED, *words]
        made = run(
            inside(self._builder.root, argv, cwd=self.folder, writable=[self.folder], readable=[HERE]),
            check=False,
        )
        if made.status:
            output = "\n".join(made.stderr.splitlines()[-20:])
            raise BuildFailed(f"{self.folder}: make {words[-1]} failed", output=output)
