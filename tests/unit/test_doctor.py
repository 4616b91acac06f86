# SPDX-License-Identifier: Apache-2.0
"""klp doctor: each check says what is wrong and what mends it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from klp import doctor, process
from klp.errors import HostLacks
from klp.images.cache import Manifest
from klp.images.definition import definitions
from klp.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=str(tmp_path / "not" / "there" / "yet"), accelerator="tcg")


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def check(report: doctor.Report, name: str) -> doctor.HostCheck:
    [found] = [check for check in report.checks if check.name == name]
    return found


def row(command: str, package: str) -> doctor.HostPackage:
    return doctor.HostPackage(command, "does a thing", package, package, package, package)


def manifest(kind: str, **inputs: str) -> Manifest:
    return Manifest(kind=kind, digest="d", inputs=inputs, facts={}, files={}, built=0, size=0)


def test_every_command_of_the_list_is_looked_for(settings: Settings) -> None:
    names = {each.name for each in doctor.examine(settings).checks}
    assert {package.command for package in doctor.host_packages()} <= names
    assert {"Python", "disk space", "images", "accelerator", "user namespaces"} <= names


def test_the_list_is_whole() -> None:
    """Every command has a package on each of the five systems, but for what an archive is known to lack."""
    rows = doctor.host_packages()
    assert len({row.command for row in rows}) == len(rows)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    systems = ("debian", "ubuntu", "fedora", "arch", "opensuse")
    lacking = {(row.command, each) for row in rows for each in systems if "none" in row.install(each)}
    assert lacking == {("mmdebstrap", "arch"), ("mmdebstrap", "opensuse"), (keys, "opensuse")}
    assert all(row.why and row.install(each).split()[-1] for row in rows for each in systems)


@pytest.mark.usefixtures("ordinary_user")
def test_each_system_has_its_own_command() -> None:
    [ssh] = [each for each in doctor.host_packages() if each.command == "ssh"]
    assert {each: ssh.install(each) for each in ("debian", "ubuntu", "fedora", "arch", "opensuse")} == {
        "debian": "sudo apt-get install --no-install-recommends openssh-client",
        "ubuntu": "sudo apt-get install --no-install-recommends openssh-client",
        "fedora": "sudo dnf install openssh-clients",
        "arch": "sudo pacman -S --needed openssh",
        "opensuse": "sudo zypper install openssh-clients",
    }


@pytest.mark.parametrize(
    ("release", "system"),
    [
        ({"ID": "debian"}, "debian"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "ubuntu"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "ubuntu"),
        ({"ID": "nobara", "ID_LIKE": "fedora"}, "fedora"),
        ({"ID": "endeavouros", "ID_LIKE": "arch"}, "arch"),
        ({"ID": "opensuse-tumbleweed", "ID_LIKE": "opensuse suse"}, "opensuse"),
        ({"ID": "sles", "ID_LIKE": "suse"}, "opensuse"),
        ({}, "debian"),
    ],
)
def test_which_system_this_is(release: dict[str, str], system: str) -> None:
    assert doctor.host_system(release) == system


def test_looking_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    doctor.examine(settings)
    assert not list(tmp_path.iterdir())


def test_report_is_ok_when_every_check_is(settings: Settings) -> None:
    report = doctor.examine(settings)
    assert report.ok is all(each.ok for each in report.checks)


def test_report_reads_as_json(settings: Settings) -> None:
    told = json.loads(msgspec.json.encode(doctor.examine(settings)))
    assert told["accelerator"]["accelerator"] == "tcg"
    assert set(told["checks"][0]) == {"name", "ok", "detail", "mend"}


@pytest.mark.parametrize(("version", "ok"), [((3, 11, 0), True), ((3, 13, 1), True), ((3, 10, 9), False)])
def test_python(version: tuple[int, ...], ok: bool) -> None:
    found = doctor.python_check(version)
    assert found.ok is ok
    assert bool(found.mend) is not ok


@pytest.mark.usefixtures("ordinary_user")
def test_missing_command_names_its_package() -> None:
    found = doctor.command_check(row("no-such-command", "the-package"), "debian")
    assert not found.ok
    assert found.detail == "not found; it does a thing"
    assert found.mend == "sudo apt-get install --no-install-recommends the-package"


def test_commands_in_sbin_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = doctor.command_check(row("ldconfig", "libc-bin"), "debian")
    assert found.ok


def test_a_row_may_name_a_file(tmp_path: Path) -> None:
    there, gone = (row(str(file), "p") for file in (tmp_path, tmp_path / "no"))
    assert doctor.command_check(there, "debian").ok
    assert not doctor.command_check(gone, "debian").ok


def test_ranges_of_ids() -> None:
    by_name = doctor.id_range_check("ann", 1000, "ann:100000:65536\n", "ann:100000:65536\n")
    by_number = doctor.id_range_check("ann", 1000, "1000:100000:65536\n", "1000:100000:65536\n")
    assert by_name.ok
    assert by_number.ok


def test_missing_range_gets_one_that_nobody_has() -> None:
    taken = "annabel:100000:65536\n"
    found = doctor.id_range_check("ann", 1000, taken, taken + "ann:300000:65536\n")
    assert not found.ok
    assert found.detail == "ann has no range in subuid"
    assert found.mend == "sudo usermod --add-subuids 365536-431071 --add-subgids 365536-431071 ann"


@pytest.mark.usefixtures("ordinary_user")
def test_an_ordinary_user_is_asked_for_ranges(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_ID_FILES", (tmp_path / "subuid", tmp_path / "subgid"))
    report = doctor.examine(settings)
    assert check(report, "subordinate ids").detail.endswith("has no range in subuid and subgid")
    assert not report.ok


def test_root_needs_no_ranges(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "subordinate ids" not in {each.name for each in doctor.examine(settings).checks}


@pytest.mark.parametrize(
    ("said", "status", "ok"), [("", 0, True), ("unshare: not permitted\n", 1, False), ("", 1, False)]
)
def test_user_namespaces(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, said: str, status: int, ok: bool
) -> None:
    def tried(argv: list[str], **_: object) -> process.Completed:
        return process.Completed(tuple(argv), status, "", said)

    monkeypatch.setattr(doctor, "run", tried)
    found = check(doctor.examine(settings), "user namespaces")
    assert found.ok is ok
    assert found.detail == ("usable" if ok else said.strip() or "unshare exited 1")
    assert bool(found.mend) is not ok


def test_missing_bwrap_is_no_crash(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(argv: list[str], **_: object) -> process.Completed:
        raise HostLacks(f"{argv[0]} is not installed here", hint="mend it")

    monkeypatch.setattr(doctor, "run", refused)
    found = check(doctor.examine(settings), "compiler sandbox")
    assert (found.ok, found.detail, found.mend) == (False, "bwrap is not installed here", "mend it")


def test_space_for_each_unbuilt_image(tmp_path: Path) -> None:
    gib = 2**30
    assert doctor.space_check(tmp_path, 6 * gib, unbuilt=2).ok
    assert doctor.space_check(tmp_path, 0, unbuilt=0).ok
    lacks = doctor.space_check(tmp_path, 6 * gib - 1, unbuilt=2)
    assert not lacks.ok
    assert "2 unbuilt images want 6 GiB" in lacks.detail
    assert "KLP_CACHE" in lacks.mend


def test_built_series() -> None:
    entries = [manifest("kernel", series="6.12"), manifest("guest", suite="trixie"), manifest("boot")]
    assert doctor.built_series(entries) == {"6.12"}


def test_images_not_built_are_no_lack(settings: Settings) -> None:
    found = check(doctor.examine(settings), "images")
    assert found.ok
    assert all(name in found.detail for name in definitions())


def test_damaged_entry_is_told(tmp_path: Path) -> None:
    (tmp_path / "kernel-0").mkdir()
    (tmp_path / "kernel-0" / "manifest.json").write_text("{")
    report = doctor.examine(Settings(cache=str(tmp_path), accelerator="tcg"))
    found = check(report, "images")
    assert not found.ok
    assert found.mend.startswith("rm -r ")


def test_unreachable_accelerator_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise HostLacks("KVM was asked for: no", hint="unset KLP_ACCELERATOR")

    monkeypatch.setattr(doctor, "choose_accelerator", refuse)
    report = doctor.examine(settings)
    assert report.accelerator is None
    assert not report.ok
    assert check(report, "accelerator").detail == "KVM was asked for: no"


def test_kvm_that_may_not_be_opened_is_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_KVM", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(process.shutil, "which", lambda *_, **__: "/bin/true")
    found = check(doctor.examine(Settings(cache=str(tmp_path))), "accelerator")
    assert found.ok
    assert "--groups kvm" in found.mend
