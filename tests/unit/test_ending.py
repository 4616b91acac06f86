# SPDX-License-Identifier: Apache-2.0
"""The last look at a guest: one that died after the last word of its test is found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from klp.drive.ending import LastLook, look_last
from klp.errors import CheckFailed, GuestPanicked, GuestSilent, KlpError
from klp.lab.lab import Lab


@dataclass
class Said:
    stdout: str


@dataclass
class Standing:
    """A guest that answers, or does not, and a machine that lives, or does not."""

    silent: KlpError | None = None
    dead: KlpError | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def diagnosis(self) -> Standing:
        return self

    machine = console = diagnosis

    def run(self, command: str) -> Said:
        self.asked.append(command)
        if self.silent:
            raise self.silent
        return Said("[    1.0] a line\n")

    def check_alive(self) -> None:
        if self.dead:
            raise self.dead

    def text(self) -> str:
        return "[    2.0] BUG: on the console\n"


PANIC, SILENT = GuestPanicked("the guest is lost: oops"), GuestSilent("no answer")


@pytest.mark.parametrize(
    ("guest", "failure", "look", "log"),
    [
        (Standing(), None, LastLook(), "a line"),
        (Standing(dead=PANIC), None, LastLook(PANIC), "BUG: on the console"),
        (Standing(silent=SILENT), None, LastLook(SILENT), "BUG: on the console"),
        (Standing(), CheckFailed("a probe is dead"), LastLook(failure="a probe is dead"), ""),
    ],
)
def test_a_guest_that_died_meanwhile_is_found_out(
    guest: Standing, failure: KlpError | None, look: LastLook, log: str, tmp_path: Path
) -> None:
    def mark() -> None:
        if failure:
            raise failure

    file = tmp_path / "dmesg.log"
    file.touch()
    assert look_last(cast("Lab", guest), file, mark) == look
    assert log in file.read_text()
