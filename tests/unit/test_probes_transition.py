# SPDX-License-Identifier: Apache-2.0
"""What klptransition writes: every event in the schema, filters, columns, and where it probes."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpoutput
import klpprobe
import klptransition
import klptransitionview as view
from klpattach import Probes
from klpsymbols import ProbeError, Symbols

PROGRAM = klpprobe.program_text("klptransition")
# The numbers and strings of struct event_t, as the program has them.
MEMBERS = re.findall(
    r"^\t(\w+) (\w+)(\[\w+\])?;", PROGRAM[PROGRAM.index("struct event_t {") :].split("};")[0], re.MULTILINE
)


def bpf_event(kind, **fields):
    """A BPF event with zero, or no text, in what is not given."""
    empty = {name: b"" if size else 0 for _type, name, size in MEMBERS}
    task = {"pid": 181, "tgid": 180, "comm": b"sh\xff"}
    return SimpleNamespace(**{**empty, **task, "kind": view.EVENTS.index(kind), **fields})


def told(kind, **fields):
    """The event that a BPF event becomes, as the harness reads it."""
    lines = []
    out = klpoutput.Output("klptransition", True, lambda kind, _fields: kind, write=lines.append)
    kind, shown = view.fields_of(bpf_event(kind, **fields))
    out.event(kind, 5, **shown)
    return events.decode(lines[0].encode())


def flags(*names):
    return sum(1 << view.FLAGS.index(name) for name in names)


@pytest.mark.parametrize("kind", view.EVENTS)
def test_every_event_decodes(kind):
    assert told(kind, core_patch=b"sample").ts_ns == 5


@pytest.mark.parametrize(
    "name", [f"{prefix}_{name}".upper() for prefix, names in view.NUMBERED.items() for name in names]
)
def test_the_program_uses_every_number(name):
    assert re.search(rf"\b{name}\b", PROGRAM)


def test_the_core_s_variables_are_those_of_the_moment():
    start = told("start", core_patch=b"sample", state=1, target_state=1, signals_cnt=3, enabled=1)
    core = events.Core(target_state=1, transition_patch="sample", signals_cnt=3, enabled=True)
    assert (start.patch, start.target, start.core) == ("sample", 1, core)
    none = told("init", patch=b"sample", state=1, target_state=-1, enabled=-1, flags=flags("replace"))
    assert (none.patch, none.replace, none.core.transition_patch, none.core.enabled) == (
        "sample",
        True,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        ("switched", 0, "switched"),
        ("already", 0, "already"),
        ("refused", -16, "running"),
        ("refused", -22, "unreliable"),
        ("refused", -98, "sleeping"),
        ("refused", 0, "refused"),
        ("refused", -11, "refused"),
    ],
)
def test_an_errno_is_told_as_a_reason(result, error, reason):
    attempt = told("attempt", detail=view.RESULTS.index(result), error=error, state=0, after=1)
    assert (attempt.result, attempt.errno, attempt.function) == (reason, error, None)
    assert (attempt.patch_state, attempt.after) == (0, 1)


def test_a_pass_counts_what_it_tried():
    counts = {"count": 70, "left": 1, "already": 60, "refused": 9, "first_ns": 7}
    one = told("pass", detail=2, core_patch=b"sample", flags=flags("complete"), **counts)
    assert (one.number, one.attempts, one.left, one.already, one.scheduler_refused) == (2, 70, 1, 60, 9)
    assert (one.patch, one.complete, one.first_ns) == ("sample", True, 7)
    assert told("pass", core_patch=b"sample").first_ns is None


def test_an_attempt_tells_as_what_its_task_was_awaited():
    assert told("attempt", awaited_as=7).awaited_as == 7
    assert told("attempt", awaited_as=0).awaited_as == 0  # an idle task
    assert told("attempt", awaited_as=-1).awaited_as is None


def test_only_a_refusal_has_a_function():
    """Events of what is done are shorter in the ring buffer: what follows them there is not theirs."""
    for result in ("switched", "already"):
        assert told("attempt", detail=view.RESULTS.index(result), function=b"stale").function is None
    sleeping = told("attempt", detail=view.RESULTS.index("refused"), error=-98, function=b"f")
    assert sleeping.function == "f"


def test_a_fork_tells_both_tasks():
    fork = told("fork", state=1, pending=0, parent_pid=7, parent_tgid=6, after=0, parent_pending=1)
    assert (fork.child.pid, fork.child_state, fork.child_pending) == (181, 1, False)
    assert (fork.parent.pid, fork.parent.tgid) == (7, 6)
    assert (fork.parent_state, fork.parent_pending) == (0, True)


def test_a_function_s_marks_and_its_object():
    one = told("function", patch=b"p", function=b"f", flags=flags("nop", "patched"))
    assert (one.object, one.nop, one.transition, one.patched) == ("vmlinux", True, False, True)
    gone = told("object", patch=b"p", object=b"m", count=40, flags=flags("nops_only"))
    assert (gone.action, gone.functions, gone.nops_only) == ("unpatch", 40, True)


# --- filters -------------------------------------------------------------------------------------

ATTEMPT = {"task": {"pid": 1, "tgid": 1}, "patch_state": 0}


def test_a_filter_follows_the_livepatch_in_transition():
    wanted = klptransition.Filter("mine", None)
    assert not wanted.wants("attempt", ATTEMPT)
    assert wanted.wants("init", {"patch": "mine"})
    assert wanted.wants("attempt", ATTEMPT)
    assert not wanted.wants("init", {"patch": "other"})
    assert not wanted.wants("attempt", ATTEMPT)


def test_a_module_that_comes_for_another_livepatch_changes_nothing():
    wanted = klptransition.Filter("mine", None, "mine")
    assert not wanted.wants("object", {"patch": "other"})
    assert wanted.wants("attempt", ATTEMPT)


def test_a_livepatch_may_be_asked_for_by_the_name_of_its_file(monkeypatch):
    found = []
    monkeypatch.setattr(sys, "argv", ["klptransition", "-P", "livepatch-sample"])
    monkeypatch.setattr(klptransition, "in_transition", lambda: "")
    monkeypatch.setattr(klpprobe, "run", lambda tool, _args: found.append(tool.wants))
    klptransition.main()
    assert found[0]("init", {"patch": "livepatch_sample"})
    assert not found[0]("init", {"patch": "livepatch"})


def test_a_filter_by_task_keeps_what_is_about_no_task():
    wanted = klptransition.Filter(None, 7)
    assert wanted.wants("init", {"patch": "p", "task": {"pid": 8, "tgid": 8}})
    assert wanted.wants("attempt", {"task": {"pid": 8, "tgid": 7}})
    assert not wanted.wants("attempt", {"task": {"pid": 8, "tgid": 8}})
    child, parent = {"pid": 9, "tgid": 9}, {"pid": 7, "tgid": 7}
    assert wanted.wants("fork", {"child": child, "parent": parent})
    assert not wanted.wants("fork", {"child": child, "parent": child})


# --- columns -------------------------------------------------------------------------------------


def lines_of(columns, *bpf_events):
    shown = (columns.line(*view.fields_of(event)) for event in bpf_events)
    return [line for line in shown if line]


def test_columns_count_the_tasks_of_a_pass_and_show_who_stays():
    switched = bpf_event("attempt", detail=view.RESULTS.index("switched"))
    sleeping = bpf_event("attempt", detail=view.RESULTS.index("refused"), error=-98, function=b"f")
    done = bpf_event("pass", detail=1, count=2, left=1, duration_ns=2_000_000, refused=3)
    first, second = lines_of(view.Columns(every_task=False), switched, sleeping, done)
    assert first.endswith("sleeping f")
    assert second.endswith("1: 2.0 ms, 2 tasks, 1 left: 1 sleeping; 3 refused in the scheduler")


def census(moment, **fields):
    whole = flags("whole")
    return bpf_event("census", detail=view.MOMENTS.index(moment), **{"flags": whole, **fields})


@pytest.mark.parametrize(
    "usual",
    [
        census("before_init", tasks=3, idle=3, target_state=-1),
        census("init", tasks=3, unpatched=3, target_state=1),
        census("before_start", tasks=3, unpatched=2, patched=1, target_state=1),
        census("started", tasks=3, unpatched=2, patched=1, pending=2, target_state=1),
        census("before_complete", tasks=3, patched=3, target_state=1),
        census("forced", tasks=3, unpatched=3, target_state=0),
        census("completed", tasks=3, idle=3, target_state=-1),
    ],
)
def test_a_census_has_a_line_only_where_it_is_odd(usual):
    columns = view.Columns(every_task=False)
    assert not lines_of(columns, usual)
    assert lines_of(view.Columns(every_task=True), usual)
    usual.flags = 0
    assert lines_of(columns, usual)[0].endswith("cut short")
    usual.flags, usual.other, usual.tasks = flags("whole"), 1, 4
    assert "1 other" in lines_of(columns, usual)[0]


@pytest.mark.parametrize(
    "wrong",
    [
        census("before_init", tasks=3, idle=2, patched=1, target_state=-1),
        census("init", tasks=3, unpatched=2, patched=1, target_state=1),
        census("before_start", tasks=3, unpatched=3, pending=1, target_state=1),
        census("before_complete", tasks=3, patched=3, pending=1, target_state=1),
        census("forced", tasks=3, patched=2, unpatched=1, target_state=1),
        census("completed", tasks=3, idle=2, patched=1, target_state=-1),
    ],
)
def test_a_census_that_is_not_what_it_must_be_has_a_line(wrong):
    assert lines_of(view.Columns(every_task=False), wrong)


@pytest.mark.parametrize("kind", view.EVENTS)
def test_with_all_every_event_has_a_line(kind):
    line, *rest = lines_of(view.Columns(every_task=True), bpf_event(kind, core_patch=b"sample"))
    assert line.startswith(kind)
    assert not rest


# --- where it probes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("listed", "number"), [("0", 1), ("0-1", 2), ("0-3,8", 9)])
def test_counts_the_possible_cpus(tmp_path, listed, number):
    path = tmp_path / "possible"
    path.write_text(f"{listed}\n")
    assert klpprobe.cpus(path) == number
    with pytest.raises(ProbeError, match="possible CPUs"):
        klpprobe.cpus(tmp_path / "absent")


BASE = 0xFFFFFFFF81184000
TEXT = f"""\
{BASE - 0x9000:x} T schedule_on_each_cpu
{BASE:x} t klp_sync
{BASE + 16:x} t klp_complete_transition
{BASE + 64:x} T something_else
"""


@pytest.mark.parametrize(
    ("more", "target"),
    [("", BASE - 0x9000), (f"{BASE + 8:x} t klp_synchronize_transition\n", BASE + 8)],
    ids=["inlined", "out of line"],
)
def test_finds_the_calls_that_wait_for_every_cpu(monkeypatch, more, target):
    site = BASE + 20
    code = bytearray(b"\x90" * 64)
    code[20:25] = b"\xe8" + struct.pack("<i", target - site - 5)
    monkeypatch.setattr(
        klptransition.klptext, "read_text", lambda start, end: bytes(code[start - BASE : end - BASE])
    )
    calls = klptransition.synchronizing_calls(Symbols(lambda: TEXT + more))
    assert [(call.site, call.after) for call in calls] == [(site, site + 5)]


@pytest.mark.parametrize(
    ("refused", "unseen"),
    [
        ((), None),
        ((7,), "the wait for every CPU, at 1 of 2 calls,"),
        ((6, 2), "the wait for every CPU, at 2 of 2 calls,"),
    ],
)
def test_each_call_that_could_not_be_probed_is_told(monkeypatch, refused, unseen):
    calls = [klptransition.klptext.Call(at, at + 5, "schedule_on_each_cpu") for at in (1, 2)]
    monkeypatch.setattr(klptransition, "synchronizing_calls", lambda _symbols: calls)
    probes = Probes(None, SimpleNamespace(describe=hex))
    monkeypatch.setattr(probes, "at", lambda address, _function: address not in refused)
    klptransition.attach_synchronize(probes)
    told = {one["symbol"]: one["unseen"] for one in probes.missing}
    assert told == ({"klp_synchronize_transition": unseen} if unseen else {})


def test_a_kernel_without_an_address_is_an_error_of_ours():
    with pytest.raises(ProbeError, match="no address for klp_target_state"):
        klptransition.cflags(Symbols(lambda: TEXT))


@pytest.mark.parametrize("name", ["__klp_sched_try_switch", "__klp_sched_try_switch.isra.0", "other"])
def test_the_kernel_says_whether_a_task_may_switch_in_the_scheduler(name):
    listing = f"ffffffff81000000 T klp_try_switch_task\nffffffff81000040 T {name}\n"
    assert klptransition.facts(Symbols(lambda: listing)) == {"scheduler_switch": name != "other"}
