# SPDX-License-Identifier: Apache-2.0
"""The terminal of a pytest session, reached under output capture and from the workers of pytest-xdist."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    import pytest

TERMINAL_KEY = "klp_terminal"
_STDERR = 2


def uncaptured(config: pytest.Config) -> AbstractContextManager[object]:
    """Suspend pytest's capture for the length of a block."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    return (
        cast("AbstractContextManager[object]", manager.global_and_fixture_disabled())
        if manager
        else nullcontext()
    )


def path_for_workers(config: pytest.Config) -> str:
    """Return a path by which other processes reach this one's real standard error while it lives.

    A worker's own standard error is the controller's captured one.
    """
    with uncaptured(config):
        return f"/proc/{os.getpid()}/fd/{os.dup(_STDERR)}"


class SessionTerminal:
    """A stream that pytest's capture does not hold back; write whole lines to it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._path: str = getattr(config, "workerinput", {}).get(TERMINAL_KEY, "")

    def write(self, text: str) -> int:
        """Write to the terminal, capture or no capture."""
        if self._path:
            self._to_controller(text)
        else:
            self._here(text)
        return len(text)

    def _to_controller(self, text: str) -> None:
        try:
            with Path(self._path).open("a") as stream:
                stream.write(text)
        except OSError:  # a socket cannot be opened by path; progress is no reason to fail
            self._path = os.devnull

    def _here(self, text: str) -> None:
        reporter: Any = self._config.pluginmanager.getplugin("terminalreporter")
        with uncaptured(self._config):
            # Not there under `-p no:terminal`.
            if reporter is None:
                sys.stderr.write(text)
                return
            reporter.ensure_newline()
            reporter.write(text, flush=True)

    def flush(self) -> None:
        """Do nothing: each write was."""

    def as_file(self) -> TextIO:
        """Return this for a parameter of type TextIO; of its methods rich uses only those that are here."""
        return cast("TextIO", self)
