# SPDX-License-Identifier: Apache-2.0
"""From a kernel's name to all it takes to boot it: the door to this room."""

from __future__ import annotations

from pathlib import Path

from klp import paths
from klp.errors import UsageError
from klp.files import digest_of, file_digest
from klp.images import disk, keys
from klp.images.cache import Cache, Manifest
from klp.images.definition import ImageDefinition, definition, definitions
from klp.images.stock import StockBuilder
from klp.images.tree import TreeBuilder
from klp.model import Image, Kernel
from klp.paths import CacheLayout
from klp.progress import Progress
from klp.settings import Settings

_GUEST_FILES = {
    "guest/usr/lib/klp/boot": "boot",
    "guest/usr/lib/klp/quiesce": "quiesce",
    "guest/etc/inittab": "inittab",
}


class Library:
    """Every image of one cache, built when it is asked for.

    Args:
        building: whether what is missing is built; else it is told by `NotBuilt`.
    """

    def __init__(self, settings: Settings, progress: Progress, *, building: bool = True) -> None:
        self.layout = CacheLayout(paths.cache_root(settings.cache))
        self.cache = Cache(self.layout, progress, building=building)
        self._progress = progress
        self._stock = StockBuilder(self.cache, settings, progress)
        self._tree = TreeBuilder(self.cache, progress)

    def ensure(self, kernel: str) -> Image:
        """Return the image that boots `kernel`, building what is missing.

        Args:
            kernel: a name of `klp kernels`, or the folder of a kernel build tree.

        Raises:
            UsageError: there is no such kernel, or the tree lacks what is needed.
            HostLacks: a tool, space or the archive is out of reach.
            NotBuilt: something is missing, and nothing is to be built.
        """
        if "/" in kernel or (kernel not in definitions() and Path(kernel).is_dir()):
            return self._from_tree(Path(kernel).absolute())
        return self._from_definition(definition(kernel))

    def _from_definition(self, which: ImageDefinition) -> Image:
        guest, _ = self._stock.guest_root(which)
        entry, manifest = self._stock.kernel(which)
        release = manifest.facts["release"]
        return self._image(
            which.name, guest, entry, manifest,
            build=Path("/usr/src") / f"linux-headers-{release}", toolchain=entry / "toolchain",
            source=entry / "source", tree=None,
        )  # fmt: skip

    def _from_tree(self, tree: Path) -> Image:
        """A user's kernel in the default suite's guest, built against with a compiler like its own."""
        self._tree.check(tree)
        which = self._tree.matching_definition(tree)
        guest, _ = self._stock.guest_root(which)
        helper, _ = self._stock.kernel(which)
        entry, manifest = self._tree.kernel(tree)
        return self._image(
            str(tree), guest, entry, manifest,
            build=self._tree.build_folder(tree), toolchain=helper / "toolchain",
            source=self._tree.source_folder(tree), tree=tree,
        )  # fmt: skip

    def _image(
        self,
        name: str,
        guest: Path,
        entry: Path,
        manifest: Manifest,
        *,
        build: Path,
        toolchain: Path,
        source: Path | None,
        tree: Path | None,
    ) -> Image:
        initrd, boot_digest = self._initrd(guest, entry, manifest)
        digest = digest_of({"guest": guest.name, "kernel": entry.name, "boot": boot_digest})
        kernel = Kernel(
            name=name, release=manifest.facts["release"], digest=manifest.digest,
            image=entry / "kernel", initrd=initrd, disk=entry / "kernel.ext4", build=build,
            toolchain=toolchain, source=source, tree=tree,
        )  # fmt: skip
        return Image(
            name=name, digest=digest, kernel=kernel, root_disk=guest / "root.ext4",
            ssh_key=self.layout.ssh_key, host_key=keys.ensure_key(self.layout.host_key),
        )  # fmt: skip

    def _initrd(self, guest: Path, entry: Path, manifest: Manifest) -> tuple[Path, str]:
        """The initrd is an entry of its own: it changes with the guest's files, not with Debian."""
        client = keys.ensure_key(self.layout.ssh_key)
        keys.ensure_key(self.layout.host_key)
        files = {inside: paths.GUEST_FILES / name for inside, name in _GUEST_FILES.items()}
        files["init"] = paths.GUEST_FILES / "init"
        inputs = {inside: file_digest(file) for inside, file in files.items()}
        inputs |= {"guest": guest.name, "kernel": manifest.digest, "client": client,
                   "host": file_digest(self.layout.host_key)}  # fmt: skip

        def fill(into: Path) -> tuple[dict[str, str], tuple[str, ...]]:
            scratch = into / "tree"
            host_key = into / "host_key"
            host_key.write_bytes(keys.dropbear_form(self.layout.host_key))
            content = {
                **files,
                "bin/busybox": guest / "busybox",
                "modules": entry / "boot-modules",
                "guest/etc/klp/host_key": host_key,
                "guest/root/.ssh/authorized_keys": self.layout.ssh_key.with_suffix(".pub"),
            }
            disk.make_initrd(content, scratch, into / "initrd")
            return {}, ("initrd",)

        folder, made = self.cache.ensure("boot", inputs, fill)
        return folder / "initrd", made.digest

    def parts(self, kernel: str) -> list[tuple[Path, Manifest]]:
        """Return the finished entries that `kernel` alone uses; guest roots are shared, so not them.

        Raises:
            UsageError: there is no such kernel.
        """
        if kernel not in definitions() and not Path(kernel).is_dir():
            raise UsageError(f"unknown kernel {kernel}", hint="klp image list shows what is built")
        own = [
            (entry, manifest)
            for entry, manifest in self.cache.entries()
            if kernel == manifest.inputs.get("series")
            or str(Path(kernel).absolute()) == manifest.inputs.get("tree")
        ]
        digests = {manifest.digest for _, manifest in own}
        boots = [
            (entry, manifest)
            for entry, manifest in self.cache.entries()
            if manifest.kind in ("boot", "snapshot") and manifest.inputs["kernel"] in digests
        ]
        return own + boots
