# SPDX-License-Identifier: Apache-2.0
"""Debian packages to folders, by mmdebstrap, which nothing else calls.

Packages are checked by apt against the archive's signature. As an ordinary user mmdebstrap works in a
user namespace of its own (mode unshare); its result comes as a tar stream that we unpack as ourselves,
so that everything in the cache belongs to whoever built it, and can be removed by them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from klp import paths
from klp.diskspace import is_full
from klp.errors import HostLacks
from klp.images.apt_lines import AptLines
from klp.images.definition import ImageDefinition
from klp.process import CommandFailed, pipe, run
from klp.progress import unheard
from klp.sidework import looked_at

# Documentation and translations: a fifth of a root's files, and of no use in it.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# What hooks that download begin with.
_DOWNLOADING = "download.sh"
# Often enough for whoever waits; each look goes through some thousand files.
_LOOK_S = 2.0


def _hook(name: str, *, downloads: bool = False, **variables: str) -> str:
    """Return a hook's text with its variables in front.

    The text, not the path, is given to mmdebstrap: in mode unshare the hook runs as a user who may
    not be allowed to read our checkout.

    Args:
        downloads: whether it calls the functions that download.
    """
    lines = [f"{key}='{value}'" for key, value in variables.items()]
    return "\n".join([*lines, *([hook_text(_DOWNLOADING)] if downloads else []), hook_text(name)])


def hook_text(name: str) -> str:
    """Return a hook's text as it stands in vm-images/hooks."""
    return (paths.BUILD_HOOKS / name).read_text()


def _mmdebstrap(definition: ImageDefinition, mirror: str, *options: str) -> list[str]:
    mode = "root" if os.geteuid() == 0 else "unshare"
    suites = _hook("add-suites.sh", SUITE=definition.suite, EXTRA_SUITES=" ".join(definition.extra_suites))
    return [
        # Verbose, for what it says is told as how far it is.
        "mmdebstrap", "--verbose", f"--mode={mode}", f"--architectures={definition.architecture}",
        "--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Retries 3",
        # Suites whose release file expires are valid on a mirror that is a snapshot, too.
        "--aptopt=Acquire::Check-Valid-Until false",
        f"--setup-hook={suites}", *options, definition.suite, "-", *([mirror] if mirror else []),
    ]  # fmt: skip


def fetch_kernel(
    definition: ImageDefinition,
    mirror: str,
    destination: Path,
    *,
    tools: Sequence[str] = (),
    tell: Callable[[str], None] = unheard,
) -> str:
    """Download the packages of the series' newest kernel and its source; return its release.

    They are put in a folder ``klp`` of `destination`.

    Args:
        tools: what modules for it are built with; these packages, the kernel's headers and all that they
            depend on are put in ``klp/tools``.
        tell: gets how far it is; of the other functions here as well.

    Raises:
        HostLacks: the archive cannot be reached, or has no such kernel.
    """
    fetch = _hook(
        "fetch-kernel.sh", downloads=True,
        SERIES=definition.name, ARCH=definition.architecture, SOURCE=definition.kernel_source,
        TOOLS=" ".join(tools),
    )  # fmt: skip
    _download(definition, mirror, fetch, destination, tell)
    return (destination / "klp" / "release").read_text().strip()


def newest_release(
    definition: ImageDefinition, mirror: str, destination: Path, tell: Callable[[str], None] = unheard
) -> str:
    """Return the release of the series' newest kernel in the archive; nothing but its lists is fetched.

    Raises:
        HostLacks: the archive cannot be reached, or has no such kernel.
    """
    look = _hook(
        "fetch-kernel.sh", downloads=True,
        SERIES=definition.name, ARCH=definition.architecture, SOURCE="", TOOLS="",
    )  # fmt: skip
    _download(definition, mirror, look, destination, tell)
    return (destination / "klp" / "release").read_text().strip()


def fetch_packages(
    definition: ImageDefinition,
    mirror: str,
    packages: Sequence[str],
    destination: Path,
    tell: Callable[[str], None] = unheard,
) -> None:
    """Download packages into a folder ``klp`` of `destination`, without what they depend on.

    Raises:
        HostLacks: the archive cannot be reached, or has no such package.
    """
    fetch = _hook("fetch-packages.sh", downloads=True, PACKAGES=" ".join(packages))
    _download(definition, mirror, fetch, destination, tell)


def _download(
    definition: ImageDefinition,
    mirror: str,
    fetch: str,
    destination: Path,
    tell: Callable[[str], None] = unheard,
) -> None:
    command = _mmdebstrap(
        definition, mirror, "--variant=custom", "--format=null",
        f"--customize-hook={fetch}", f"--customize-hook=copy-out /klp {shlex.quote(str(destination))}",
    )  # fmt: skip
    try:
        run(command, listen=AptLines(tell).take)
    except CommandFailed as error:
        raise _unreachable(error) from error


def make_root(
    definition: ImageDefinition,
    mirror: str,
    packages: Sequence[str],
    destination: Path,
    hooks: Sequence[str] = (),
    *,
    tell: Callable[[str], None] = unheard,
) -> None:
    """Unpack a minimal system with `packages` into `destination`, which must exist.

    Args:
        hooks: names of those in vm-images/hooks that then add to it.

    Raises:
        HostLacks: the archive cannot be reached, or packages are missing.
    """
    excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    command = _mmdebstrap(
        definition, mirror, "--variant=apt", "--format=tar", f"--include={','.join(packages)}",
        *excludes,
        f"--essential-hook={_hook('download-first.sh', downloads=True, PACKAGES=' '.join(packages))}",
        *(f"--customize-hook={_hook(each, downloads=True)}" for each in hooks),
    )  # fmt: skip
    # An ordinary user can make no device nodes; a guest's kernel fills /dev itself (devtmpfs).
    unpack = ["tar", "--extract", "--file=-", f"--directory={destination}", "--no-same-owner",
              "--preserve-permissions", "--exclude=./dev/*"]  # fmt: skip
    lines = AptLines(tell, destination)
    try:
        with looked_at(lines.look, _LOOK_S):
            pipe(command, unpack, listen=lines.take)
    except CommandFailed as error:
        raise _unreachable(error) from error


def unpack_package(package: Path, destination: Path) -> None:
    """Unpack a .deb's files, without its scripts."""
    destination.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "--extract", package, destination])


def _unreachable(error: CommandFailed) -> Exception:
    """Return an error with apt's first complaint; a full disk stays as it is, for the cache explains it."""
    said = [line for line in error.output.splitlines() if line.startswith(("E:", "klp:", "W: "))]
    if is_full(error) or not said:
        return error
    return HostLacks(
        f"mmdebstrap could not make the root: {said[0]}",
        hint="is the Debian archive reachable? KLP_MIRROR=URI names another mirror; "
        "klp doctor checks the host",
    )
