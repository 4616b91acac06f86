# SPDX-License-Identifier: Apache-2.0
"""A build tree that klp makes: Debian's kernel source with another configuration, compiled here.

Once compiled it is a build tree like a user's: `Library.ensure` takes its folder as a kernel's name.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from klp.errors import BuildFailed, UsageError
from klp.files import digest_of, file_digest
from klp.images import debian, source
from klp.images.cache import EntryKind, Filled
from klp.images.definition import ImageDefinition
from klp.images.kbuild_lines import BUILD_STEPS, count_steps
from klp.images.kconfig import read_config
from klp.images.sandbox import inside
from klp.process import run
from klp.progress import Progress, counter, teller

# What building a whole kernel takes beside what builds modules for it.
_PACKAGES = ("bc", "bison", "flex", "dwarves", "perl", "python3-minimal", "kmod", "cpio", "xz-utils")
# The kernel holds these in its version string; fixed, so that equal sources make equal kernels.
_FIXED = ("KBUILD_BUILD_TIMESTAMP=2026-01-01", "KBUILD_BUILD_USER=klp", "KBUILD_BUILD_HOST=klp")


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A root folder with a compiler and a kernel's whole source, as Debian has them."""

    root: Path
    compiler: str

    @property
    def tarball(self) -> Path:
        """The kernel's source."""
        return source.tarball_in(self.root)

    def version(self) -> str:
        """Return the version of the source package."""
        shown = run(["dpkg-query", f"--admindir={self.root / 'var/lib/dpkg'}", "--show",
                     "--showformat=${Version}\n", "linux-source-*"]).stdout.split()  # fmt: skip
        return shown[0] if shown else "unknown"


@dataclass(frozen=True, slots=True)
class SourceRoot:
    """Builds the entry of a definition's `KernelSource`."""

    which: ImageDefinition
    mirror: str
    progress: Progress

    kind = EntryKind.SOURCE

    @property
    def _packages(self) -> tuple[str, ...]:
        return (*self.which.toolchain_packages, *_PACKAGES, self.which.kernel_source)

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on."""
        return {
            "suite": self.which.suite,
            "architecture": self.which.architecture,
            "packages": " ".join(self._packages),
            "mirror": self.mirror,
        }

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`.

        Raises:
            HostLacks: the archive cannot be reached, or packages are missing.
        """
        (into / "root").mkdir()
        with self.progress.step(f"compiler and source of kernel {self.which.name}"):
            debian.make_root(
                self.which, self.mirror, self._packages, into / "root", tell=teller(self.progress)
            )
        return {}, ()

    def source(self, entry: Path) -> KernelSource:
        """Return what a finished entry holds."""
        [compiler] = (each for each in self._packages if each.startswith("gcc-"))
        return KernelSource(entry / "root", compiler)


class CompiledTree:
    """A build tree in a folder that stays, so that only what changed is compiled again.

    Args:
        folder: where the tree is, or will be.
        config: the options that are wanted; all others are off.
        made_of: the kernel's source, with a compiler.
    """

    def __init__(self, folder: Path, config: Path, made_of: KernelSource, progress: Progress) -> None:
        self.folder = folder
        self._config = config
        self._made_of = made_of
        self._progress = progress

    def digest(self) -> str:
        """Return a key of what the kernel is made from."""
        return digest_of({"source": self._made_of.version(), "config": file_digest(self._config)})

    def is_unpacked(self) -> bool:
        """Whether the folder holds the source's present version."""
        return _says(self._unpacked, self._made_of.version())

    def unpack(self) -> None:
        """Unpack the source unless it is there; a tree of another version, or cut short, is replaced."""
        if self.is_unpacked():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        with self._progress.step(f"unpacking {self._made_of.tarball.name}"):
            source.unpack(self._made_of.tarball, self.folder, tell=teller(self._progress))
        self._unpacked.write_text(self._made_of.version())

    def configure(self) -> None:
        """Make the .config of the wanted options, unless it is there.

        Raises:
            UsageError: this kernel does not take one of them.
            BuildFailed: it could not be made.
        """
        if _says(self._configured, file_digest(self._config)):
            return
        self._make(f"KCONFIG_ALLCONFIG={self._config}", "allnoconfig")
        # Kconfig drops in silence what depends on an option that is off, or is called otherwise by now.
        asked, got = read_config(self._config), read_config(self.folder / ".config")
        lost = [f"CONFIG_{name}" for name, value in asked.items() if got.get(name) != value]
        if lost:
            raise UsageError(f"{self._config.name}: this kernel does not take {', '.join(lost)}")
        self._configured.write_text(file_digest(self._config))

    def compile(self) -> None:
        """Build kernel and modules of the sources as they stand now.

        Raises:
            BuildFailed: the compiler refused them.
        """
        self._make(f"-j{os.cpu_count()}", "all")

    @property
    def _unpacked(self) -> Path:
        return self.folder / ".unpacked"

    @property
    def _configured(self) -> Path:
        return self.folder / ".configured"

    def _make(self, *words: str) -> None:
        # By name: Debian's compiler packages have no plain `gcc`.
        compiler = self._made_of.compiler
        tools = (f"CC={compiler}", f"HOSTCC={compiler}")
        argv = ["nice", "make", "-C", str(self.folder), *tools, *_FIXED, *words]
        readable = [self._config.parent]
        made = run(
            inside(self._made_of.root, argv, cwd=self.folder, writable=[self.folder], readable=readable),
            check=False,
            listen_out=count_steps(counter(self._progress, BUILD_STEPS)),
        )
        if made.status:
            output = "\n".join(made.stderr.splitlines()[-20:])
            raise BuildFailed(f"{self.folder}: make {words[-1]} failed", output=output)


def _says(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted
