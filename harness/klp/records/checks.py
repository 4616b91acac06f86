# SPDX-License-Identifier: Apache-2.0
"""check.json on disk: written whole after every scenario, found and read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp.analysis.checked import SCHEMA, CheckResult
from klp.errors import UsageError
from klp.files import write_whole
from klp.paths import CheckLayout
from klp.report.check_table import encode


class NotACheck(UsageError):
    """A folder is none of `klp check`, or one that cannot be read: cut, or from another version of klp."""


class _Head(msgspec.Struct):
    schema: int


@dataclass(frozen=True, slots=True)
class FoundCheck:
    """A check's folder, and what is in its check.json."""

    layout: CheckLayout
    result: CheckResult


def write(layout: CheckLayout, result: CheckResult) -> None:
    """Write check.json, whole or not at all."""
    write_whole(layout.summary, encode(result))


def find_check(word: str, root: Path) -> FoundCheck:
    """Return the check that `word` names: a path, a name below `root`, or ``latest``.

    Raises:
        NotACheck: there is nothing there, or nothing that can be read.
    """
    if word == "latest":
        found = sorted(root.glob("*/check.json"))
        if not found:
            raise NotACheck(f"{root}: no checks yet", hint="klp check makes one")
        folder = found[-1].parent
    else:
        folder = Path(word) if Path(word).exists() else root / word
    return FoundCheck(CheckLayout(folder.absolute()), _read(CheckLayout(folder.absolute()).summary))


def _read(file: Path) -> CheckResult:
    try:
        text = file.read_bytes()
    except OSError:
        raise NotACheck(f"{file.parent}: no check.json in it", hint="name a folder of klp check") from None
    try:
        schema = msgspec.json.decode(text, type=_Head).schema
        if schema != SCHEMA:
            age = "a newer" if schema > SCHEMA else "an older"
            told = f"{file}: of {age} klp (schema {schema}; this one reads {SCHEMA})"
            raise NotACheck(told, hint="run the check again")
        return msgspec.json.decode(text, type=CheckResult)
    except msgspec.DecodeError as error:
        raise NotACheck(f"{file}: cut or damaged: {error}", hint="run the check again") from None
