# SPDX-License-Identifier: Apache-2.0
"""Which tests `make test` runs, and which are left to `make test-rest` (tests/core.toml)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from klp.toml import read_toml

CORE = Path(__file__).with_name("core.toml")
# All of them: they need no guest.
_UNIT = "tests/unit/"


def features() -> dict[str, dict[str, list[str]]]:
    """Return the tests by kind of feature and feature."""
    return read_toml(CORE, dict[str, dict[str, list[str]]])


def named() -> tuple[str, ...]:
    """Return what names the tests of the core, each once."""
    return tuple(
        dict.fromkeys(name for kind in features().values() for names in kind.values() for name in names)
    )


def is_core(test: str, names: Iterable[str]) -> bool:
    """Whether a test, by its node id, is a unit test, or one that a name stands for."""
    return test.startswith(_UNIT) or any(_stands_for(name, test) for name in names)


def _stands_for(name: str, test: str) -> bool:
    return test == name or test.startswith((f"{name}::", f"{name}["))
