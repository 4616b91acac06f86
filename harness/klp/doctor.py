# SPDX-License-Identifier: Apache-2.0
"""What this host has and lacks for klp's work, and the command that mends each lack."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from klp import paths
from klp.errors import HostLacks
from klp.images.cache import EntryKind, Manifest
from klp.images.definition import definitions
from klp.images.library import Library
from klp.model import Accelerator
from klp.paths import CacheLayout
from klp.process import run, which
from klp.progress import Silent
from klp.settings import Settings
from klp.vm.accel import AcceleratorVerdict, choose_accelerator, forget_failure, kvm_obstacle

_PYTHON = (3, 11)
# What one image takes while it is built; klp.images.cache names the same where the disk is full.
_IMAGE_GIB = 3
_GIB = 2**30
# mmdebstrap wants as many subordinate ids; it is also what useradd gives a new user.
_RANGE = 65536
_KVM = Path("/dev/kvm")
# How each system installs packages, and whose names for them it shares.
_APT = "apt-get install --no-install-recommends"
_INSTALLERS = {
    "debian": (_APT, "debian"), "ubuntu": (_APT, "debian"), "fedora": ("dnf install", "fedora"),
    "arch": ("pacman -S --needed", "arch"), "opensuse": ("zypper install", "opensuse"),
}  # fmt: skip
_NOT_PACKAGED = "-"
_ID_FILES = (Path("/etc/subuid"), Path("/etc/subgid"))


class HostCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at.

    Attributes:
        name: what was looked at.
        ok: whether klp can work with what was found.
        detail: what was found.
        mend: the command or step that mends it; where `ok` is set, one that would make it better.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was looked at.

    Attributes:
        ok: every check is.
        accelerator: what will run the guests; None where the settings demand what cannot be had.
        checks: in the order to mend them.
    """

    ok: bool
    accelerator: AcceleratorVerdict | None
    checks: tuple[HostCheck, ...]


class HostPackage(msgspec.Struct, frozen=True):
    """A row of host-packages.txt: a command (or a file), what it is for, and the package that has it.

    A package of ``-`` is in none of that system's own archives.
    """

    command: str
    why: str
    debian: str
    fedora: str
    arch: str
    opensuse: str

    def install(self, system: str) -> str:
        """Return the command that installs it on a system of that name, or where to read on."""
        tool, names = _INSTALLERS[system]
        package = getattr(self, names)
        if package == _NOT_PACKAGED:
            return f"{system}'s own archive has none: a container or Vagrant has (docs/install.md)"
        return _as_root(f"{tool} {package}")


def host_packages(file: Path = paths.HOST_PACKAGES) -> tuple[HostPackage, ...]:
    """Read the one list of what klp needs from the host."""
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return tuple(HostPackage(*line.split("\t")) for line in lines)


def host_system(release: Mapping[str, str]) -> str:
    """Return which system with known packages this one is, or is like, by its os-release file."""
    for word in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if "suse" in word:
            return "opensuse"
        if word in _INSTALLERS:
            return word
    return "debian"


def _this_system() -> str:
    try:
        return host_system(platform.freedesktop_os_release())
    except OSError:
        return host_system({})


def examine(settings: Settings) -> Report:
    """Look at the host; nothing is changed, and no guest is booted.

    Raises:
        SettingsError: an image definition is broken.
    """
    layout = CacheLayout(paths.cache_root(settings.cache))
    built, images = _images(settings)
    verdict, accelerator = _accelerator(settings, layout)
    checks = (
        python_check(sys.version_info[:3]),
        *(command_check(package, _this_system()) for package in host_packages()),
        *_id_range_checks(),
        _user_namespaces(),
        _sandbox(),
        space_check(layout.root, _free(layout.root), unbuilt=len(definitions().keys() - built)),
        images,
        accelerator,
    )
    return Report(ok=all(check.ok for check in checks), accelerator=verdict, checks=checks)


def python_check(version: tuple[int, ...]) -> HostCheck:
    """Judge the Python that runs this."""
    wanted = ".".join(map(str, _PYTHON))
    return HostCheck(
        name="Python", ok=version >= _PYTHON, detail=".".join(map(str, version)),
        mend="" if version >= _PYTHON else f"run klp with Python {wanted} or newer",
    )  # fmt: skip


def command_check(wanted: HostPackage, system: str) -> HostCheck:
    """Judge whether a command, or a file, of the list is here; `system` names its package."""
    found = _find(wanted.command)
    return HostCheck(
        name=wanted.command, ok=found is not None,
        detail=found or f"not found; it {wanted.why}",
        mend="" if found else wanted.install(system),
    )  # fmt: skip


def _find(command: str) -> str | None:
    if command.startswith("/"):
        return command if Path(command).exists() else None
    return which(command)


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _id_range_checks() -> tuple[HostCheck, ...]:
    """Judge the user's subordinate ids; root needs none, for mmdebstrap then uses no user namespace."""
    if os.geteuid() == 0:
        return ()
    user = _user()
    files = [file.read_text() if file.exists() else "" for file in _ID_FILES]
    return (id_range_check(user, os.geteuid(), *files),)


def _user() -> str:
    """Return the user's name; the number of one that has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return str(os.geteuid())


def id_range_check(user: str, uid: int, subuid: str, subgid: str) -> HostCheck:
    """Judge whether `user` has ranges of subordinate ids, from the text of /etc/subuid and /etc/subgid."""
    names = (f"{user}:", f"{uid}:")
    has = [any(line.startswith(names) for line in text.splitlines()) for text in (subuid, subgid)]
    if all(has):
        return HostCheck(name="subordinate ids", ok=True, detail=f"{user} has ranges of them")
    first = _first_free_id(f"{subuid}\n{subgid}")
    spread = f"{first}-{first + _RANGE - 1}"
    lacks = " and ".join(file.name for file, there in zip(_ID_FILES, has, strict=True) if not there)
    return HostCheck(
        name="subordinate ids", ok=False, detail=f"{user} has no range in {lacks}",
        mend=f"sudo usermod --add-subuids {spread} --add-subgids {spread} {user}",
    )  # fmt: skip


def _first_free_id(text: str) -> int:
    rows = [line.split(":") for line in text.splitlines() if line.count(":") == 2]
    # useradd begins at 100000 (SUB_UID_MIN of login.defs), too.
    return max([100_000, *(int(start) + int(count) for _, start, count in rows)])


def _user_namespaces() -> HostCheck:
    return _trial(
        "user namespaces", ["unshare", "--user", "--map-root-user", "true"],
        mend="sysctl -w kernel.unprivileged_userns_clone=1 (Debian), or "
        "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), as root",
    )  # fmt: skip


def _sandbox() -> HostCheck:
    """Judge whether bubblewrap works, in which compilers run: a container may forbid what it does."""
    return _trial(
        "compiler sandbox",
        ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "true"],
        mend="allow user namespaces; in a container, also mounting (docker run --privileged)",
    )


def _trial(name: str, command: list[str], *, mend: str) -> HostCheck:
    """Judge a means of isolation by having it run a command that does nothing.

    The knobs that forbid it differ between distributions and versions, so they are not read one by one.
    """
    try:
        tried = run(command, check=False)
    except HostLacks as error:
        return HostCheck(name=name, ok=False, detail=error.message, mend=error.hint or "")
    said = tried.stderr.strip().splitlines()[-1:] or [f"{command[0]} exited {tried.status}"]
    ok = tried.status == 0
    return HostCheck(name=name, ok=ok, detail="usable" if ok else said[0], mend="" if ok else mend)


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that `folder` is on, or would be on."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def space_check(folder: Path, free: int, *, unbuilt: int) -> HostCheck:
    """Judge whether the images that are not built would fit."""
    needed = unbuilt * _IMAGE_GIB
    ok = free >= needed * _GIB
    want = f"; {unbuilt} unbuilt images want {needed} GiB" if unbuilt else ""
    return HostCheck(
        name="disk space", ok=ok, detail=f"{free / _GIB:.1f} GiB free for {folder}{want}",
        mend="" if ok else "free some, or set KLP_CACHE=DIR to a folder on a larger disk",
    )  # fmt: skip


def _images(settings: Settings) -> tuple[set[str], HostCheck]:
    """Return which kernel series are built, and the line that says so; what is not built is no lack."""
    try:
        entries = Library(settings, Silent()).cache.entries()
    except HostLacks as error:
        return set(), HostCheck(name="images", ok=False, detail=error.message, mend=error.hint or "")
    built = built_series(manifest for _, manifest in entries)
    waiting = [name for name in definitions() if name not in built]
    details = [f"built: {', '.join(sorted(built)) or 'none'}"]
    if waiting:
        details.append(f"built when first asked for: {', '.join(waiting)}")
    return built, HostCheck(name="images", ok=True, detail="; ".join(details))


def built_series(manifests: Iterable[Manifest]) -> set[str]:
    """Return the kernel series among the cache's entries."""
    return {manifest.inputs["series"] for manifest in manifests if manifest.kind == EntryKind.KERNEL}


def _accelerator(settings: Settings, layout: CacheLayout) -> tuple[AcceleratorVerdict | None, HostCheck]:
    """Return what runs the guests, and the line that says so.

    Emulation (TCG) is slower but does the same, so it is no lack. A /dev/kvm that this user may not open is
    worth a hint, unless the settings ask for TCG.
    """
    forbidden = _KVM.exists() and not os.access(_KVM, os.R_OK | os.W_OK)
    mend = f"sudo usermod --append --groups kvm {_user()}, then log in anew"
    # Without an image, no guest is booted to try KVM: doctor must be quick, and change nothing.
    try:
        verdict = choose_accelerator(settings, layout)
    except HostLacks as error:
        way_out = mend if forbidden else error.hint or ""
        return None, HostCheck(name="accelerator", ok=False, detail=error.message, mend=way_out)
    detail = f"{verdict.accelerator}: {verdict.reason}"
    better = mend if forbidden else "klp doctor --retry-kvm: the next guest tries it once more"
    tcg = verdict.accelerator is Accelerator.TCG
    advise = settings.accelerator == "auto" and tcg and (forbidden or kvm_obstacle() is None)
    return verdict, HostCheck(name="accelerator", ok=True, detail=detail, mend=better if advise else "")


def retry_kvm(settings: Settings) -> str:
    """Have KVM tried once more by the next guest; return, in words, what that is good for.

    Raises:
        SettingsError, HostLacks: there is no cache to look in.
    """
    why = forget_failure(CacheLayout(paths.cache_root(settings.cache)))
    return f"{why}: the next guest tries once more" if why else "no failure of KVM's is remembered"
