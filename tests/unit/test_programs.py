# SPDX-License-Identifier: Apache-2.0
"""Programs compiled for guests: what they depend on, the compiler taken out of a disk, doing without."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.errors import HostLacks
from klp.images import disk
from klp.images.cache import Cache
from klp.images.guest_compiler import CompilerEntry, GuestCompiler
from klp.lab import programs
from klp.lab.programs import ensure_programs
from klp.model import Accelerator, Image, Kernel
from klp.paths import CacheLayout
from klp.progress import Silent
from klp.trace.tracer import PROBES
from klp.vm.request import MachineRequest


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.fixture
def root_disk(tmp_path):
    """The root disk of a guest that has a Python, and nothing else."""
    root, entry = tmp_path / "root", tmp_path / "guest-0123"
    entry.mkdir()
    for file in ("usr/bin/python3", "usr/lib/python3/bcc.py", "usr/lib64/ld.so", "etc/passwd"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    disk.make_ext4(root, entry / "root.ext4", label="klp-root", spare_mib=1)
    return entry / "root.ext4"


def request_of(root_disk: Path, *, cpus: int = 2, kernel: str = "d") -> MachineRequest:
    nowhere = Path("/nonexistent")
    made = Kernel("6.12", "6.12.1", kernel, nowhere, nowhere, nowhere, nowhere, nowhere, None)
    return MachineRequest(Image("6.12", "0", made, root_disk, nowhere, ""), Accelerator.TCG, cpus=cpus)


def test_a_compiler_is_taken_out_of_a_root_disk_with_places_for_what_a_kernel_tells(root_disk, tmp_path):
    into = tmp_path / "compiler"
    into.mkdir()
    GuestCompiler(root_disk).fill(into)

    root = CompilerEntry(into).root
    assert (root / "bin/python3").read_text() == "usr/bin/python3"
    assert (root / "lib64/ld.so").read_text() == "usr/lib64/ld.so"
    assert not (root / "etc").exists()
    for place in ("usr/src", "usr/lib/modules", "sys/kernel/notes", "sys/kernel/btf/vmlinux"):
        assert (root / place).exists(), place


def test_a_disk_without_a_python_is_no_compiler(tmp_path):
    broken, into = tmp_path / "root.ext4", tmp_path / "compiler"
    broken.write_bytes(bytes(4096))
    into.mkdir()

    with pytest.raises(HostLacks, match=r"root\.ext4: debugfs found no Python in it: "):
        GuestCompiler(broken).fill(into)


def test_where_nothing_can_be_compiled_here_the_guest_does_it_and_it_is_said(tmp_path):
    broken = tmp_path / "guest-0123" / "root.ext4"
    broken.parent.mkdir()
    broken.write_bytes(bytes(4096))
    told = Notes()

    made = ensure_programs(Cache(CacheLayout(tmp_path / "cache"), told), request_of(broken), PROBES, told)

    assert made == ()
    [line] = told.lines
    assert line.startswith("the guest compiles its probes itself, which takes minutes: ")
    assert "root.ext4" in line


def test_programs_are_kept_by_kernel_cpus_and_probes(root_disk, tmp_path, monkeypatch):
    asked = []

    def fill(maker, into):
        asked.append((maker.kernel.digest, maker.cpus, maker.probes))
        names = tuple(f"{probe}.compiled" for probe in maker.probes)
        for name in names:
            (into / name).touch()
        return {}, names

    monkeypatch.setattr(programs._Maker, "fill", fill)
    cache = Cache(CacheLayout(tmp_path / "cache"), Silent())

    def ensure(probes=PROBES, **machine):
        return ensure_programs(cache, request_of(root_disk, **machine), probes, Silent())

    first = ensure()
    assert [each.name for each in first] == [f"{probe}.compiled" for probe in PROBES]
    assert ensure() == first
    others = [ensure(cpus=4), ensure(kernel="e"), ensure(probes=PROBES[:1])]
    assert asked == [("d", 2, PROBES), ("d", 4, PROBES), ("e", 2, PROBES), ("d", 2, PROBES[:1])]
    assert len({first, *others}) == 4
