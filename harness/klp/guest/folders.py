# SPDX-License-Identifier: Apache-2.0
"""Whole folders into a guest and out of it.

A folder goes over as one file: each file of its own would take round trips through an emulated guest.
"""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from klp.errors import CheckFailed
from klp.guest.ssh import Guest
from klp.process import CommandFailed, run

_ARCHIVE = "klp-copied.tar"
_THERE = f"/tmp/{_ARCHIVE}"
# Root unpacks it, in the guest and maybe here: what it unpacks is to be its own.
_UNPACK = ("--no-same-owner", "-xf")
# What tar may take for a large one.
_LIMIT_S = 3600.0


def put_folder(guest: Guest, source: Path, destination: str) -> None:
    """Copy a folder with all that is in it; `destination` is its name in the guest.

    Raises:
        CheckFailed: it cannot be read here, or written there.
        VmLost: the machine was lost meanwhile.
    """
    what = f"copying {source} to guest:{destination}"
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch, _ARCHIVE)
        _tar(what, "-C", source, "-cf", packed, ".")
        guest.put(packed, _THERE)
    name = shlex.quote(destination)
    unpack = f"mkdir -p {name} && tar -C {name} {shlex.join(_UNPACK)} {_THERE}"
    guest.run(f"{unpack}; status=$?; rm {_THERE}; exit $status", timeout_s=_LIMIT_S).must(what)


def get_folder(guest: Guest, source: str, destination: Path) -> None:
    """Copy a folder out of a guest; `destination` is its name here.

    Raises:
        CheckFailed: it cannot be read there, or written here.
        VmLost: the machine was lost meanwhile.
    """
    what = f"copying guest:{source} to {destination}"
    guest.run(["tar", "-C", source, "-cf", _THERE, "."], timeout_s=_LIMIT_S).must(what)
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch, _ARCHIVE)
        guest.get(_THERE, packed)
        guest.run(["rm", _THERE])
        try:
            destination.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckFailed(f"{what}: {error.strerror}") from error
        _tar(what, "-C", destination, *_UNPACK, packed)


def _tar(what: str, *words: str | Path) -> None:
    try:
        run(["tar", *words])
    except CommandFailed as failed:
        raise CheckFailed(f"{what}: {failed}") from failed
