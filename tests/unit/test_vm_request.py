# SPDX-License-Identifier: Apache-2.0
"""A request for a machine: one value, which can be sent to another process, and each way to start it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from klp import arch
from klp.model import Accelerator, Image, Kernel
from klp.paths import RunLayout
from klp.settings import Settings
from klp.vm.deadlines import deadlines
from klp.vm.request import MachineRequest
from klp.vm.snapshot import resumed
from klp.vm.spec import MachineSpec, argv
from klp.vm.start import Boot, MachineStart, Restore, Save, SaveAgain, SnapshotFiles

HERE = Path("/cache")
KERNEL = Kernel("6.12", "6.12.1", "0", HERE / "k", HERE / "i", HERE / "k.ext4", HERE, HERE, None)
IMAGE = Image("6.12", "1", KERNEL, root_disk=HERE / "root", ssh_key=HERE / "key", host_key="ssh-ed25519 A")
FILES = SnapshotFiles(Path("/snapshot"))
LAYOUT = RunLayout(Path("/run"))
WANTED = MachineRequest(IMAGE, Accelerator.TCG, memory_mib=512, cpus=3, mitigations=True)
STARTS: tuple[MachineStart, ...] = (Boot(), Save(FILES), SaveAgain(FILES), Restore(FILES))


def line(start: MachineStart) -> str:
    return " ".join(argv(WANTED.starting(start).spec(LAYOUT)))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: type(start).__name__)
def test_it_comes_back_as_it_was_sent(start: MachineStart) -> None:
    wanted = WANTED.starting(start)
    assert pickle.loads(pickle.dumps(wanted)) == wanted
    text = msgspec.json.encode(wanted, enc_hook=str)
    read = msgspec.json.decode(text, type=MachineRequest, dec_hook=lambda kind, value: kind(value))
    assert read == wanted
    assert type(read.start) is type(start)


def test_settings_make_it_with_the_kernels_architecture() -> None:
    settings = Settings(memory_mib=512, cpus=3, mitigations=True)
    wanted = MachineRequest.from_settings(IMAGE, settings, Accelerator.TCG)
    assert wanted == WANTED
    assert wanted.architecture is arch.DEFAULT
    spec = wanted.spec(LAYOUT)
    assert (spec.memory_mib, spec.cpus, spec.mitigations) == (512, 3, True)
    assert (spec.kernel, spec.kernel_disk, spec.disk) == (KERNEL.image, KERNEL.disk, LAYOUT.disk)


def test_a_machine_that_nobody_wanted_otherwise_is_that_of_the_settings() -> None:
    plain = MachineRequest(IMAGE, Accelerator.TCG)
    assert plain == MachineRequest.from_settings(IMAGE, Settings(), Accelerator.TCG)
    bare = MachineSpec(arch.DEFAULT, *[HERE] * 5)
    spec = plain.spec(LAYOUT)
    assert (spec.memory_mib, spec.cpus, spec.mitigations) == (bare.memory_mib, bare.cpus, bare.mitigations)


def test_a_kernel_of_an_architecture_that_is_not_known() -> None:
    alien = replace(WANTED, image=replace(IMAGE, kernel=replace(KERNEL, architecture="pdp11")))
    with pytest.raises(KeyError, match="pdp11"):
        alien.spec(LAYOUT)


def test_memory_is_a_file_unless_it_boots_for_itself() -> None:
    assert "memory-backend" not in line(Boot())
    for start in STARTS[1:]:
        assert "mem-path=/snapshot/memory" in line(start)


def test_what_is_written_reaches_the_snapshot_only_while_it_is_made() -> None:
    for start, shared, disk in (
        (Save(FILES), "on", "/snapshot/disk.qcow2"),
        (SaveAgain(FILES), "on", "/snapshot/disk.qcow2"),
        (Restore(FILES), "off", "/run/overlay.qcow2"),
    ):
        assert f"share={shared}," in line(start)
        assert f"file={disk}" in line(start)


def test_what_it_is_made_of_is_told_for_whoever_must_not_remove_it() -> None:
    image = replace(IMAGE, root_disk=Path("/cache/guest-1/root"), kernel=replace(
        KERNEL, image=Path("/cache/kernel-1/kernel"), initrd=Path("/cache/boot-1/initrd")))  # fmt: skip
    own = (Path("/cache/guest-1"), Path("/cache/kernel-1"), Path("/cache/boot-1"))
    assert replace(WANTED, image=image).entries == own
    for start in STARTS[1:]:
        assert replace(WANTED, image=image, start=start).entries == (*own, Path("/snapshot"))


def test_it_waits_for_a_state_only_where_there_is_one() -> None:
    assert ["-incoming defer" in line(start) for start in STARTS] == [False, False, True, True]


@pytest.mark.parametrize("start", [Boot(), Save(FILES)])
def test_what_boots_cannot_go_on(start: MachineStart) -> None:
    spec = WANTED.starting(start).spec(LAYOUT)
    with (
        pytest.raises(AssertionError, match="nothing to go on from"),
        resumed(spec, LAYOUT.qemu_log, deadlines(Accelerator.TCG)),
    ):
        pass
