# SPDX-License-Identifier: Apache-2.0
"""A kernel's source, prepared once as the kernel's own build was, and kept in the cache.

It takes minutes and gigabytes (klp.images.figures). Compiled from it, a unit is byte for byte that of the
kernel, as long as source, configuration and compiler are those of the kernel's build.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp import arch
from klp.errors import BuildFailed, HostLacks, UsageError
from klp.files import remove_tree
from klp.images import debian, source
from klp.images.cache import Cache, EntryKind, Filled
from klp.images.definition import ImageDefinition, definition
from klp.images.figures import first_build
from klp.images.kbuild_lines import BUILD_STEPS, count_steps
from klp.images.kconfig import read_config
from klp.images.sandbox import inside
from klp.images.tree import TreeKernel
from klp.model import Kernel
from klp.paths import CacheLayout
from klp.process import run
from klp.progress import Progress, counter, teller
from klp.sourcepatch.includes import index_of
from klp.sourcepatch.values import PreparedTree, Way

# What preparing and patching take beside what builds modules: Kbuild's own tools, objtool's libraries,
# patch(1), and pahole, which makes BTF of a unit's debug information.
_PACKAGES = (
    "bc", "bison", "flex", "dwarves", "perl", "python3-minimal", "gawk", "patch", "kmod", "cpio",
    "xz-utils", "libssl-dev", "libxxhash-dev", "zlib1g-dev",
)  # fmt: skip
# The suite whose kpatch-build has the programs that know objects of gcc 14 (bookworm has none).
_KPATCH_SUITE = "6.12"
_KPATCH_PACKAGE = "kpatch-build"
_KPATCH = "usr/lib/kpatch"
# Raised whenever the same inputs are prepared in another way.
_RECIPE = "1"
# The first kernel's source with `objtool klp` (v6.19: tools/objtool: "Add 'klp diff' subcommand").
_OBJTOOL_KLP = "tools/objtool/klp-diff.c"
_OBJTOOL = "tools/objtool/objtool"
_INCLUDES = "includes.json"
_KLP_BUILD = "scripts/livepatch/klp-build"


def prepared_tree(kernel: Kernel, progress: Progress) -> PreparedTree:
    """Return the prepared source of a kernel, made now if it is not there.

    Raises:
        HostLacks: the archive is out of reach, or no longer has the source of this very kernel.
        UsageError: the kernel's own source is not known.
        BuildFailed: the source cannot be prepared.
    """
    if kernel.cache is None:
        raise UsageError(f"kernel {kernel.name}: not of a cache, so that its source cannot be kept")
    cache = Cache(CacheLayout(kernel.cache), progress)
    if kernel.tree:
        tree = _own_tree(kernel, kernel.tree, cache, progress)
    else:
        builder = PreparedSource(kernel, progress)
        entry, _ = cache.ensure(builder.kind, builder.inputs(), builder.fill)
        tree = builder.tree(entry)
    if tree.way is Way.OBJTOOL_KLP:
        return tree
    tools = KpatchTools(kernel.mirror, progress)
    kpatch, _ = cache.ensure(tools.kind, tools.inputs(), tools.fill)
    return dataclasses.replace(tree, kpatch=kpatch / "root" / _KPATCH)


def _own_tree(kernel: Kernel, tree: Path, cache: Cache, progress: Progress) -> PreparedTree:
    """Return a user's build tree as it stands: it was prepared by being built, and is never written to."""
    if (tree / "source").exists():
        raise UsageError(
            f"{tree}: built with O=, apart from its source",
            hint="a source patch takes a kernel that was built in its source's own folder",
        )
    if (tree / _KLP_BUILD).is_file() and read_config(tree / ".config").get("KLP_BUILD") == "y":
        progress.note(f"{tree} has {_KLP_BUILD}, too, which compares a whole build of vmlinux.o")
    builder = CompilerRoot(kernel, progress)
    entry, _ = cache.ensure(builder.kind, builder.inputs(), builder.fill)
    words = make_words(tree, tree / ".config", builder.compiler, kernel.release)
    return PreparedTree(kernel, _way(tree), entry / "root", tree, words, tree / _OBJTOOL)


def _way(tree: Path) -> Way:
    return Way.OBJTOOL_KLP if (tree / _OBJTOOL_KLP).is_file() else Way.CREATE_DIFF_OBJECT


def make_words(tree: Path, config: Path, compiler: str, release: str) -> tuple[str, ...]:
    """Return a make command for a kernel's source, but for its targets.

    Args:
        compiler: for the build's own programs.
    """
    # By the name under which the kernel's build called it: Kbuild keeps it in the configuration.
    target = read_config(config).get("CC_VERSION_TEXT", compiler).split()[0]
    return ("make", "-s", "-C", str(tree), f"CC={target}", f"HOSTCC={compiler}", f"KERNELRELEASE={release}")


@dataclass(frozen=True, slots=True)
class CompilerRoot:
    """Builds the entry of a root folder that works in users' build trees."""

    kernel: Kernel
    progress: Progress

    kind = EntryKind.PREPARED

    @property
    def _definition(self) -> ImageDefinition:
        assert self.kernel.tree
        return TreeKernel(self.kernel.tree, _no_toolchain, self.progress).definition()

    @property
    def compiler(self) -> str:
        """The compiler's name."""
        return host_compiler(self._definition)

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on."""
        return {"suite": self._definition.suite, "packages": " ".join(_packages(self._definition)),
                "mirror": self.kernel.mirror, "recipe": _RECIPE}  # fmt: skip

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`.

        Raises:
            HostLacks: the archive cannot be reached.
        """
        (into / "root").mkdir()
        with self.progress.step("compiler and tools for source patches"):
            debian.make_root(
                self._definition, self.kernel.mirror, _packages(self._definition), into / "root",
                tell=teller(self.progress),
            )  # fmt: skip
        return {}, ()


def _no_toolchain(_: ImageDefinition) -> Path:
    raise AssertionError("a definition is asked for, and nothing is built")


def _packages(which: ImageDefinition) -> tuple[str, ...]:
    return (*which.toolchain_packages, *_PACKAGES)


def host_compiler(which: ImageDefinition) -> str:
    """Return the compiler of a definition's toolchain."""
    [found] = (each for each in which.toolchain_packages if each.startswith("gcc-"))
    return found


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """Builds the entry of a stock kernel's prepared source (see `EntryBuilder`)."""

    kernel: Kernel
    progress: Progress

    kind = EntryKind.PREPARED

    @property
    def _definition(self) -> ImageDefinition:
        return definition(self.kernel.name)

    @property
    def _headers(self) -> Path:
        return self.kernel.toolchain / self.kernel.build.relative_to("/")

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on."""
        return {
            "kernel": self.kernel.digest,
            "source": self._package,
            "packages": " ".join(_packages(self._definition)),
            "mirror": self.kernel.mirror,
            "recipe": _RECIPE,
        }

    @property
    def _package(self) -> str:
        """The source package, in the version that the kernel's packages have."""
        shown = run(
            ["dpkg-query", f"--admindir={self.kernel.toolchain / 'var/lib/dpkg'}", "--show",
             "--showformat=${Version}", f"linux-headers-{self.kernel.release}"]
        ).stdout.strip()  # fmt: skip
        return f"{self._definition.kernel_source}={shown}"

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`.

        Raises:
            HostLacks: the archive cannot be reached, or has another version of the source; the cache's path
                has a blank in it.
            BuildFailed: the source cannot be prepared.
        """
        root, tree = into / "root", into / "tree"
        source.check_path(tree)  # before anything is fetched
        root.mkdir()
        with self.progress.step(f"source of {self.kernel.release}"):
            self.progress.note(f"once: {first_build([self.kind])}")
            self._make_root(root)
            tarball = source.tarball_in(root)
            with self.progress.step(f"unpacking {tarball.name}"):
                source.unpack(tarball, tree, tell=teller(self.progress))
                tarball.unlink()
            # The headers' package has the configuration and the checksums of exported symbols.
            for name in (".config", "Module.symvers"):
                shutil.copyfile(self._headers / name, tree / name)
            with self.progress.step("configuring it as the kernel was"):
                self._make(root, tree, "olddefconfig")
            with self.progress.step("preparing it as the kernel's build was"):
                # Builds objtool, too: with its `klp`, which the packaged one lacks, as libxxhash is there.
                self._make(root, tree, f"-j{os.cpu_count()}", "modules_prepare")
            with self.progress.step("who includes whom"):
                index = index_of(tree, arch.of(self.kernel.architecture).kernel, teller(self.progress))
                (into / _INCLUDES).write_bytes(msgspec.json.encode(index))
        return {"release": self.kernel.release}, ()

    def _make_root(self, root: Path) -> None:
        wanted = (*_packages(self._definition), self._package)
        try:
            with self.progress.step(f"compiler, tools and {self._package}"):
                debian.make_root(
                    self._definition, self.kernel.mirror, wanted, root, tell=teller(self.progress)
                )
        except HostLacks as error:
            raise HostLacks(
                f"{self._package} cannot be had: {error.message}",
                hint="a livepatch of a source patch takes the source of exactly this kernel: "
                f"`klp image rm {self.kernel.name}` and a new build take the archive's newest of both",
            ) from error

    def _make(self, root: Path, tree: Path, *words: str) -> None:
        # Not silent: its lines tell how far it is.
        argv = ["nice", *(each for each in self._words(tree) if each != "-s"), *words]
        made = run(
            inside(root, argv, cwd=tree, writable=[tree]), check=False,
            listen_out=count_steps(counter(self.progress, BUILD_STEPS)),
        )  # fmt: skip
        if made.status:
            output = "\n".join((made.stderr or made.stdout).splitlines()[-20:])
            raise BuildFailed(f"{self._package}: make {words[-1]} failed", output=output)

    def _words(self, tree: Path) -> tuple[str, ...]:
        config = self._headers / ".config"
        return make_words(tree, config, host_compiler(self._definition), self.kernel.release)

    def tree(self, entry: Path) -> PreparedTree:
        """Return what a finished entry holds."""
        tree = entry / "tree"
        return PreparedTree(
            self.kernel, _way(tree), entry / "root", tree, self._words(tree), tree / _OBJTOOL,
            includes=entry / _INCLUDES,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class KpatchTools:
    """Builds the entry of kpatch's programs, which all kernels without `objtool klp` share."""

    mirror: str
    progress: Progress

    kind = EntryKind.KPATCH

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on."""
        which = definition(_KPATCH_SUITE)
        return {"suite": which.suite, "architecture": which.architecture, "mirror": self.mirror,
                "packages": _KPATCH_PACKAGE, "recipe": _RECIPE}  # fmt: skip

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`.

        Raises:
            HostLacks: the archive cannot be reached.
        """
        # Unpacked, not installed: installed, it brings what builds whole kernels. Its programs need libelf
        # alone, which is in every root folder with a compiler.
        with self.progress.step("kpatch's programs, once for all kernels"):
            debian.fetch_packages(
                definition(_KPATCH_SUITE), self.mirror, [_KPATCH_PACKAGE], into, teller(self.progress)
            )
            [package] = (into / "klp").glob("*.deb")
            debian.unpack_package(package, into / "root")
            remove_tree(into / "klp")
        return {}, ()
