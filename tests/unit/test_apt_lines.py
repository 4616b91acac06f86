# SPDX-License-Identifier: Apache-2.0
"""What mmdebstrap says while it works, as how far it is; the lines are of a real one, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.images.apt_lines import AptLines

ARCHIVE = "http://archive.example/debian trixie/main amd64"
LISTS = f"""\
I: chroot architecture amd64 is equal to the host's architecture
I: using /tmp/mmdebstrap.yMhEibaMS9 as tempdir
I: running apt-get update...
Get:1 http://archive.example/debian trixie InRelease [140 kB]
Get:2 {ARCHIVE} Packages [9679 kB]
Fetched 10.2 MB in 5s (2185 kB/s)
Reading package lists...
"""
ESSENTIAL = f"""\
I: downloading packages with apt...
0 upgraded, 3 newly installed, 0 to remove and 0 not upgraded.
Need to get 30.0 MB of archives.
After this operation, 114 MB of additional disk space will be used.
Get:1 {ARCHIVE} libc6 amd64 2.41-12+deb13u5 [12.0 MB]
Get:2 {ARCHIVE} libgcc-s1 amd64 14.2.0-19 [3000 kB]
Get:3 {ARCHIVE} base-files amd64 13.8+deb13u8 [15.0 MB]
I: extracting archives...
I: installing essential packages...
Unpacking libc6:amd64 (2.41-12+deb13u5) ...
Setting up libc6:amd64 (2.41-12+deb13u5) ...
Unpacking libgcc-s1:amd64 (14.2.0-19) ...
"""
REST = f"""\
I: installing remaining packages inside the chroot...
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Need to get 955 kB/2,345 kB of archives.
Get:1 {ARCHIVE} busybox-static amd64 1:1.37.0-6+b9 [955 kB]
Unpacking busybox-static (1:1.37.0-6+b9) ...
Setting up busybox-static (1:1.37.0-6+b9) ...
I: done
"""
DOWNLOAD = f"""\
I: running --customize-hook in shell: sh -c '…'
Need to get 255033344 B of archives.
Get:1 {ARCHIVE} linux-image-6.12.118+deb13-amd64 amd64 6.12.118-1 [103 MB]
dlstatus:0:0.0000:Retrieving file 1 of 2
dlstatus:0:20.4000:Retrieving file 1 of 2 (18s remaining)
Get:2 {ARCHIVE} linux-source-6.12 all 6.12.118-1 [151 MB]
dlstatus:1:75.0000:Retrieving file 2 of 2 (4s remaining)
dlstatus:2:100.0000:Retrieving file 2 of 2
"""
UNKNOWN = f"""\
dlstatus:1:40.0000:Retrieving file 1 of 3
Get:1 {ARCHIVE} linux-source-6.12 all 6.12.118-1 [151 MB]
dlstatus:1:40.0000:Retrieving file 1 of 3
"""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (LISTS, ["running apt-get update", "fetching the archive's lists, 0.1 MB",
                 "fetching the archive's lists, 9.8 MB"]),
        (ESSENTIAL, ["downloading packages with apt", "fetching libc6: 0 of 30 MB",
                     "fetching libgcc-s1: 12 of 30 MB",
                     "fetching base-files: 15 of 30 MB", "extracting archives",
                     "installing essential packages", "unpacking libc6, 1 of 3",
                     "setting up libc6, 1 of 3", "unpacking libgcc-s1, 2 of 3"]),
        (REST, ["installing remaining packages inside the chroot",
                "fetching busybox-static: 0.0 of 1.0 MB", "unpacking busybox-static, 1 of 1",
                "setting up busybox-static, 1 of 1"]),
        (DOWNLOAD, ["fetching linux-image-6.12.118+deb13-amd64: 0 of 255 MB",
                    "fetching linux-image-6.12.118+deb13-amd64: 0 of 255 MB",
                    "fetching linux-image-6.12.118+deb13-amd64: 52 of 255 MB",
                    "fetching linux-source-6.12: 52 of 255 MB", "fetching linux-source-6.12: 191 of 255 MB",
                    "fetching linux-source-6.12: 255 of 255 MB"]),
        (UNKNOWN, ["fetching linux-source-6.12, 151.0 MB"]),
    ],
    ids=["lists", "essential", "rest", "download", "unknown"],
)  # fmt: skip
def test_each_stage_is_told(lines: str, said: list[str]) -> None:
    told: list[str] = []
    apt = AptLines(told.append)
    for line in lines.splitlines():
        apt.take(line)
    assert told == said


@pytest.mark.parametrize("stage", ["extracting archives", "creating tarball"])
def test_what_grows_is_told_while_mmdebstrap_is_silent(tmp_path: Path, stage: str) -> None:
    told: list[str] = []
    room, ours = tmp_path / "mmdebstrap.x", tmp_path / "ours"
    for folder in (room, ours):
        folder.mkdir()
    growing = {"extracting archives": room, "creating tarball": ours}[stage]
    apt = AptLines(told.append, ours)
    apt.take(f"I: using {room} as tempdir")
    apt.take("I: running apt-get update...")
    apt.look()
    apt.take(f"I: {stage}...")
    apt.look()
    (growing / "libc.so.6").write_bytes(bytes(3_000_000))
    apt.look()
    apt.take("I: installing essential packages...")
    apt.look()
    apt.take(f"I: {stage}...")
    (growing / "libc.so.6").unlink()
    growing.rmdir()
    apt.look()
    assert told == ["running apt-get update", stage, f"{stage}, 0 MB", f"{stage}, 3 MB",
                    "installing essential packages", stage, f"{stage}, 0 MB"]  # fmt: skip


def test_each_round_is_counted_from_its_beginning() -> None:
    told: list[str] = []
    apt = AptLines(told.append)
    for line in (LISTS + ESSENTIAL + REST).splitlines():
        apt.take(line)
    assert told[-1] == "setting up busybox-static, 1 of 1"
