# SPDX-License-Identifier: Apache-2.0
"""A livepatch is unloaded once the kernel has given its own reference of the module back."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any, cast

import pytest

from klp.drive.commands import insmod
from klp.drive.subject import LivepatchSubject, Refused
from klp.errors import UsageError
from klp.guest import livepatch
from klp.guest.livepatch import Livepatches
from klp.guest.ssh import CommandResult
from klp.lab.lab import Lab
from klp.model import Module


class Kernel:
    """A guest whose kernel holds a module for so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.ran: list[str] = []

    def run(self, command: Any) -> CommandResult:
        line = command if isinstance(command, str) else shlex.join(command)
        self.ran.append(line)
        if line == livepatch._WHILE_HELD.replace("{0}", "/sys/module/klp_x/refcnt"):
            self.looks -= 1
            return CommandResult(line, 0, "1\n" if self.looks >= 0 else "", "")
        if line == "rmmod klp_x" and self.looks >= 0:
            said = "rmmod: ERROR: could not remove 'klp_x': Resource temporarily unavailable\n"
            return CommandResult(line, 1, "", said)
        return CommandResult(line, 0, "", "")


def subject(kernel: Kernel) -> LivepatchSubject:
    livepatches = Livepatches(cast("Any", kernel), lambda: cast("Any", kernel))
    lab = SimpleNamespace(guest=kernel, livepatches=livepatches)
    module = SimpleNamespace(name="klp_x")
    return LivepatchSubject(
        cast("Lab", lab), cast("Module", module), "/x.ko", deadline_s=1, stuck=lambda tasks: None
    )


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_the_last_reference_is_waited_for(looks: int) -> None:
    kernel = Kernel(looks)
    subject(kernel).unload()
    assert kernel.ran[-1] == "rmmod klp_x"
    assert len(kernel.ran) == looks + 2


def test_one_that_is_kept_for_good_is_told_by_rmmod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livepatch, "_HELD_S", 0)
    with pytest.raises(Refused, match="klp_x: unload failed with EAGAIN"):
        subject(Kernel(1000)).unload()


def test_what_is_to_be_refused_is_not_waited_for() -> None:
    kernel = Kernel(1000)
    subject(kernel).unload(expect=None)
    assert kernel.ran == ["rmmod klp_x"]


def test_parameters_with_a_quote_left_open() -> None:
    assert insmod("/x.ko", "a='1 2' b=3") == ["insmod", "/x.ko", "a=1 2", "b=3"]
    with pytest.raises(UsageError, match="no closing quotation"):
        insmod("/x.ko", "label='don't'")
