# SPDX-License-Identifier: Apache-2.0
"""What klpshadow writes: events that the harness decodes, stacks told once, counts, lines for people."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpoutput
import klpprobe
import klpshadow
import klpsymbols
from klptext import Call

TASK = {"pid": 181, "tgid": 181, "comm": b"insmod"}
FIELDS = ("obj", "id", "size", "flags", "function", "calls", "returned", "call", "result", "variable")
NUMBERS = dict.fromkeys((*FIELDS, "expected", "caller", "count", "duration_ns", "freed_ns", "age_ns"), 0)


def bpf_event(kind, **fields):
    """A BPF event with a task, and zero in what is not given."""
    number = klpshadow.EVENTS.index(kind)
    return SimpleNamespace(
        **{"ts_ns": 5, "stack": -1, "zeroed": -1, **NUMBERS, **TASK, "kind": number, **fields}
    )


class Key:
    """A key of a BPF table."""

    def __init__(self, value):
        self.value = value


class Table(dict):
    """A BPF table: what is in it, and its stacks."""

    def walk(self, stack):
        return self[stack]


@pytest.fixture
def lines():
    return []


@pytest.fixture
def out(lines):
    return klpoutput.Output("klpshadow", True, klpshadow.columns, write=lines.append)


@pytest.fixture
def bpf():
    number = Key(2)
    cpus = ([1, 2, 3, 4, 5, 6, 7], [10, 0, 0, 0, 0, 0, 0])
    counts = [SimpleNamespace(count=count) for count in cpus]
    return {
        "stacks": Table({7: [0x1000, 0x2000]}),
        "gets": Table({number: counts}),
        "totals": [[3, 1], [0, 2], [0, 0], [0, 1], [2, 0]],
        "frees": Table(),
        "getting": Table(),
    }


@pytest.fixture
def shadow(bpf, names):
    shadow = klpshadow.Shadow()
    shadow.bpf, shadow.names = bpf, names
    return shadow


@pytest.fixture
def modules():
    return {0x1000: "make+0x9 [mine]", 0x2000: "do_one_initcall+0x58"}


@pytest.fixture
def names(modules):
    return klpsymbols.Names(lambda address: modules.get(address, hex(address)))


def decoded(lines):
    return [events.decode(line.encode()) for line in lines]


@pytest.mark.parametrize("kind", klpshadow.FIELDS)
def test_every_event_decodes(shadow, out, lines, kind):
    shadow.show(out, bpf_event(kind))
    assert decoded(lines)[0].ts_ns == 5


def test_every_kind_of_ring_event_has_fields():
    assert (*klpshadow.FIELDS, "shadow_gets") == klpshadow.EVENTS


def test_a_constructor_that_did_not_run_has_no_result(shadow, out, lines):
    shadow.show(out, bpf_event("shadow_alloc", function=1, calls=1, returned=-22, result=3))
    shadow.show(out, bpf_event("shadow_alloc", function=1, result=1))
    failed, found = decoded(lines)
    assert (failed.ctor, failed.ctor_calls, failed.ctor_result, failed.result) == (True, 1, -22, "failed")
    assert (found.ctor, found.ctor_calls, found.ctor_result, found.result) == (True, 0, None, "found")


@pytest.mark.parametrize(("zeroed", "told"), [(-1, None), (0, False), (1, True)])
def test_zeroed_is_null_where_nobody_looked(shadow, out, lines, zeroed, told):
    shadow.show(out, bpf_event("shadow_alloc", zeroed=zeroed))
    assert decoded(lines)[0].zeroed is told


def test_a_free_of_nothing_freed_nothing(shadow, out, lines):
    shadow.show(out, bpf_event("shadow_free", count=1))
    shadow.show(out, bpf_event("shadow_free"))
    assert [event.freed for event in decoded(lines)] == [True, False]


def test_a_call_and_what_it_freed_are_two_events_of_one(shadow, out, lines):
    both = {"count": 1, "variable": 0x88, "freed_ns": 6, "age_ns": 9, "function": 1, "calls": 1}
    shadow.show(out, bpf_event("shadow_free", obj=0x80, id=3, **both))
    freed, free = decoded(lines)
    assert (freed.ts_ns, freed.variable, freed.age_ns, freed.dtor_calls) == (6, "0x88", 9, 1)
    assert (free.ts_ns, free.freed, free.obj, free.id) == (5, True, freed.obj, freed.id)


def test_a_variable_older_than_the_trace_has_no_age(shadow, out, lines):
    shadow.show(out, bpf_event("shadow_freed", age_ns=9))
    shadow.show(out, bpf_event("shadow_freed"))
    assert [event.age_ns for event in decoded(lines)] == [9, None]


def test_a_stack_is_told_once_before_the_event_that_names_it(shadow, out, lines):
    for _ in range(2):
        shadow.show(out, bpf_event("shadow_alloc", stack=7, caller=0x1000))
    callers, *allocs = decoded(lines)
    assert callers.frames == ("make+0x9 [mine]", "do_one_initcall+0x58")
    assert [(type(event), event.stack) for event in allocs] == [(events.ShadowAlloc, 7)] * 2


def test_a_stack_is_told_again_where_another_module_has_come(shadow, out, lines, modules, names):
    shadow.show(out, bpf_event("shadow_alloc", stack=7, caller=0x1000))
    modules[0x1000] = "other+0x9 [other]"
    shadow.show(out, bpf_event("shadow_alloc", stack=7, caller=0x1000))
    names.forget()
    shadow.show(out, bpf_event("shadow_alloc", stack=7, caller=0x1000))
    told = [event.frames[0] for event in decoded(lines) if isinstance(event, events.Callers)]
    assert told == ["make+0x9 [mine]", "other+0x9 [other]"]


def test_a_livepatch_is_told_by_its_caller_or_its_function(shadow, out, lines):
    shadow.patch = "mine"
    shadow.show(out, bpf_event("shadow_free", caller=0x1000))
    shadow.show(out, bpf_event("shadow_free", caller=0x2000, function=0x1000))
    shadow.show(out, bpf_event("shadow_free", caller=0x2000))
    assert len(lines) == 2


def test_counts_are_summed_over_cpus(shadow, out, lines):
    shadow.tell_counts(out, lambda: None)
    gets, totals = decoded(lines)
    assert (gets.id, gets.found, gets.absent, gets.racing, gets.wrong, gets.unknown) == (2, 11, 2, 3, 4, 5)
    assert (gets.raced_right, gets.raced_wrong) == (6, 7)
    assert (totals.made, totals.found, totals.exists, totals.failed, totals.freed) == (4, 2, 0, 1, 2)


def test_gets_are_told_again_only_if_they_changed(shadow, out, lines, bpf):
    shadow.tell_counts(out, lambda: None)
    shadow.tell_counts(out, lambda: None)
    next(iter(bpf["gets"].values()))[0].count[0] = 2
    shadow.tell_counts(out, lambda: None)
    told = [event.found for event in decoded(lines) if isinstance(event, events.ShadowGets)]
    assert told == [11, 12]


def test_totals_are_read_until_nothing_was_counted_while_draining(shadow, out, lines, bpf):
    drains = []

    def drain():
        drains.append(1)
        if len(drains) < 3:
            bpf["totals"][0][0] += 1

    shadow.tell_counts(out, drain)
    assert (len(drains), decoded(lines)[-1].made) == (3, 6)


def test_a_busy_kernel_does_not_hold_up_the_end(shadow, out, lines, bpf):
    def drain():
        bpf["totals"][0][0] += 1

    shadow.tell_counts(out, drain)
    assert decoded(lines)[-1].made == 4 + klpshadow.TRIES


def test_a_call_whose_return_was_not_seen_is_lost_once(shadow, out, bpf):
    now = time.monotonic_ns()
    task = Key(1)
    bpf["getting"][task] = SimpleNamespace(ts_ns=now - 2 * klpshadow.OVERDUE_NS)
    bpf["frees"][Key(2)] = SimpleNamespace(ts_ns=now)
    bpf["frees"][Key(3)] = SimpleNamespace(ts_ns=0)  # between two calls
    for _ in range(2):
        shadow.tell_counts(out, lambda: None)
    assert shadow.missed() == 1
    assert (len(bpf["getting"]), len(bpf["frees"])) == (0, 2)


def test_calls_through_a_pointer_are_grouped_by_where_they_return(monkeypatch):
    found = [Call(0x15A, 0x15C, "rax"), Call(0x20, 0x25, "rdx"), Call(0x21, 0x25, "rdx")]
    monkeypatch.setattr(klpshadow.klptext, "calls", lambda _symbols, start, _end, find: find(b"", start))
    monkeypatch.setattr(klpshadow.klptext, "indirect_calls", lambda *_: iter(found))
    symbols = SimpleNamespace(span=lambda _name: (0x10, 0x200), named=lambda _part: [])
    assert klpshadow.pointer_calls(symbols, "f") == [(0x25, [0x20, 0x21]), (0x15C, [0x15A])]


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        ("shadow_alloc", {"calls": 1, "returned": -22, "result": 3}, "failed 0 B by 0x0, constructor: -22"),
        ("shadow_alloc", {"size": 8, "caller": 0x1000}, "made 8 B by make+0x9 [mine]"),
        ("shadow_free", {"caller": 0x2000}, "by do_one_initcall+0x58: there was none"),
        ("shadow_free", {"caller": 0x2000, "count": 1}, "by do_one_initcall+0x58"),
        ("shadow_freed", {"age_ns": 1_500_000_000}, "aged 1.500 s"),
        ("shadow_freed", {}, "older than this trace"),
        ("shadow_free_all", {"count": 3, "caller": 0x2000}, "3 by do_one_initcall+0x58"),
        ("shadow_get_wrong", {"expected": 0x10}, "None in place of 0x10 by 0x0"),
        ("shadow_get_wrong", {"result": 6, "variable": 0x10}, "in place of None by 0x0, beside a change"),
    ],
)  # fmt: skip
def test_lines_for_people(shadow, lines, kind, fields, told):
    out = klpoutput.Output("klpshadow", False, klpshadow.columns, write=lines.append)
    shadow.show(out, bpf_event(kind, **fields))
    assert lines[0].rstrip().endswith(told)


def test_counts_for_people(shadow, lines):
    out = klpoutput.Output("klpshadow", False, klpshadow.columns, write=lines.append)
    shadow.tell_counts(out, lambda: None)
    assert "11 found, 2 absent, 3 racing, 4 wrong, 5 unknown, 6 raced_right, 7 raced_wrong" in lines[0]
    assert "4 made, 2 found, 0 exists, 1 failed, 2 freed" in lines[1]


def test_a_stack_for_people(shadow, lines):
    out = klpoutput.Output("klpshadow", False, klpshadow.columns, write=lines.append)
    shadow.show(out, bpf_event("shadow_alloc", stack=7, caller=0x1000))
    assert "    make+0x9 [mine]\n" in lines[0]


def test_filters_go_to_the_kernel_side(monkeypatch):
    def flags(*words):
        monkeypatch.setattr(sys, "argv", ["klpshadow", *words])
        return klpshadow.options(klpshadow.arguments())

    assert {"-DFILTER_ID=4660UL", "-DFILTER_PID=7"} <= set(flags("-i", "0x1234", "-p", "7"))
    assert not [flag for flag in flags() if flag.startswith("-DFILTER")]
    assert ["-DSTACKS" in flags(*words) for words in ([], ["-s"], ["-j"])] == [False, True, True]


def test_numbers_go_to_the_kernel_side(monkeypatch):
    monkeypatch.setattr(klpprobe, "cpus", lambda: 2)
    assert {"-DTOTAL_FREED=4", "-DCPUS=2"} <= set(klpshadow.cflags(None))
