# SPDX-License-Identifier: Apache-2.0
"""How far the making of an image is: what is unpacked, compiled and written, of how much."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from klp import paths
from klp.images import debian, disk, source
from klp.images.apt_lines import AptLines
from klp.images.kbuild_lines import count_steps
from klp.sidework import looked_at

# Of a build of a module, with what make and Kbuild say beside.
KBUILD = """\
make[1]: Entering directory '/usr/src/linux-headers-6.12.118+deb13-amd64'
  HOSTCC  scripts/basic/fixdep
  CC [M]  fix.o
  LD [M]  fix.o
warning: the compiler differs from the one used to build the kernel
  MODPOST Module.symvers
  CC [M]  fix.mod.o
    not a step
  BTF [M] fix.ko
make[1]: Leaving directory '/usr/src/linux-headers-6.12.118+deb13-amd64'
"""


def test_steps_of_a_build_are_counted() -> None:
    counted: list[int] = []
    take = count_steps(counted.append)
    for line in KBUILD.splitlines():
        take(line)
    assert counted == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    """A source of some thirty megabytes that takes little room when packed."""
    tree = tmp_path / "linux-source-6.12"
    tree.mkdir()
    for number in range(3):
        (tree / f"file{number}").write_bytes(bytes(11_000_000))
    packed = tmp_path / "linux-source-6.12.tar.xz"
    subprocess.run(["tar", "-cJf", packed, "-C", tmp_path, tree.name], check=True)
    return packed


def test_a_source_tells_how_much_of_it_is_unpacked(tarball: Path, tmp_path: Path) -> None:
    told: list[str] = []
    source.unpack(tarball, tmp_path / "all", tell=told.append)
    assert told == ["10 of 33 MB", "20 of 33 MB", "31 of 33 MB"]
    assert len(list((tmp_path / "all").iterdir())) == 3
    told.clear()
    source.extract(tarball, ("file0",), tmp_path / "some", told.append)
    assert told == ["10 of 33 MB", "20 of 33 MB", "31 of 33 MB"]
    assert [each.name for each in (tmp_path / "some").iterdir()] == ["file0"]


def test_an_image_tells_how_much_of_it_is_there(tmp_path: Path) -> None:
    image = tmp_path / "image"
    assert disk.written_so_far(image, 8_000_000) == "0 of 8 MB written"
    with image.open("wb") as file:
        file.truncate(50_000_000)
        file.write(os.urandom(4_000_000))
        os.fsync(file.fileno())
    assert disk.written_so_far(image, 8_000_000) == "4 of 8 MB written"
    assert disk.written_so_far(image, 2_000_000) == "2 of 2 MB written"


def test_what_says_nothing_is_looked_at_until_it_ends() -> None:
    looked = threading.Event()
    with looked_at(looked.set, every_s=0.001):
        assert looked.wait(60)
    assert not [each for each in threading.enumerate() if each.name == "look"]


# --- the hooks of mmdebstrap -------------------------------------------------------------------------

# Does what apt-get does, as far as it is told to on its command line.
APT = """\
#!/bin/sh
case " $* " in
*" --print-uris "*)
	echo "'http://archive.example/a.deb' a_1_amd64.deb 100000000 SHA256:0"
	echo "'http://archive.example/b.deb' b_1_all.deb 51000000 SHA256:0"
	;;
*" APT::Status-Fd=2 "*)
	echo 'Get:1 http://archive.example/debian trixie/main amd64 a amd64 1 [100 MB]'
	echo 'dlstatus:0:50.0000:Retrieving file 1 of 2' >&2
	for word; do :; done
	: >"$word.deb"
	;;
esac
"""


def test_a_hook_that_downloads_tells_bytes_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, root = tmp_path / "bin", tmp_path / "root"
    programs.mkdir()
    root.mkdir()
    apt = programs / "apt-get"
    apt.write_text(APT)
    apt.chmod(apt.stat().st_mode | stat.S_IXUSR)
    hook = "\n".join(
        ["PACKAGES='a b'", debian.hook_text("download.sh"), debian.hook_text("fetch-packages.sh")]
    )
    done = subprocess.run(
        ["sh", "-c", hook, "exec", root], check=True, capture_output=True, text=True,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "MMDEBSTRAP_APT_CONFIG": "/dev/null"},
    )  # fmt: skip
    told: list[str] = []
    lines = AptLines(told.append)
    for line in done.stderr.splitlines():
        lines.take(line)
    assert told == ["fetching a: 0 of 151 MB", "fetching a: 76 of 151 MB"]
    assert done.stdout == ""
    assert (root / "klp" / "b.deb").exists()


def test_every_hook_that_downloads_does_so_in_sight() -> None:
    hooks = {each.name: each.read_text() for each in paths.BUILD_HOOKS.glob("*.sh")}
    downloads = {name for name, text in hooks.items() if "apt-get " in text}
    assert downloads == {"download.sh"}, "of others nobody would hear how far they are"
