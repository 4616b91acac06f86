# SPDX-License-Identifier: Apache-2.0
"""TOML files read straight into typed values; every complaint starts with file and line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.errors import SettingsError

T = TypeVar("T")


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
    """Turn msgspec's ``… `key` … - at `$.a.b` `` into file, line and reason."""
    reason, _, place = said.partition(" - at ")
    unknown = re.search(r"unknown field `([^`]+)`", reason)
    parts = re.findall(r"[\w-]+", place.replace("$", ""))
    key = unknown[1] if unknown else next((p for p in reversed(parts) if not p.isdigit()), "")
    line = _line_of(text, key)
    if unknown:
        reason = f"unknown setting {unknown[1]}"
    elif key:
        reason = f"{key}: {reason}"
    return f"{file}:{line}: {reason}"


def _line_of(text: str, key: str) -> int:
    """The first line that assigns `key` or opens a table of that name; 1 where none does."""
    pattern = re.compile(rf"^\s*(?:\[+[^\]]*\b{re.escape(key)}\b|[\"']?{re.escape(key)}[\"']?\s*=)")
    lines = text.splitlines() if key else []
    return next((n for n, line in enumerate(lines, 1) if pattern.match(line)), 1)
