# SPDX-License-Identifier: Apache-2.0
"""QEMU itself takes each command line that klp gives it without a word: no option of it is deprecated.

Whichever QEMU is first in PATH; docs/facts.md tells which were tried.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from klp.arch import DEFAULT
from klp.model import Accelerator
from klp.process import run, which
from klp.vm import machine
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine, overlay_command
from klp.vm.spec import MachineSpec, argv
from klp.vm.start import Boot, MachineStart, Restore, Save, SaveAgain, SnapshotFiles

pytestmark = pytest.mark.skipif(which(DEFAULT.qemu) is None, reason=f"{DEFAULT.qemu} is not installed")

_MULTIBOOT, _ADDRESSED = 0x1BADB002, 0x10000
_AT = 0x100000


def kernel(file: Path) -> Path:
    """Write what QEMU takes for a kernel: a multiboot header and nothing else. It is never run."""
    head = (_MULTIBOOT, _ADDRESSED, -(_MULTIBOOT + _ADDRESSED) & 0xFFFFFFFF, _AT, _AT, 0, 0, _AT + 32)
    file.write_bytes(struct.pack("<8I", *head).ljust(4096, b"\xf4"))
    return file


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    disk = tmp_path / "root.ext4"
    disk.write_bytes(bytes(1 << 20))
    run(overlay_command(disk, tmp_path / "overlay, with a comma.qcow2"))
    (tmp_path / "initrd").write_bytes(bytes(512))
    return MachineSpec(
        architecture=DEFAULT, kernel=kernel(tmp_path / "kernel"), initrd=tmp_path / "initrd",
        disk=tmp_path / "overlay, with a comma.qcow2", kernel_disk=disk, console=tmp_path / "console.log",
        memory_mib=128,
    )  # fmt: skip


@contextmanager
def started(spec: MachineSpec, log: Path) -> Iterator[Machine]:
    """Have QEMU started, and nothing of the guest run."""
    made = Machine(spec, log, deadlines(Accelerator.TCG))
    try:
        made.launch()
        yield made
    finally:
        made.stop()


def starts(folder: Path) -> tuple[MachineStart, ...]:
    files = SnapshotFiles(folder)
    return (Boot(), Save(files), SaveAgain(files), Restore(files))


@pytest.mark.parametrize("number", range(4), ids=["boot", "save", "save-again", "restore"])
@pytest.mark.parametrize("cpus", [1, 4])
def test_it_starts_without_a_word(
    spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cpus: int
) -> None:
    monkeypatch.setattr(machine, "argv", lambda spec: [*argv(spec), "-S"])
    start = starts(tmp_path)[number]
    if not isinstance(start, Boot):
        start.files.memory.write_bytes(bytes(128 << 20))
    log = tmp_path / "qemu.log"
    with started(replace(spec, start=start, cpus=cpus), log) as made:
        status = made.monitor.execute("query-status")
    assert status["status"] == ("inmigrate" if number > 1 else "prelaunch")
    assert log.read_text() == ""


def test_a_warning_would_be_noticed(
    spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "argv", lambda spec: [*argv(spec), "-S", "-cpu", "max,+vmx"])
    with started(spec, tmp_path / "qemu.log"):
        pass
    assert "warning" in (tmp_path / "qemu.log").read_text()
