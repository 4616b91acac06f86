# SPDX-License-Identifier: Apache-2.0
"""TOML files read straight into typed values; every complaint starts with file and line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from klp.errors import SettingsError

T = TypeVar("T")

_HEADER = re.compile(r"^\s*\[+([^\]]*)\]")


def read_toml(file: Path, kind: type[T]) -> T:
    """Read `file` as a `kind` (a msgspec Struct that forbids unknown fields).

    Raises:
        SettingsError: the file cannot be read or parsed, or does not fit `kind`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{file}: {reason}") from None
    try:
        return msgspec.convert(tomllib.loads(text), kind)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_parse_complaint(file, text, str(error))) from None
    except msgspec.ValidationError as error:
        raise SettingsError(_shape_complaint(file, text, str(error))) from None


def _parse_complaint(file: Path, text: str, said: str) -> str:
    found = re.search(r"\(at line (\d+), column \d+\)", said)
    # tomllib says "at end of document" where something was left open.
    line = int(found[1]) if found else text.count("\n") + 1
    return f"{file}:{line}: {re.sub(r' *[(]at [^)]*[)]', '', said)}"


def _shape_complaint(file: Path, text: str, said: str) -> str:
    """Turn msgspec's ``… `key` … - at `$.a.b` `` into file, line and reason.

    msgspec names the field in its message only, and tomllib keeps no line numbers: so the message is taken
    apart, and the line looked for in the text.
    """
    reason, _, place = said.partition(" - at ")
    unknown = re.search(r"unknown field `([^`]+)`", reason)
    parts = re.findall(r"[\w-]+", place.replace("$", ""))
    key = unknown[1] if unknown else next((p for p in reversed(parts) if not p.isdigit()), "")
    table = [part for part in (parts if unknown else parts[:-1]) if not part.isdigit()]
    own = re.match(r"(\w+): ", reason)  # of a __post_init__, which names the key in its own words
    line = _line_of(text, key or (own[1] if own else ""), table)
    if unknown:
        reason = f"unknown setting {unknown[1]}"
    elif key:
        reason = f"{key}: {reason}"
    return f"{file}:{line}: {reason}"


def _line_of(text: str, key: str, table: list[str]) -> int:
    """The first line that assigns `key` in `table` or opens a table of that name; 1 where none does.

    Where a file has several ``[[table]]`` of that name it may be a line of the wrong one: msgspec does not
    say which it was.
    """
    assigns = re.compile(rf"^\s*[\"']?{re.escape(key)}[\"']?\s*=")
    opens = re.compile(rf"^\s*\[+[^\]]*\b{re.escape(key)}\b")
    current: list[str] = []
    elsewhere = 0
    for number, line in enumerate(text.splitlines() if key else [], 1):
        if header := _HEADER.match(line):
            current = re.findall(r"[\w-]+", header[1])
        if opens.match(line) or (current == table and assigns.match(line)):
            return number
        if assigns.match(line):  # better than line 1: it may be in an inline table
            elsewhere = elsewhere or number
    return elsewhere or 1
