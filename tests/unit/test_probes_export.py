# SPDX-License-Identifier: Apache-2.0
"""The probes for machines without klp: a folder, and one file, each complete and started as it says."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from klp import paths
from klp.errors import HostLacks, UsageError
from klp.trace.catalogue import probe_tools
from klp.trace.export import export_folder, export_zipapp
from klp.trace.toolbox import put_on_path

NAMES = [each.name for each in probe_tools()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    into = tmp_path_factory.mktemp("export") / "probes"
    export_folder(into)
    return into


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "klp-probes.pyz"
    export_zipapp(file)
    return file


def said(*words, cwd, status=0):
    # Isolated: nothing of this checkout, nor of this environment, is in the path of what is started.
    done = subprocess.run(
        [sys.executable, "-I", *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_of_the_folder_runs_by_its_file_and_by_its_name(folder, tmp_path, name):
    by_file = subprocess.run(
        [folder / f"{name}.py", "--ebpf"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "int " in by_file
    assert said(folder, name, "--ebpf", cwd=tmp_path) == by_file


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_of_the_file_is_the_same(folder, archive, tmp_path, name):
    assert said(archive, name, "--ebpf", cwd=tmp_path) == said(folder, name, "--ebpf", cwd=tmp_path)


def test_both_have_the_manual_pages(folder, archive, tmp_path):
    pages = {f"man/{name}.8": (paths.PROBE_SOURCES / "man" / f"{name}.8").read_bytes() for name in NAMES}
    with zipfile.ZipFile(archive) as packed:
        for name, page in pages.items():
            assert (folder / name).read_bytes() == packed.read(name) == page
    assert said(archive, "man", NAMES[0], cwd=tmp_path).encode() == pages[f"man/{NAMES[0]}.8"]


def test_help_is_of_the_probe_and_not_of_the_file(archive, tmp_path):
    assert said(archive, "klpstates", "--help", cwd=tmp_path).startswith("usage: klpstates ")


def test_the_probes_that_there_are_are_listed(archive, tmp_path):
    told = said(archive, cwd=tmp_path)
    assert [line.split()[0] for line in told.splitlines()[3:]] == NAMES


def test_a_probe_that_there_is_not_is_refused(archive, tmp_path):
    assert "usage: python3" in said(archive, "klpnothing", cwd=tmp_path, status=2)


def test_nothing_is_written_over(folder, archive):
    with pytest.raises(UsageError, match="exists, and is no empty folder"):
        export_folder(folder)
    with pytest.raises(UsageError, match="exists"):
        export_zipapp(archive)


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(HostLacks, match="Not a directory"):
        export_folder(file / "probes")
    with pytest.raises(HostLacks, match="Not a directory"):
        export_zipapp(file / "probes.pyz")


class Shell:
    """A guest's shell, with folders of its own for those of a guest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "usr/bin").mkdir(parents=True)

    def run(self, command):
        line = command if isinstance(command, str) else " ".join(command)
        line = line.replace("/run/klp", f"{self.root}/run/klp").replace("/usr/bin", f"{self.root}/usr/bin")
        self.done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        self.status = self.done.returncode
        return self

    def must(self, what):
        assert self.status == 0, f"{what}: {self.done.stderr}"

    def put(self, source, destination):
        copy = self.root / destination.lstrip("/")
        copy.write_bytes(source.read_bytes())


def test_the_commands_of_a_guest_start_the_probes_that_were_shipped(tmp_path):
    put_on_path(Shell(tmp_path))
    for name in NAMES:
        command = tmp_path / "usr/bin" / name
        told = subprocess.run([command, "--ebpf"], capture_output=True, text=True, check=True).stdout
        assert "int " in told
        assert ("--armed" in command.read_text()) == (name != "klpconsistency")
