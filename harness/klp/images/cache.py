# SPDX-License-Identifier: Apache-2.0
"""A content-addressed store of folders.

An entry is named by a digest of what went into it. It grows in ``building/`` and is renamed into place when
it is whole, so whoever finds one may use it, and a builder that dies leaves nothing that looks finished.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from klp.diskspace import disk_full, free_mib, is_full
from klp.errors import Busy, HostLacks, KlpError, VmLost
from klp.files import digest_of, file_digest, remove_tree
from klp.inuse import USES, unused
from klp.paths import CacheLayout
from klp.progress import Progress, under_way

MANIFEST = "manifest.json"
# With less left a disk counts as full.
_ROOM_MIB = 4

# What fills an entry returns: facts that were learned in the making, and the files to hash.
Filled = tuple[dict[str, str], tuple[str, ...]]


class EntryKind(StrEnum):
    """The kinds of entries; the first half of an entry's name, the digest being the second."""

    GUEST = "guest"  # a root disk that the kernels of a suite share
    KERNEL = "kernel"  # a kernel of Debian's, with the toolchain that builds modules for it
    TREE = "tree"  # a kernel of a build tree
    BOOT = "boot"  # an initrd, for a guest root and a kernel
    SNAPSHOT = "snapshot"  # a guest that was booted and saved, for an image
    COMPILER = "compiler"  # the BCC of a guest root, as a folder to run it in
    PROGRAMS = "programs"  # the probes' BPF programs, compiled for a kernel
    SOURCE = "source"  # a compiler and a kernel's whole source, to build kernels of
    PREPARED = "prepared"  # a kernel's source, prepared as its build was, to compile units of
    KPATCH = "kpatch"  # programs of kpatch's that compare objects


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry is and was made from; written when all else of it is there.

    Attributes:
        kind: an `EntryKind`, or one that only another version of klp knows.
        digest: hex digest of `inputs`.
        inputs: what it was made from, in words.
        facts: what was learned in the making, such as the kernel's release.
        files: relative path to SHA-256, of the files that `klp image verify` reads again.
        size: bytes it takes on the disk.
        built: seconds since the epoch.
    """

    kind: str
    digest: str
    inputs: dict[str, str]
    facts: dict[str, str]
    files: dict[str, str]
    size: int
    built: float


def read_manifest(entry: Path) -> Manifest | None:
    """Return an entry's manifest, or None where there is no finished entry."""
    try:
        return msgspec.json.decode((entry / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as error:
        raise HostLacks(
            f"{entry / MANIFEST}: damaged ({error})", hint=f"rm -r {entry}; it is built again"
        ) from None


def last_used(entry: Path) -> float:
    """Return when a finished entry was last asked for, in seconds since the epoch."""
    return (entry / MANIFEST).stat().st_mtime


class NotBuilt(KlpError):
    """An entry is missing, and the caller wanted none built."""


class Cache:
    """The store under one root folder.

    Args:
        building: whether what is missing is built; if not, it raises `NotBuilt`.
    """

    def __init__(self, layout: CacheLayout, progress: Progress, *, building: bool = True) -> None:
        self.layout = layout
        self._progress = progress
        self._building = building

    def has(self, kind: EntryKind, inputs: Mapping[str, str]) -> bool:
        """Whether the entry for `inputs` is there."""
        return read_manifest(self.layout.entry(kind, digest_of(inputs))) is not None

    @property
    def building(self) -> bool:
        """Whether what is missing is built."""
        return self._building

    def ensure(
        self,
        kind: EntryKind,
        inputs: Mapping[str, str],
        build: Callable[[Path], Filled],
    ) -> tuple[Path, Manifest]:
        """Return the entry for `inputs`, building it if it is not there.

        Args:
            kind: what it is.
            inputs: all that the content depends on.
            build: fills the folder it is given; returns facts, and the files to hash.

        Raises:
            HostLacks: no space, no permission.
            NotBuilt: it is not there, and nothing is to be built.
            KlpError: what `build` raised.
        """
        digest = digest_of(inputs)
        entry = self.layout.entry(kind, digest)
        found = self._used(entry)
        if found:
            return entry, found
        if not self._building:
            raise NotBuilt(f"{entry}: not built")
        with _explained(self.layout.root), self._locked(kind, digest):
            # Another process may have built it while this one waited for the lock.
            found = self._used(entry)
            if found:
                return entry, found
            made = self._build(kind, digest, dict(inputs), build, entry)
            USES.use(entry)  # before the lock is let go, with which somebody may remove it
            return entry, made

    @staticmethod
    def _used(entry: Path) -> Manifest | None:
        """Return the manifest of an entry that is there, and have it used by this process from now on."""
        found = read_manifest(entry) if USES.use(entry) else None
        if found is None:
            USES.let_go(entry)
        else:
            with suppress(OSError):  # a cache that cannot be written is good enough to read
                os.utime(entry / MANIFEST)  # `last_used` goes by this
        return found

    def _build(
        self,
        kind: EntryKind,
        digest: str,
        inputs: dict[str, str],
        build: Callable[[Path], Filled],
        entry: Path,
    ) -> Manifest:
        self._sweep(f"{kind}-{digest}")
        growing = self.layout.building / f"{kind}-{digest}-{os.getpid()}"
        try:
            growing.mkdir(parents=True)
            with _explained(self.layout.root):  # before what is half built gives its room back
                facts, files = build(growing)
            with under_way(self._progress, f"writing {kind}-{digest} to the disk"):
                manifest = Manifest(
                    kind=str(kind),
                    digest=digest,
                    inputs=inputs,
                    facts=facts,
                    files={name: file_digest(growing / name) for name in files},
                    size=_allocated(growing),
                    built=time.time(),
                )
                self._publish(growing, manifest, entry)
        except BaseException:
            remove_tree(growing)
            raise
        return manifest

    @staticmethod
    def _publish(growing: Path, manifest: Manifest, entry: Path) -> None:
        """Put a whole entry in its place."""
        (growing / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        os.sync()  # after a power cut, the name must not be there without the contents
        remove_tree(entry)
        growing.rename(entry)

    @contextmanager
    def _locked(self, kind: str, digest: str) -> Iterator[None]:
        lock_file = self.layout.lock(kind, digest)
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file in the way, too, or a place where there can be no folders
            raise _unwritable(error, self.layout.root) from error
        lock = FileLock(lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with self._progress.step(f"waiting for another klp that is building {kind}-{digest}"):
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _sweep(self, own: str) -> None:
        """Remove what builders that died have left; a live one holds the lock of its entry all the while.

        Args:
            own: the entry whose lock this thread holds.
        """
        for left in self.layout.building.glob("*"):
            entry = left.name.rpartition("-")[0]
            if entry == own:
                remove_tree(left)
                continue
            # The system lets go of a lock however its process ends, which a file with its pid could not
            # tell: pids are used again.
            with suppress(Timeout), FileLock(self.layout.lock(*entry.rsplit("-", 1)), timeout=0):
                remove_tree(left)

    def entries(self) -> list[tuple[Path, Manifest]]:
        """Return every finished entry with its manifest, oldest first."""
        found = [(folder, read_manifest(folder)) for folder in self.layout.root.glob("*-*")]
        return sorted(
            ((folder, manifest) for folder, manifest in found if manifest),
            key=lambda pair: pair[1].built,
        )

    def remove(self, entry: Path, manifest: Manifest) -> None:
        """Remove an entry, waiting for whoever is building it.

        Raises:
            Busy: another klp uses it.
        """
        USES.let_go(entry)
        with self._locked(manifest.kind, manifest.digest), unused(entry) as alone:
            if not entry.exists():  # somebody was quicker
                return
            if not alone:
                raise Busy(
                    f"{entry.name}: another klp uses it",
                    hint="wait for its end (klp runs shows what is running, klp ps which guests are up)",
                )
            # First of all its name goes, for it must not be found when half of it is gone. Who is killed
            # meanwhile leaves it to the sweep.
            going = self.layout.building / f"{manifest.kind}-{manifest.digest}-{os.getpid()}"
            going.parent.mkdir(exist_ok=True)
            entry.rename(going)
            remove_tree(going)


def _allocated(folder: Path) -> int:
    """Return the bytes a folder's files take on the disk; holes of sparse files take none."""
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(file).st_blocks * 512 for file in found)


def damaged_files(entry: Path, manifest: Manifest) -> list[str]:
    """Return the hashed files of an entry that are missing or no longer what was built."""
    return [
        name
        for name, digest in manifest.files.items()
        if not (entry / name).is_file() or file_digest(entry / name) != digest
    ]


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line that names the folder and the way out."""
    try:
        yield
    except VmLost as lost:  # a guest to be saved: QEMU dies of a page of its memory that has no room
        if free_mib(root) > _ROOM_MIB:
            raise
        raise _no_space(root) from lost
    except (OSError, KlpError) as error:
        if is_full(error):
            raise _no_space(root) from error
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise _unwritable(error, root) from error
        raise


def _unwritable(error: OSError, root: Path) -> KlpError:
    return HostLacks(
        f"{error.filename or root}: {error.strerror}",
        hint="KLP_CACHE=DIR puts the cache into a folder that can be written",
    )


def _no_space(root: Path) -> KlpError:
    return disk_full(
        root, what="an image takes about 3000 MiB while it is built",
        hint="klp image gc removes what was not used for long; or KLP_CACHE=DIR names a larger disk",
    )  # fmt: skip
