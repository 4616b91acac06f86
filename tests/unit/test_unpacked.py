# SPDX-License-Identifier: Apache-2.0
"""A root folder of packages that are unpacked and not installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from klp.images.unpacked import unpack_root
from klp.process import run, which

pytestmark = pytest.mark.skipif(which("dpkg-deb") is None, reason="this host has no dpkg-deb")


def package(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Build a package, called as apt calls what it downloads."""
    made = folder / f"made-{name}"
    for place, content in {
        "DEBIAN/control": f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: for a test\n",
        **files,
    }.items():
        file = made / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    built = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    run(["dpkg-deb", "--root-owner-group", "--build", made, built])
    return built


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of three packages: an old one with files in /bin, mawk, and one with documentation."""
    packages = [
        package(tmp_path, "old", "1.0-1", {"bin/tool": "old\n", "lib/x86_64-linux-gnu/libold.so": "so\n"}),
        package(tmp_path, "mawk", "2:1.3", {"usr/bin/mawk": "mawk\n"}),
        package(
            tmp_path, "base-passwd", "3",
            {"usr/share/base-passwd/passwd.master": "root:*:0:0::/root:/bin/bash\n",
             "usr/share/doc/base-passwd/README": "read\n"},
        ),
    ]  # fmt: skip
    made = tmp_path / "root"
    made.mkdir()
    told: list[str] = []
    unpack_root(packages, made, told.append)
    assert told[-1] == "unpacking old, 3 of 3"
    return made


def test_what_old_packages_have_in_bin_is_where_new_ones_have_it(root: Path) -> None:
    assert (root / "usr/bin/tool").read_text() == "old\n"
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/lib/x86_64-linux-gnu/libold.so").exists()
    assert os.access(root / "usr/bin/tool", os.X_OK)


def test_what_scripts_of_packages_would_have_made_is_there(root: Path) -> None:
    assert (root / "usr/bin/awk").resolve().read_text() == "mawk\n"
    assert (root / "etc/passwd").read_text().startswith("root:")
    assert (root / "usr/bin/sh").readlink() == Path("dash")


def test_documentation_is_left_out(root: Path) -> None:
    assert not list(root.rglob("README"))


def test_dpkg_tells_what_was_unpacked(root: Path) -> None:
    admin = f"--admindir={root / 'var/lib/dpkg'}"
    shown = run(["dpkg-query", admin, "--show", "--showformat=${Package} ${Version}\n"])
    assert shown.stdout.splitlines() == ["base-passwd 3", "mawk 2:1.3", "old 1.0-1"]
    assert shown.stderr == ""
