# SPDX-License-Identifier: Apache-2.0
"""What was found out about each mutant: a JSON file each, so that an interrupted run can go on."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.mutants.edit import Mutant
from tests.mutants.measure import Finding


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What a result was found with.

    Attributes:
        key: of the kernel's source and configuration, and of the mutant.
        release: of the kernel.
        source: version of its source package.
        commit: of this project; with ``+`` where files of it had been changed.
        date: the day, as YYYY-MM-DD.
        accelerator, qemu: what ran it.
    """

    key: str
    release: str
    source: str
    commit: str
    date: str
    accelerator: str
    qemu: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel's results.

    Attributes:
        mutant: what was wrong with it; None for the unmutated kernel.
        lost: why it could not be tested: it was not built, or it does not boot; empty where it could.
        suite, selftests: what they found; None where they were not run.
        broken: the rules that the selftests' traces break, by klp.
        build_s, ready_s: seconds to build it, and to boot, arm and save it.
    """

    mutant: Mutant | None
    provenance: Provenance
    lost: str = ""
    suite: Finding | None = None
    selftests: Finding | None = None
    broken: tuple[str, ...] = ()
    build_s: float = 0.0
    ready_s: float = 0.0


def write(file: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    growing = file.with_suffix(".part")
    growing.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    growing.replace(file)


def read(file: Path, key: str) -> Record | None:
    """Return what a file has, if it is about the kernel that `key` stands for."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if found.provenance.key == key else None
