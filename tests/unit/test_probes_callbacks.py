# SPDX-License-Identifier: Apache-2.0
"""What klpcallbacks writes, and which calls it takes for callbacks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpcallbacks
import klpoutput
import klpsymbols

SYMBOLS = SimpleNamespace(describe=hex)


def callback(**fields):
    base = {"ts_ns": 5, "name": b"pre", "patch": b"demo", "object": b"", "function": 0x10, "result": -19}
    task = {"pid": 181, "tgid": 180, "comm": b"sh\xff", "kind": 0, "kinds": 1, "duration_ns": 7}
    return SimpleNamespace(**base, **task | fields)


def test_only_pre_patch_has_a_result():
    lines = []
    out = klpoutput.Output("klpcallbacks", True, klpcallbacks.columns, write=lines.append)
    for kind in range(len(klpcallbacks.KINDS)):
        event = callback(kind=kind, kinds=1 << kind)
        out.event("callback", 5, **klpcallbacks.fields_of(event, SYMBOLS))
    pre, *others = [events.decode(line.encode()) for line in lines]
    assert (pre.result, pre.object, pre.function) == (-19, "vmlinux", "pre [demo]")
    assert [event.result for event in others] == [None] * 3


def test_a_function_that_serves_as_several_is_told_as_all_of_them():
    fields = klpcallbacks.fields_of(callback(kind=1, kinds=0b0110), SYMBOLS)
    assert (fields["kind"], fields["also"]) == ("post_patch", ["pre_unpatch"])


def test_a_result_is_shown_by_name():
    fields = klpcallbacks.fields_of(callback(), SYMBOLS)
    assert "ENODEV" in klpcallbacks.columns("callback", fields)


def test_a_function_without_a_name_is_told_by_address():
    event = callback()
    event.name = b""
    assert klpcallbacks.fields_of(event, SYMBOLS)["function"] == "0x10"


@pytest.mark.parametrize(
    ("patch", "pid", "wanted"),
    [
        (None, None, True),
        ("demo", None, True),
        ("other", None, False),
        (None, 181, True),
        (None, 180, True),
        (None, 7, False),
        ("demo", 7, False),
    ],
)
def test_filters(patch, pid, wanted):
    fields = klpcallbacks.fields_of(callback(), SYMBOLS)
    assert klpcallbacks.wants(fields, patch, pid) is wanted


def test_another_machine_is_told_what_it_does_not_see(monkeypatch):
    monkeypatch.setattr(klpcallbacks, "calls", refuse)
    missed = []
    probes = SimpleNamespace(symbols=SYMBOLS, attached=[], miss=lambda *what: missed.append(what))
    klpcallbacks.attach(probes)
    assert missed == [("klp_object.callbacks", "callbacks (not on x86-64)")]


def refuse(_symbols):
    raise klpsymbols.ProbeError("not on x86-64")
