# SPDX-License-Identifier: Apache-2.0
"""Files for `klp coverage`: each test's verdicts, and why some rules are never observed."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from klp.analysis.coverage import Reason, RecordedTest
from klp.errors import HostLacks, UsageError
from klp.paths import UNOBSERVABLE
from klp.toml import read_toml


class _Reasons(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: tuple[Reason, ...] = ()


def begin_session(file: Path) -> None:
    """Begin a session's file with nothing in it; what an earlier session wrote there goes.

    Raises:
        HostLacks: it cannot be written there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    except OSError as error:
        raise HostLacks(f"{file}: {error.strerror}", hint="name a file that can be written") from None


def add_test(file: Path, record: RecordedTest) -> None:
    """Append a line to a session's file, which the workers of pytest-xdist share."""
    line = msgspec.json.encode(record) + b"\n"
    # A single write to a file opened with O_APPEND is not torn apart by another process's; a stream's
    # buffer might be flushed in two.
    opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(opened, line)
    finally:
        os.close(opened)


def read_tests(files: tuple[Path, ...]) -> tuple[RecordedTest, ...]:
    """Return what sessions wrote down, in the order of `files`.

    Raises:
        UsageError: there is no such file, or a line in it is no test's.
    """
    return tuple(record for file in files for record in _records(file))


def _records(file: Path) -> list[RecordedTest]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}", hint=f"pytest --klp-verdicts {file} writes it"
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=RecordedTest))
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{file}:{number}: no record of a test: {error}", hint="record it again"
            ) from None
    return found


def unobservable() -> tuple[Reason, ...]:
    """Return why some rules cannot be observed by any test."""
    return read_toml(UNOBSERVABLE, _Reasons).reason
