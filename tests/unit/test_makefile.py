# SPDX-License-Identifier: Apache-2.0
"""The Makefile, and .ci/host-setup on hosts that are played by a folder of stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

HOST_LACKS = 4
INSTALL = "apt-get install -y --no-install-recommends"
# All that host-setup itself runs, besides what it looks for.
_BASICS = ("sh", "cat", "cut", "sort", "tr", "dirname", "awk")


def table(rows: Iterable[tuple[str, ...]]) -> str:
    return "".join("\t".join(row if len(row) > 3 else (*row, *row[2:] * 3)) + "\n" for row in rows)


class Host:
    """A machine with just the commands it is given; apt-get and sudo write down how they are called."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.release = folder / "os-release"
        self.checkout = folder / "checkout"
        self.bin.mkdir()
        (self.checkout / "harness/klp").mkdir(parents=True)
        (self.checkout / ".ci").mkdir()
        for name in ("host-setup", "checkout-packages.txt", "ci-packages.txt"):
            (self.checkout / ".ci" / name).write_bytes((project / ".ci" / name).read_bytes())
        self.checkout_needs(("python3 -m venv", "works", "the-venv"))
        self.needs(("there", "does one thing", "package-a"))
        for name in _BASICS:
            self.give(name)
        self.command("python3", f'exec "{sys.executable}" "$@"')
        self.command("there", "true")
        self.system('ID=debian\nVERSION_ID="13"\n')
        self.user(0)

    def needs(self, *rows: tuple[str, ...]) -> None:
        """Each row is a command, what for, and its package: on every system, or on each of the four."""
        (self.checkout / "harness/klp/host-packages.txt").write_text(f"# comment\n{table(rows)}")

    def checkout_needs(self, *rows: tuple[str, ...]) -> None:
        (self.checkout / ".ci/checkout-packages.txt").write_text(table(rows))

    def system(self, words: str) -> None:
        self.release.write_text(words)

    def give(self, name: str) -> None:
        real = shutil.which(name)
        assert real is not None
        (self.bin / name).symlink_to(real)

    def command(self, name: str, body: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def user(self, uid: int) -> None:
        self.command("id", f"case $1 in -u) echo {uid} ;; *) echo ann ;; esac")

    def apt(self, *, status: int = 0, brings: str = "") -> None:
        """An apt-get that writes itself down, and brings a command when it installs."""
        create = f'case $1 in install) cp "{self.bin}/there" "{self.bin}/{brings}" ;; esac'
        self.command(
            "apt-get", f'echo "apt-get $*" >>"{self.log}"\n{create if brings else ":"}\nexit {status}'
        )
        if brings:
            self.give("cp")

    def set_up(self, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": str(self.bin), "OS_RELEASE": str(self.release)}
        return subprocess.run(
            ["/bin/sh", self.checkout / ".ci/host-setup"], check=False, capture_output=True, text=True,
            env={**own, **environment}, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def host(tmp_path: Path, root: Path) -> Host:
    return Host(tmp_path, root)


def test_a_host_with_everything_needs_no_root_and_no_network(host: Host) -> None:
    host.apt()
    host.user(1000)
    host.command("getsubids", "exit 0")
    done = host.set_up()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert host.calls() == []


def test_root_installs_what_is_missing_and_nothing_else(host: Host) -> None:
    host.needs(("there", "does one thing", "package-a"), ("absent", "does another", "package-b"))
    host.apt(brings="absent")
    done = host.set_up()
    assert done.returncode == 0, done.stderr
    assert host.calls() == ["apt-get update", f"{INSTALL} package-b"]


def test_what_is_missing_is_told_before_root_is_asked_for(host: Host) -> None:
    host.needs(("absent", "does another", "package-b"))
    host.user(1000)
    host.apt()
    host.command("sudo", f'echo "sudo $*" >>"{host.log}"; echo asked >&2; exit 1')
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    said = done.stderr
    assert said.index("absent (package package-b): does another") < said.index("needs root")
    assert said.index("needs root") < said.index("asked")
    assert host.calls() == ["sudo apt-get update"]
    assert f"  apt-get update && {INSTALL} package-b\n" in said


def test_without_root_and_sudo_the_command_is_told(host: Host) -> None:
    host.needs(("absent", "does another", "package-b"), ("lost", "does a third", "package-a"))
    host.user(1000)
    host.apt()
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    assert f"  apt-get update && {INSTALL} package-a package-b\n" in done.stderr
    assert host.calls() == []


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=fedora\n", "dnf install rpm-a"),
        ("ID=nobara\nID_LIKE=fedora\n", "dnf install rpm-a"),
        ("ID=arch\n", "pacman -S --needed arch-a"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install suse-a"),
    ],
)
def test_other_systems_have_their_own_command(host: Host, release: str, command: str) -> None:
    """It is told and not run, even where an apt-get is installed, as mmdebstrap needs one."""
    host.needs(
        ("absent", "does a thing", "deb-a", "rpm-a", "arch-a", "suse-a"),
        ("gone", "is nowhere", "deb-b", "-", "-", "-"),
    )
    host.system(release)
    host.apt()
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    assert done.stderr.endswith(f"klp: as root, by hand:\n  {command}\n")
    assert "archive does not have gone: docs/install.md" in done.stderr
    assert host.calls() == []


def test_ubuntu_is_like_debian(host: Host) -> None:
    host.needs(("absent", "does another", "deb-a", "rpm-a", "arch-a", "suse-a"))
    host.system("ID=ubuntu\nID_LIKE=debian\n")
    host.apt(brings="absent")
    assert host.set_up().returncode == 0
    assert host.calls() == ["apt-get update", f"{INSTALL} deb-a"]


def test_without_apt_the_list_is_told(host: Host) -> None:
    host.needs(("absent", "does another", "package-b"))
    host.release.unlink()
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    assert "package-b" in done.stderr
    assert "no apt-get" in done.stderr


def test_a_failing_apt_is_told(host: Host) -> None:
    host.needs(("absent", "does another", "package-b"))
    host.apt(status=100)
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    assert "that failed" in done.stderr


def test_a_package_without_its_command_is_told(host: Host) -> None:
    host.needs(("absent", "does another", "package-b"))
    host.apt()
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    assert "still missing" in done.stderr


def test_files_and_python_modules_can_be_needed(host: Host) -> None:
    host.apt()
    host.needs(
        ("/no/such/file", "is a file", "package-f"), ("python3 -m no_such", "is a module", "package-m")
    )
    done = host.set_up()
    assert "/no/such/file (package package-f)" in done.stderr
    assert "python3 -m no_such (package package-m)" in done.stderr
    assert "the-venv" not in done.stderr


def test_ci_needs_more(host: Host) -> None:
    host.apt(brings="vagrant")
    (host.checkout / ".ci/ci-packages.txt").write_text(
        table([("vagrant", "checks the Vagrantfile", "vagrant")])
    )
    assert host.set_up().returncode == 0
    assert host.calls() == []
    assert host.set_up(CI="true").returncode == 0
    assert host.calls() == ["apt-get update", f"{INSTALL} vagrant"]


def test_an_old_python_is_refused(host: Host) -> None:
    host.command("python3", "case $1 in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac")
    host.checkout_needs()
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    assert "Python 3.9.2 is too old" in done.stderr


def test_an_ordinary_user_needs_a_range_of_ids(host: Host) -> None:
    host.user(1000)
    host.command("getsubids", "exit 1")
    done = host.set_up()
    assert done.returncode == HOST_LACKS
    [command] = [line for line in done.stderr.splitlines() if "usermod" in line]
    found = re.fullmatch(r"  usermod --add-subuids (\d+)-(\d+) --add-subgids \1-\2 ann", command)
    assert found
    assert int(found[2]) - int(found[1]) == 65535


def test_host_setup_reads_the_columns_as_doctor_does(root: Path) -> None:
    for name in ("harness/klp/host-packages.txt", ".ci/checkout-packages.txt", ".ci/ci-packages.txt"):
        lines = (root / name).read_text().splitlines()
        assert all(len(line.split("\t")) == 6 for line in lines if not line.startswith("#")), name


def made(
    tool: Callable[[str], str], root: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run make without what an outer make hands down."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = [tool("make"), "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=root, env=clean | environment, check=False, capture_output=True, text=True
    )  # fmt: skip


def make(tool: Callable[[str], str], root: Path, *arguments: str) -> str:
    done = made(tool, root, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_task(tool: Callable[[str], str], root: Path) -> None:
    told = make(tool, root)
    listed = {words[1] for line in told.splitlines() if (words := line.split())}
    assert {"run", "test", "lint", "bench", "lock", "clean", "setup"} <= listed
    phony = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == listed | {"host"}


def test_unit_tests_come_first(tool: Callable[[str], str], root: Path) -> None:
    told = make(tool, root, "--dry-run", "test", "ARGS=-k word").replace("\\\n", "")
    assert re.search(
        r"pytest .*tests/unit tests/integration tests/suite --part=core .* -k word$", told, re.MULTILINE
    )


def test_what_make_test_leaves_out_is_the_rest(tool: Callable[[str], str], root: Path) -> None:
    told = make(tool, root, "--dry-run", "test-rest", "ARGS=-k word").replace("\\\n", "")
    assert re.search(r"pytest .*tests/integration tests/suite --part=rest .* -k word$", told, re.MULTILINE)


def test_python_packages_are_pinned_by_hash(tool: Callable[[str], str], root: Path) -> None:
    told = make(tool, root, "--dry-run", "--always-make", "setup")
    assert "install --require-hashes --requirement .ci/requirements.txt" in told
    assert "install --no-deps --no-build-isolation --editable ." in told


def test_lock_covers_pyproject(root: Path) -> None:
    """Every dependency that pyproject.toml names is pinned."""
    lock = (root / ".ci/requirements.txt").read_text()
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    asked = re.findall(r'^  "([\w.-]+)[>=]', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert asked
    assert {name.lower().replace(".", "-") for name in asked} <= {n.replace(".", "-") for n in pinned}


def test_lock_has_its_head(root: Path) -> None:
    head = (root / ".ci/requirements.txt").read_text().splitlines()[:2]
    assert head[0].startswith("# SPDX-License-Identifier: ")
    assert head[1].endswith("Made by: make lock")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that make takes for installed; its klp says what it was called with, and fails."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/klp").write_text('#!/bin/sh\necho "klp $*"\nexit 3\n')
    (folder / "bin/klp").chmod(0o755)
    (folder / ".installed-3.99").touch()
    return folder


def installed_in(venv: Path) -> tuple[str, ...]:
    return ("--old-file=host", f"VENV={venv}", "PYTHON_VERSION=3.99")


def test_the_command_is_made_known(tool: Callable[[str], str], root: Path, venv: Path) -> None:
    """The line that make prints gives a shell the command; and where that is known, nothing is said."""
    for task in ("setup", "run"):
        done = made(tool, root, *installed_in(venv), task, "ARGS=--dry-run")
        assert done.stderr.splitlines()[0] == "klp: to have the command klp in this shell:"
        line = done.stderr.splitlines()[1].strip()
        found = subprocess.run(
            ["/bin/sh", "-c", f"{line}; command -v klp"], check=True, capture_output=True, text=True
        )
        assert found.stdout == f"{venv}/bin/klp\n"
        known = f"{venv}/bin{os.pathsep}{os.environ['PATH']}"
        again = made(tool, root, *installed_in(venv), task, PATH=known)
        assert "export PATH" not in again.stderr


def test_make_run_ends_as_klp_does(tool: Callable[[str], str], root: Path, venv: Path) -> None:
    done = made(tool, root, *installed_in(venv), "run", "ARGS=samples --repeat 2")
    assert done.stdout == "klp run samples --repeat 2\n"
    assert "Error 3" in done.stderr
