# SPDX-License-Identifier: Apache-2.0
"""Warm starts: a guest booted once, its probes armed and waiting, saved; every run begins from there.

Booting and arming take an emulated guest some twenty seconds, and minutes if it has to compile its probes.
That is paid once for each (image, machine, QEMU, probes): the key of the snapshot has all that a saved
machine depends on.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from klp import paths
from klp.diskspace import disk_full, free_mib
from klp.errors import VmLost
from klp.files import digest_of, file_digest
from klp.guest.ssh import Guest
from klp.images.cache import Cache, EntryKind, Manifest, damaged_files
from klp.images.figures import first_build
from klp.lab.lab import Lab, connected, connection_limits, guest_address, start_looking
from klp.lab.programs import ensure_programs
from klp.model import Accelerator
from klp.paths import RunLayout
from klp.progress import NotesOnly, Progress, teller, under_way
from klp.sidework import beside
from klp.trace.store import EventStore
from klp.trace.tracer import CONSISTENCY, PROBES, ProbeProcess, Tracer
from klp.vm.accel import host_cpu
from klp.vm.deadlines import Deadlines, deadlines
from klp.vm.machine import Machine, make_overlay
from klp.vm.pool import Pool, size_that_fits
from klp.vm.request import MachineRequest
from klp.vm.snapshot import dig_holes, resumed, save
from klp.vm.spec import argv, qemu_version
from klp.vm.start import Restore, Save, SaveAgain, SnapshotFiles
from klp.waiting import DeadlineMissed, wait_until

# Raised whenever this module leaves another guest behind for the same key.
_RECIPE = "3"
# What vm-images/guest/quiesce says on the console: nobody is connected any more, so that no half-open SSH
# connection is saved, which would hang in each restored guest; then, free memory is zero.
_ALONE, _QUIET = "klp: alone", "klp: quiet"
# In a session of its own, for it waits until the connection that started it is gone. Zeroing what the
# compilers left takes seconds, and a guest without probes never had them.
_QUIESCE = "setsid /usr/lib/klp/quiesce {} </dev/null >/dev/null 2>&1 &"


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A saved guest.

    Attributes:
        request: the machine that goes on where it was saved.
        files: what was saved.
        probes: what runs in it.
    """

    request: MachineRequest
    files: SnapshotFiles
    probes: tuple[ProbeProcess, ...]


def ensure_warm(
    cache: Cache,
    request: MachineRequest,
    *,
    progress: Progress,
    probes: tuple[str, ...] = PROBES,
) -> WarmStart:
    """Return the snapshot to start from, making it where there is none that fits.

    Args:
        request: the machine, as it boots.
        probes: the probes to have armed in it; none for a bare guest.

    Raises:
        HostLacks: there is no room for it.
        CheckFailed: a probe could not be armed.
        VmLost: the guest did not come up.
    """
    inputs = _inputs(request, probes)
    entry, manifest = _ensure(cache, request, inputs, progress, probes)
    with under_way(progress, f"looking whether {entry.name} is whole"):
        whole = _whole(entry, manifest)
    if not whole:
        progress.note(f"{entry.name}: damaged; it is made anew")
        cache.remove(entry, manifest)
        entry, manifest = _ensure(cache, request, inputs, progress, probes)
    running = (pair.split(":") for pair in manifest.facts["probes"].split())
    files = SnapshotFiles(entry)
    probes_armed = tuple(ProbeProcess(name, int(pid)) for name, pid in running)
    return WarmStart(request.starting(Restore(files)), files, probes_armed)


def _ensure(
    cache: Cache,
    request: MachineRequest,
    inputs: dict[str, str],
    progress: Progress,
    probes: tuple[str, ...],
) -> tuple[Path, Manifest]:
    fill = _Maker(cache, request, progress, probes).fill
    if cache.has(EntryKind.SNAPSHOT, inputs):
        return cache.ensure(EntryKind.SNAPSHOT, inputs, fill)
    # With all that says which one it is: what the same took before is told as what is left.
    cpus = f"{request.cpus} CPU{'s' if request.cpus > 1 else ''}"
    what = "with probes" if probes else "without probes"
    with progress.step(f"a guest of {request.image.kernel.release}, {cpus}, {what}"):
        if probes and request.accelerator is Accelerator.TCG:
            progress.note(f"once: {first_build([EntryKind.SNAPSHOT])}")
        return cache.ensure(EntryKind.SNAPSHOT, inputs, fill)


def snapshot_place(cache: Cache, request: MachineRequest, probes: tuple[str, ...]) -> SnapshotFiles:
    """Return the files of the snapshot that `ensure_warm` starts from, whether or not they are there.

    Raises:
        HostLacks: QEMU is not installed, on whose version they depend.
    """
    return SnapshotFiles(cache.layout.entry(EntryKind.SNAPSHOT, digest_of(_inputs(request, probes))))


def _inputs(request: MachineRequest, probes: tuple[str, ...]) -> dict[str, str]:
    """Return all that a saved guest depends on."""
    layout = RunLayout(Path("/run"))  # a place that is none: the key must not depend on where
    image, spec = request.image, request.spec(layout)
    inputs = {
        "image": image.digest,
        "kernel": image.kernel.digest,
        # A saved state loads into a machine of the same devices only, and of the same QEMU: else it is
        # refused, or worse, goes on wrongly.
        "machine": " ".join(argv(spec)),
        "qemu": qemu_version(request.architecture),
        "recipe": _RECIPE,
    }
    if request.accelerator is Accelerator.KVM:
        # The guest has the host's own: a cache may be shared by hosts, or its host get another CPU.
        inputs["host_cpu"] = host_cpu()
    if probes:
        inputs |= {probe.name: file_digest(probe) for probe in paths.probe_files()}
    return inputs


def _whole(entry: Path, manifest: Manifest) -> bool:
    """Whether a snapshot is what was saved; read again only where a file seems to have changed."""
    try:
        # By size and time first: to read some 500 MB for a digest takes longer than to restore the guest.
        if SnapshotFiles(entry).stamps() == manifest.facts["stamps"]:
            return True
    except FileNotFoundError:
        return False
    return not damaged_files(entry, manifest)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes a snapshot."""

    cache: Cache
    request: MachineRequest
    progress: Progress
    probes: tuple[str, ...]

    def fill(self, into: Path) -> tuple[dict[str, str], tuple[str, ...]]:
        """Boot, arm, wait for quiet, save."""
        files, log = SnapshotFiles(into), into / "qemu.log"
        self._check_room(into)
        kernel = self.request.image.kernel.release
        make_overlay(self.request.image.root_disk, files.disk)
        spec = self.request.starting(Save(files)).spec(RunLayout(into))
        with ExitStack() as stack:
            notes = NotesOnly(self.progress, teller(self.progress))
            programs = stack.enter_context(beside(lambda: self._programs(notes)))
            with self.progress.step(f"booting {kernel} to be saved"):
                machine = stack.enter_context(Machine(spec, log, self._limits))
            with self.progress.step("compiling the probes"):
                compiled = programs()
            compilers = bool(self.probes) and not compiled
            probes = self._arm(machine, into / "events.jsonl", compiled)
            with self.progress.step("saving the guest"):
                self._save(machine, files, _ALONE if compilers else _QUIET)
        if compilers:
            self._empty(files, log)
        with under_way(self.progress, "giving back what is empty of the saved memory"):
            dig_holes(files)
        running = " ".join(f"{each.name}:{each.pid}" for each in probes)
        return {"probes": running, "stamps": files.stamps(), "release": kernel}, (
            files.memory.name,
            files.state.name,
            files.disk.name,
        )

    def _empty(self, files: SnapshotFiles, log: Path) -> None:
        """Have the guest empty its free memory, full of what its compilers left, and save it again.

        Saved before and once more after, because QEMU is slow to write where code was: for each page of the
        compilers' it looks for what it translated of it, and QEMU 7.2 then empties the jump cache of every
        vCPU as well (tcg_flush_jmp_cache). A new QEMU knows of no translated code: 15 s for all of it in
        place of 45 to 106.
        """
        spec = self.request.starting(SaveAgain(files)).spec(RunLayout(files.root))
        with (
            self.progress.step("saving it anew with its free memory emptied"),
            resumed(spec, log, self._limits) as machine,
        ):
            self._save(machine, files, _QUIET)

    def _programs(self, notes: Progress) -> tuple[Path, ...]:
        if not self.probes:
            return ()
        return ensure_programs(self.cache, self.request, (*self.probes, CONSISTENCY), notes)

    @property
    def _limits(self) -> Deadlines:
        return deadlines(self.request.accelerator)

    def _save(self, machine: Machine, files: SnapshotFiles, once: str) -> None:
        """Save the guest when it has said a word on its console."""

        def look() -> bool:
            machine.check_alive()
            return once in machine.console.text()

        try:
            wait_until(look, what="quiet guest", timeout_s=self._limits.quiet, every_s=0.05)
        except DeadlineMissed as missed:
            raise VmLost(f"saving the guest: {missed}", console_tail=machine.console.tail()) from None
        save(machine, files, limit_s=self._limits.boot)

    def _check_room(self, into: Path) -> None:
        """See that the memory fits: QEMU dies of SIGBUS at a page that the disk has no room for."""
        if free_mib(into) < self.request.memory_mib:
            raise disk_full(
                into.parent, what=f"a guest of {self.request.memory_mib} MiB is to be saved",
                hint="free some, set KLP_CACHE=DIR to a larger disk, or klp run --cold",
            )  # fmt: skip

    def _arm(self, machine: Machine, events: Path, programs: tuple[Path, ...]) -> tuple[ProbeProcess, ...]:
        address = guest_address(self.request, machine.ssh_port())
        limits = connection_limits(self.request.accelerator)
        with (
            Guest(address, limits, machine.check_alive, machine.silent) as guest,
            EventStore(events) as store,
        ):
            with self.progress.step("arming the probes"):
                tracer = Tracer(guest, store)
                probes = tracer.arm(self.probes, programs=programs, tell=teller(self.progress))
            for line in tracer.recompiled():
                self.progress.note(line)
            # Last of all: it ends its wait as soon as this connection is closed.
            guest.run(_QUIESCE.format("zero" if self.probes and not programs else "")).must(
                "waiting for quiet"
            )
        return probes


@contextmanager
def restored(warm: WarmStart, layout: RunLayout) -> Iterator[Lab]:
    """Have a guest that goes on where `warm` was saved, on a disk overlay of its own, for a block.

    Raises:
        VmLost: it did not come up.
        HostLacks: QEMU is missing, or the folder cannot be written.
    """
    with ExitStack() as stack:
        stack.callback(layout.disk.unlink, missing_ok=True)
        make_overlay(warm.files.disk, layout.disk)
        # QEMU goes on in this file: so a run's console log begins with the boot, though that was
        # another's.
        shutil.copyfile(warm.files.console, layout.console)
        limits = deadlines(warm.request.accelerator)
        machine = stack.enter_context(resumed(warm.request.spec(layout), layout.qemu_log, limits))
        lab = connected(warm.request, machine, stack)
        # Its wall clock stands where it was saved, and nothing but us tells it the time. Its random numbers
        # need no help: vmgenid has the kernel reseed them ("crng reseeded due to virtual machine fork").
        lab.guest.run(f"date --set @{time.time():.3f}").must("setting the guest's clock")
        start_looking(lab.guest, warm.request)
        yield lab


@contextmanager
def warm_pool(warm: WarmStart, *, asked: int | None = None) -> Iterator[Pool[Lab]]:
    """Have a pool of restored guests for a block, as many as the host holds and at most `asked`.

    Each has a folder of its own for its disk, console and logs, which goes with it.
    """
    with tempfile.TemporaryDirectory(prefix="klp-pool-") as folder:

        @contextmanager
        def one() -> Iterator[Lab]:
            with (
                tempfile.TemporaryDirectory(dir=folder) as own,
                restored(warm, RunLayout(Path(own))) as lab,
            ):
                yield lab

        with Pool(one, size_that_fits(warm.request.memory_mib, asked)) as pool:
            yield pool
