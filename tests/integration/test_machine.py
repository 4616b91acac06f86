# SPDX-License-Identifier: Apache-2.0
"""Machines that fail: each way is told at once, by its own name, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from klp.errors import BootFailed, GuestPanicked, QemuGone
from klp.lab.warm import restored
from klp.paths import RunLayout
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine, make_overlay
from klp.waiting import wait_until

from .conftest import gone

pytestmark = pytest.mark.vm("6.12")


@pytest.fixture
def layout(tmp_path):
    return RunLayout(tmp_path)


def spec_of(machine_request, layout, **changes):
    make_overlay(machine_request.image.root_disk, layout.disk)
    return dataclasses.replace(machine_request.spec(layout), **changes)


class TestBoot:
    def test_a_broken_initrd_is_told_by_the_kernels_panic(
        self, machine_request, layout, accelerator, tmp_path
    ):
        broken = tmp_path / "initrd"
        broken.write_bytes(b"not a cpio archive" * 100)
        spec = spec_of(machine_request, layout, initrd=broken)
        with pytest.raises(GuestPanicked) as caught, Machine(spec, layout.qemu_log, deadlines(accelerator)):
            pass
        assert any("Kernel panic" in line for line in caught.value.console_tail)

    def test_a_missing_disk_is_told_by_the_guests_init(
        self, machine_request, layout, accelerator, tmp_path
    ):
        empty = tmp_path / "empty.img"
        empty.write_bytes(bytes(1 << 20))
        spec = spec_of(machine_request, layout, kernel_disk=empty)
        with (
            pytest.raises(BootFailed, match="cannot mount the kernel disk"),
            Machine(spec, layout.qemu_log, deadlines(accelerator)),
        ):
            pass

    def test_qemu_that_refuses_its_command_line_is_quoted(
        self, machine_request, layout, accelerator, tmp_path
    ):
        spec = spec_of(machine_request, layout, kernel=tmp_path / "nonesuch")
        with (
            pytest.raises(QemuGone, match="nonesuch"),
            Machine(spec, layout.qemu_log, deadlines(accelerator)),
        ):
            pass

    def test_console_begins_with_the_kernels_first_line(self, lab):
        assert "Linux version" in lab.machine.console.text().splitlines()[0]

    def test_only_one_port_is_open_and_only_on_loopback(self, lab):
        inodes = {
            target[len("socket:[") : -1]
            for target in (str(each.readlink()) for each in Path(f"/proc/{lab.machine.pid}/fd").iterdir())
            if target.startswith("socket:")
        }
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
        loopback = socket.inet_aton("127.0.0.1")[::-1].hex().upper()
        assert listening == [f"{loopback}:{lab.guest.address.port:04X}"]
        assert not [
            r for r in Path("/proc/net/tcp6").read_text().splitlines()[1:] if r.split()[9] in inodes
        ]


class TestLoss:
    @pytest.fixture
    def lose(self, bare, layout):
        """Boot a guest, do something fatal to it, and return QEMU's process id."""

        def run(fatal):
            with restored(bare, layout) as lab:
                pids.append(lab.machine.pid)
                fatal(lab)

        pids = []
        yield run
        assert all(gone(pid) for pid in pids)
        assert not layout.disk.exists()

    def test_a_panic_is_a_panic_not_a_timeout(self, lose):
        with pytest.raises(GuestPanicked, match="sysrq triggered crash"):
            lose(lambda lab: lab.guest.run("echo c >/proc/sysrq-trigger"))

    def test_qemu_killed_under_a_command(self, lose):
        def fatal(lab):
            os.kill(lab.machine.pid, signal.SIGKILL)
            lab.guest.run("sleep 600")

        with pytest.raises(QemuGone, match="killed by signal 9"):
            lose(fatal)

    def test_qemu_dies_with_a_killed_harness(self, image, layout, accelerator):
        script = (
            "import sys; from klp import progress, settings; from klp.paths import RunLayout;"
            "from klp.images.library import Library; from klp.lab.lab import booted;"
            "from klp.model import Accelerator; from pathlib import Path; s = settings.load();"
            "from klp.vm.request import MachineRequest as Wanted;"
            "i = Library(s, progress.Silent()).ensure('6.12'); a = Accelerator(sys.argv[2])\n"
            "r = Wanted.from_settings(i, s, a)\n"
            "with booted(r, RunLayout(Path(sys.argv[1])), progress.Silent()) as lab:\n"
            "    print(lab.machine.pid, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(layout.root), accelerator.value],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as harness:  # fmt: skip
            pid = int(harness.stdout.readline())
            assert not gone(pid)
            harness.kill()
            wait_until(lambda: gone(pid), what="end of QEMU", timeout_s=10, every_s=0.05)
