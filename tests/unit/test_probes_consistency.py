# SPDX-License-Identifier: Apache-2.0
"""What klpconsistency watches, where it puts its probes, and what it makes of the counts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpattach
import klpconsistency
import klpkprobes
import klpoutput
import klpprobe
from klpsymbols import ProbeError, Symbol

FUNCTIONS = [
    klpconsistency.watched("livepatch-sample:vmlinux:show:new_show"),
    klpconsistency.watched("fix:some-module:work:new_work"),
    klpconsistency.watched("fix:vmlinux:idle:new_idle"),
]


def row(site="new", state=1, target=1, function=0, transition=1, count=3):
    """A row of the BPF map, and its value."""
    key = SimpleNamespace(
        function=function,
        site=klpconsistency.SITES.index(site),
        patch_state=state,
        target=target,
        transition=transition,
    )
    return key, SimpleNamespace(count=count, ts_ns=5, pid=7, tgid=6, comm=b"cat")


@pytest.fixture
def told():
    """A function that tells rows, and returns the events read back."""
    counter = klpconsistency.Counter(FUNCTIONS)
    lines = []
    out = klpoutput.Output("klpconsistency", True, klpconsistency.columns, write=lines.append)

    def tell(*rows):
        lines.clear()
        counter.tell(out, list(rows))
        return [events.decode(line.encode()) for line in lines]

    return tell


def test_a_function_is_named_by_modules_not_files():
    sample, fix, _ = FUNCTIONS
    assert (sample.patch, fix.target) == ("livepatch_sample", "some_module")


@pytest.mark.parametrize("text", ["", "a:b:c", "a:b:c:d:e", "a::c:d"])
def test_a_malformed_function_is_refused_by_name(text, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["klpconsistency", "-f", text])
    with pytest.raises(SystemExit, match="2"):
        klpconsistency.arguments()
    assert "is not PATCH:OBJECT:OLD:NEW" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, klpconsistency.MAX_FUNCTIONS + 1])
def test_no_function_and_too_many_are_refused(count, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["klpconsistency", *["-f", "a:b:c:d"] * count])
    with pytest.raises(SystemExit, match="2"):
        klpconsistency.arguments()
    assert f"from 1 to {klpconsistency.MAX_FUNCTIONS}" in capsys.readouterr().err


def test_the_bpf_program_has_an_entry_for_every_function():
    text = klpprobe.program_text("klpconsistency")
    assert all(f"\nWATCH({number})\n" in text for number in range(klpconsistency.MAX_FUNCTIONS))


def test_a_row_tells_who_ran_what(told):
    (event,) = told(row("old_bare", state=0, target=1))
    assert (event.patch, event.object, event.function) == ("livepatch_sample", "vmlinux", "show")
    assert (event.version, event.patch_state, event.target, event.count) == ("old", 0, 1, 3)
    assert (event.task.pid, event.task.comm) == (7, "cat")


def test_only_what_is_new_is_told_again(told):
    assert [event.count for event in told(row(count=3))] == [3]
    assert told(row(count=3)) == []
    assert [event.count for event in told(row(count=10), row(transition=2, count=1))] == [7, 1]


def test_two_probes_in_one_body_count_once(told):
    both = told(row("old_bare", 0, count=9), row("old_endbr", 0, count=4))
    assert [event.count for event in both] == [9]
    assert [event.count for event in told(row("old_endbr", 0, function=1, count=4))] == [4]


@pytest.mark.parametrize(
    ("version", "state", "target", "wrong"),
    [
        ("old", 0, 1, False),
        ("old", 1, 1, True),
        ("old", 1, 0, True),
        ("old", -1, 1, False),
        ("old", 1, -1, False),
        ("new", 1, 0, False),
        ("new", 0, 0, True),
        ("new", 0, 1, True),
        ("new", 0, -1, False),
        ("new", -1, 0, False),
    ],
)
def test_a_violation_is_the_wrong_version_in_the_livepatchs_own_transition(version, state, target, wrong):
    fields = {"version": version, "patch_state": state, "target": target}
    assert klpconsistency.wrong(fields) is wrong


def test_a_violation_is_shown_with_the_first_that_did_so():
    fields = klpconsistency.Counter(FUNCTIONS)._fields(*row("new", 0, 0), 3)
    assert klpconsistency.columns("ran", fields).endswith("WRONG: cat[7] was the first")


def test_functions_of_one_livepatch_share_its_number():
    assert klpconsistency.livepatches(FUNCTIONS) == {"livepatch_sample": 1, "fix": 2}


def test_a_function_that_clang_has_renamed_is_that_function():
    found = [Symbol(1, "t", "show.llvm.42", "")]
    klpconsistency.check(SimpleNamespace(named=lambda part: found), FUNCTIONS[0])


@pytest.mark.parametrize("kinds", ["", "tt", "d"])
def test_a_name_that_is_not_one_function_is_refused(kinds):
    found = [Symbol(at, kind, "show", "") for at, kind in enumerate(kinds)]
    symbols = SimpleNamespace(named=lambda part: found)
    with pytest.raises(ProbeError, match=r"vmlinux has \d functions named show"):
        klpconsistency.check(symbols, FUNCTIONS[0])


class Refuses(klpkprobes.KprobeEvents):
    """Accepts probes at some offsets, and remembers them."""

    offsets = ("+9",)

    def add(self, _bpf, _name, where, function, kind="p"):
        taken = where.endswith(self.offsets)
        if taken:
            self.placed = [*getattr(self, "placed", []), function]
        return taken


@pytest.mark.parametrize(
    ("number", "offsets", "placed"),
    [
        (0, ("+9",), ["on_old_endbr_0"]),
        (0, ("+5", "+9"), ["on_old_bare_0"]),
        (1, ("+5", "+9"), ["on_old_bare_1", "on_old_endbr_1"]),  # its module is not loaded yet
    ],
)
def test_the_old_version_is_probed_behind_its_ftrace_call(tmp_path, number, offsets, placed):
    kernel = Refuses(tmp_path, "klpconsistency")
    kernel.offsets = offsets
    probes = klpattach.Probes(None, None)
    klpconsistency._attach_old(probes, kernel, number, FUNCTIONS[number])
    assert kernel.placed == placed
    assert probes.missing == []


def test_a_place_that_the_kernel_refuses_is_told(tmp_path):
    kernel = Refuses(tmp_path, "klpconsistency")
    kernel.offsets = ("nowhere",)
    probes = klpattach.Probes(None, None)
    klpconsistency._attach_old(probes, kernel, 0, FUNCTIONS[0])
    assert [one["symbol"] for one in probes.missing] == ["show"]
