# SPDX-License-Identifier: Apache-2.0
"""A host that stands still, and one whose disk is full, under a guest that runs: told as that, in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from klp.lab.warm import restored
from klp.paths import RunLayout
from klp.waiting import DeadlineMissed, wait_until

pytestmark = pytest.mark.vm("6.12")


@pytest.fixture
def lab(warm, tmp_path):
    (tmp_path / "guest").mkdir()
    with restored(warm, RunLayout(tmp_path / "guest")) as found:
        yield found


def let_pass(lab, seconds):
    """Watch a guest for a while, as whoever waits for it does."""

    def look():
        lab.machine.check_alive()

    with pytest.raises(DeadlineMissed):
        wait_until(look, what="end", timeout_s=seconds, every_s=0.2)


def test_a_guest_that_idles_has_not_stood_still(lab):
    """By this a host that stops is told from a guest that has nothing to do."""
    begun = time.monotonic()
    let_pass(lab, 25)
    assert lab.machine.stalled(begun) is None


def test_qemu_that_was_stopped_has_stood_still(lab):
    lab.guest.run("true")
    begun = time.monotonic()
    os.kill(lab.machine.pid, signal.SIGSTOP)
    try:
        let_pass(lab, 13)
    finally:
        os.kill(lab.machine.pid, signal.SIGCONT)
    assert lab.guest.run("echo alive").stdout == "alive\n"
    stalled = lab.machine.stalled(begun)
    assert stalled is not None
    assert stalled.message.startswith("this host stood still: QEMU could not run for 1")
    assert lab.machine.stalled(time.monotonic()) is None


_FILLS = """
import sys
from pathlib import Path
from klp import progress, settings
from klp.errors import KlpError
from klp.images.library import Library
from klp.lab.bootable import make_bootable
from klp.lab.warm import ensure_warm, restored
from klp.paths import RunLayout
found = make_bootable(settings.load(), progress.Silent())
warm = ensure_warm(found.cache, found.request, progress=progress.Silent(), probes=())
try:
    with restored(warm, RunLayout(Path(sys.argv[1]))) as lab:
        lab.guest.run("dd if=/dev/urandom of=/root/large bs=1M count=64; sync")
        print("nothing was told")
except KlpError as error:
    print(int(error.exit_code), error.message)
"""


def test_a_disk_that_fills_under_a_guest_is_told_as_full(warm, tmp_path):
    """QEMU stops such a guest, which then answers nobody: without a look at it that is mere silence."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "--", "sh", "-c", mounted, "sh", str(disk)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of one's own here")
    # In place of --map-root-user's id 0 the cache's owner stays: it is read only.
    done = subprocess.run(
        [*command, sys.executable, "-c", _FILLS, str(disk)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"4 {disk}/overlay.qcow2: no space left (0 MiB free on {disk})"), done
    assert not list(Path(disk).iterdir())
