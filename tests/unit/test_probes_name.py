# SPDX-License-Identifier: Apache-2.0
"""What a tool makes of the kernel's answer to bpf(2), with an answer made by hand."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpname


@pytest.fixture
def answer(monkeypatch):
    """Ask for an address, and have the program return `result` with `found` in its map."""

    def ask(result, found):
        monkeypatch.setattr(
            klpname,
            "system_call",
            lambda _command, given: (0, given[:4] + struct.pack("=i", result) + given[8:]),
        )
        namer = object.__new__(klpname.Namer)
        namer._program, namer._found = 3, found.ljust(4096, b"\0")
        return namer(0xFFFFFFFFC0001004)

    return ask


def test_a_name_is_what_the_program_wrote(answer):
    assert answer(24, b"demo_init+0x4/0x80 [demo]") == "demo_init+0x4/0x80 [demo]"


@pytest.mark.parametrize("result", [-16, 0])
def test_an_address_gets_no_name_that_an_earlier_one_left(answer, result):
    assert answer(result, b"other_init+0x0/0x80 [other]") == "0xffffffffc0001004"
