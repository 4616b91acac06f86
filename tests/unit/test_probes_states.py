# SPDX-License-Identifier: Apache-2.0
"""What klpstates writes, from events laid out as the BPF program lays them out."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpbtf
import klpoutput
import klpstates
from klpsymbols import ProbeError

SYMBOLS = SimpleNamespace(describe=lambda address: f"pre_patch+0x{address:x} [demo]")
SLOTS = klpstates.MAX_PATCHES + 1


def bpf_event(kind, *slots, **fields):
    """An event of `kind`; each slot is a livepatch's name and its states as pairs."""
    ids, versions, names = [0] * (SLOTS * klpstates.MAX_STATES), [0] * (SLOTS * klpstates.MAX_STATES), b""
    for slot, (name, states) in enumerate(slots):
        for at, (number, version) in enumerate(states, slot * klpstates.MAX_STATES):
            ids[at], versions[at] = number, version
        names += name.ljust(klpstates.NAME_LEN, b"\0")
    numbers = ("duration_ns", "caller", "id", "detail", "error", "refs", "yes", "version", "cut")
    base = dict.fromkeys(numbers, 0)
    base |= {"ts_ns": 5, "pid": 7, "tgid": 7, "comm": b"insmod", "name": b"new", "other": b""}
    base |= {"ids": ids, "versions": versions, "names": names.ljust(SLOTS * klpstates.NAME_LEN, b"\0")}
    base |= {"kind": klpstates.EVENTS.index(kind), "patches": max(1, len(slots))}
    return SimpleNamespace(**base | fields)


def written(event):
    """What the harness reads of an event."""
    lines = []
    out = klpoutput.Output("klpstates", True, lambda kind, _: kind, write=lines.append)
    kind = klpstates.EVENTS[event.kind]
    out.event(kind, event.ts_ns, **klpstates.FIELDS[kind](event, SYMBOLS))
    return events.decode(lines[0].encode())


@pytest.mark.parametrize("kind", klpstates.EVENTS)
def test_every_event_decodes(kind):
    assert written(bpf_event(kind)).ts_ns == 5


def test_both_sides_of_a_decision_are_told():
    event = bpf_event("compatible", (b"", [(1, 2)]), (b"low", [(1, 3), (4, 1)]), (b"high", []), yes=0)
    told = written(event)
    assert told.states == (events.State(id=1, version=2),)
    low, high = told.installed
    assert (low.patch, [(one.id, one.version) for one in low.states]) == ("low", [(1, 3), (4, 1)])
    assert (high.patch, high.states, told.compatible) == ("high", (), False)


def test_all_states_of_a_full_slot_are_told():
    full = [(number, 1) for number in range(1, klpstates.MAX_STATES + 1)]
    assert len(written(bpf_event("compatible", (b"", full))).states) == klpstates.MAX_STATES


def test_a_state_of_version_0_is_found():
    told = written(bpf_event("state_get", id=9, yes=1, version=0, name=b"p"))
    assert (told.call, told.patch, told.found) == ("get", "p", events.State(id=9, version=0))
    absent = written(bpf_event("state_get", id=9, detail=1, name=b""))
    assert (absent.call, absent.patch, absent.found) == ("get_prev", None, None)


def test_the_stack_keeps_its_order():
    event = bpf_event("patch_stack", (b"", []), (b"low", []), (b"high", []), detail=1)
    assert (written(event).why, written(event).patches) == ("complete", ("low", "high"))


def test_references_that_could_not_be_read_are_unknown():
    assert written(bpf_event("patch_free", refs=0, yes=1)).module_refs == 0
    assert written(bpf_event("patch_free", refs=-1)).module_refs is None


@pytest.mark.parametrize(
    ("fields", "patch", "state", "wanted"),
    [
        ({"patch": "a"}, None, None, True),
        ({"patch": "a"}, "a", None, True),
        ({"patch": "b"}, "a", None, False),
        ({"patch": "b", "by": "a"}, "a", None, True),
        ({"patches": ["b", "a"]}, "a", None, True),
        ({"patch": "b", "installed": [{"patch": "a"}]}, "a", None, True),
        ({"patch": None, "id": 3}, "a", 3, True),
        ({"patch": None, "id": 3}, None, 4, False),
        ({"module": "b", "livepatch": True}, "a", None, False),
        ({"module": "b", "livepatch": False}, "a", None, True),
    ],
)
def test_filters(fields, patch, state, wanted):
    assert klpstates.wants(fields, patch, state) is wanted


def test_a_refusal_is_shown_with_both_sides():
    event = bpf_event("compatible", (b"", [(1, 1)]), (b"old", [(1, 2)]))
    fields = klpstates.FIELDS["compatible"](event, SYMBOLS)
    assert klpstates.LINES["compatible"](fields) == "new 1v1: refused over old 1v2"


@pytest.mark.parametrize(
    ("caller", "core"),
    [("klp_get_prev_state+0x1f", True), ("klp_thing+0x1 [klp_demo]", False), ("pre+0x1 [demo]", False)],
)
def test_the_cores_own_look_ups_are_told_from_a_livepatchs(caller, core):
    assert klpstates.core_asks({"caller": caller}) is core


def btf(tmp_path):
    """A BTF blob with an int and struct klp_state of 24 bytes with one member."""
    strings = b"\0klp_state\0id\0"
    types = struct.pack("<IIII", 0, 1 << 24, 8, 64) + struct.pack("<III", 1, 4 << 24 | 1, 24)
    types += struct.pack("<III", 11, 1, 0)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    path = tmp_path / "vmlinux"
    path.write_bytes(header + types + strings)
    return path


def test_an_array_is_walked_by_the_structures_own_size(tmp_path):
    assert klpbtf.sizes(("klp_state",), btf(tmp_path)) == ["-DSIZEOF_KLP_STATE=24"]
    with pytest.raises(ProbeError, match="no structure klp_other"):
        klpbtf.sizes(("klp_other",), btf(tmp_path))
