# SPDX-License-Identifier: Apache-2.0
"""From a kernel's name to all it takes to boot it; other rooms begin here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from klp import paths
from klp.errors import UnknownName
from klp.files import digest_of, file_digest
from klp.images import debian, disk, keys
from klp.images.builder import EntryBuilder, KernelBuilder, KernelEntry
from klp.images.cache import Cache, EntryKind, Filled, Manifest, read_manifest
from klp.images.compiled import KernelSource, SourceRoot
from klp.images.definition import ImageDefinition, definition
from klp.images.figures import FIGURES, first_build
from klp.images.guest_root import GuestEntry, GuestRoot
from klp.images.names import kernel_complaint, known_kernels, tree_of
from klp.images.newest import NewestReleases
from klp.images.stock import StockEntry, StockKernel
from klp.images.tidying import DAY_S, GIB, OF_KERNELS, tidy
from klp.images.tree import TreeKernel
from klp.model import Image, Kernel
from klp.paths import CacheLayout
from klp.progress import Progress, spoken, teller, under_way
from klp.settings import Settings
from klp.sidework import beside

_GUEST_FILES = {
    "guest/usr/lib/klp/boot": "boot",
    "guest/usr/lib/klp/fstab": "fstab",
    "guest/usr/lib/klp/quiesce": "quiesce",
    "guest/etc/inittab": "inittab",
}


class Library:
    """Every image of one cache, built when it is asked for.

    Args:
        building: whether what is missing is built; if not, it raises `NotBuilt`.
    """

    def __init__(self, settings: Settings, progress: Progress, *, building: bool = True) -> None:
        self.layout = CacheLayout(paths.cache_root(settings.cache))
        self.cache = Cache(self.layout, progress, building=building)
        self._mirror = settings.mirror
        self._limit_bytes = settings.cache_limit_gib * GIB
        self._progress = progress

    def builder(self, kernel: str) -> KernelBuilder:
        """Return what builds `kernel`; nothing is built yet.

        Args:
            kernel: a name of `klp kernels`, or the folder of a kernel build tree.

        Raises:
            UsageError: there is no kernel of that name.
        """
        tree = tree_of(kernel)
        if tree:
            return TreeKernel(tree, self._toolchain, self._progress)
        return self._stock(definition(kernel))

    def ensure(self, kernel: str) -> Image:
        """Return the image that boots `kernel`, building what is missing.

        Args:
            kernel: as `builder`.

        Raises:
            UsageError: there is no such kernel, or the tree lacks what is needed.
            HostLacks: a tool, space or the archive is out of reach.
            NotBuilt: something is missing, and nothing is to be built.
        """
        builder = self.builder(kernel)
        root = GuestRoot(builder.definition(), self._mirror, self._progress)
        self._announce(kernel, (root, builder))
        # Side by side: each waits for the archive, and for one CPU.
        with beside(lambda: self._made(root)) as guest_made:
            entry, manifest = self._made(builder)
            guest, _ = guest_made()
        image = self._image(builder, entry, manifest, guest)
        self._tidy()
        return image

    def _image(self, builder: KernelBuilder, entry: Path, manifest: Manifest, guest: Path) -> Image:
        initrd, boot_digest = self._initrd(GuestEntry(guest), KernelEntry(entry), manifest)
        return Image(
            name=builder.name,
            digest=digest_of({"guest": guest.name, "kernel": entry.name, "boot": boot_digest}),
            kernel=self._kernel_of(builder, KernelEntry(entry), manifest, initrd),
            root_disk=GuestEntry(guest).disk,
            ssh_key=self.layout.ssh_key,
            host_key=keys.ensure_key(self.layout.host_key),
        )

    def release_of(self, kernel: str) -> str:
        """Return the release of a series' kernel as it is built; empty where it is not."""
        builder = self._stock(definition(kernel))
        digest = digest_of(builder.inputs())
        found = read_manifest(self.layout.entry(builder.kind, digest))
        return found.facts["release"] if found else ""

    def newest_release(self, kernel: str) -> str:
        """Ask the archive for the newest release of a series, and remember it.

        Raises:
            UnknownName: there is no such series.
            HostLacks: the archive is out of reach.
        """
        which = definition(kernel)
        with (
            self._progress.step(f"looking for the newest {kernel} in the archive"),
            tempfile.TemporaryDirectory(prefix="klp-") as folder,
        ):
            release = debian.newest_release(which, self._mirror, Path(folder), teller(self._progress))
        NewestReleases(self.layout).saw(kernel, release)
        return release

    def update(self, kernel: str) -> Image:
        """Return the image of a series' newest release, building what is missing; the older one stays.

        Raises:
            UnknownName: there is no such series: a build tree is as its user built it.
            HostLacks: as `ensure`.
        """
        built, newest = self.release_of(kernel), self.newest_release(kernel)
        if built and built != newest:
            NewestReleases(self.layout).take(kernel, newest)
        return self.ensure(kernel)

    def source(self, name: str) -> KernelSource:
        """Return the whole source of a definition's kernel with its compiler, for a `CompiledTree`.

        Raises:
            UsageError: there is no such definition.
            HostLacks: space or the archive is out of reach.
        """
        root = SourceRoot(definition(name), self._mirror, self._progress)
        return root.source(self._made(root)[0])

    def _tidy(self) -> None:
        """Keep the cache below its limit; what was used within a day stays, or it would go in turns."""
        total = sum(manifest.size for _, manifest in self.cache.entries())
        if total <= self._limit_bytes or not self.cache.building:
            return
        for each, gone in tidy(
            self.cache, limit_bytes=self._limit_bytes, unused_s=float("inf"), spared_s=DAY_S
        ):
            if gone:
                self._progress.note(f"removed from the cache: {each.folder.name} ({each.why})")

    def _announce(self, kernel: str, builders: Sequence[EntryBuilder]) -> None:
        """Say what is missing, and how long it will take to build."""
        missing = [each.kind for each in builders if not self.cache.has(each.kind, self._inputs(each))]
        if missing and self.cache.building:
            # Whoever boots it mostly wants probes in it next, and plans the next minutes now.
            more = spoken(FIGURES[EntryKind.SNAPSHOT].seconds)
            self._progress.note(
                f"first build of {kernel}, once: {first_build(missing)}; its first guest with probes takes "
                f"{more} more"
            )

    def _inputs(self, builder: EntryBuilder) -> dict[str, str]:
        with under_way(self._progress, "looking whether it is built"):  # reads much of a build tree
            return builder.inputs()

    def _made(self, builder: EntryBuilder) -> tuple[Path, Manifest]:
        return self.cache.ensure(builder.kind, self._inputs(builder), builder.fill)

    def _stock(self, which: ImageDefinition) -> StockKernel:
        taken = NewestReleases(self.layout).taken(which.name)
        return StockKernel(which, self._mirror, self._progress, taken)

    def _toolchain(self, which: ImageDefinition) -> Path:
        entry, _ = self._made(self._stock(which))
        return StockEntry(entry).toolchain

    def _initrd(self, guest: GuestEntry, kernel: KernelEntry, manifest: Manifest) -> tuple[Path, str]:
        """Return the initrd, and the digest of its entry.

        It is an entry of its own because it holds klp's own files for the guest: when they change, no
        package need be fetched again.
        """
        client = keys.ensure_key(self.layout.ssh_key)
        keys.ensure_key(self.layout.host_key)
        files = {inside: paths.GUEST_FILES / name for inside, name in _GUEST_FILES.items()}
        files["init"] = paths.GUEST_FILES / "init"
        inputs = {inside: file_digest(file) for inside, file in files.items()}
        inputs |= {"guest": guest.root.name, "kernel": manifest.digest, "client": client,
                   "host": file_digest(self.layout.host_key)}  # fmt: skip

        def fill(into: Path) -> Filled:
            scratch = into / "tree"
            host_key = into / "host_key"
            host_key.write_bytes(keys.dropbear_form(self.layout.host_key))
            content = {
                **files,
                "bin/busybox": guest.busybox,
                "modules": kernel.boot_modules,
                "guest/etc/klp/host_key": host_key,
                "guest/root/.ssh/authorized_keys": self.layout.ssh_key.with_suffix(".pub"),
            }
            disk.make_initrd(content, scratch, into / "initrd")
            return {}, ("initrd",)

        folder, made = self.cache.ensure(EntryKind.BOOT, inputs, fill)
        return folder / "initrd", made.digest

    def _kernel_of(
        self, builder: KernelBuilder, entry: KernelEntry, manifest: Manifest, initrd: Path
    ) -> Kernel:
        release = manifest.facts["release"]
        tools = builder.tools(entry.root, release)
        return Kernel(
            name=builder.name, release=release, digest=manifest.digest, image=entry.image, initrd=initrd,
            disk=entry.disk, build=tools.build, toolchain=tools.toolchain, source=tools.source,
            tree=tools.tree, config=tools.config, cache=self.layout.root, mirror=self._mirror,
        )  # fmt: skip

    def parts(self, kernel: str) -> list[tuple[Path, Manifest]]:
        """Return the finished entries that `kernel` alone uses; guest roots are shared, so not them.

        Raises:
            UsageError: there is no such kernel.
        """
        entries = self.cache.entries()
        # A tree that is gone is known by the folder that it was in.
        kind, mark = EntryKind.TREE, {"tree": str(Path(kernel).absolute())}
        if not kernel_complaint(kernel):
            builder = self.builder(kernel)
            kind, mark = builder.kind, builder.mark
        own = [
            (entry, manifest)
            for entry, manifest in entries
            if manifest.kind == kind and mark.items() <= manifest.inputs.items()
        ]
        if not own and kernel_complaint(kernel):
            raise UnknownName(
                f"unknown kernel {kernel}", kernel, known_kernels(),
                hint="klp image list shows what is built",
            )  # fmt: skip
        digests = {manifest.digest for _, manifest in own}
        boots = [
            (entry, manifest)
            for entry, manifest in entries
            if manifest.kind in OF_KERNELS and manifest.inputs.get("kernel") in digests
        ]
        return own + boots
