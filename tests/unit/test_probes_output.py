# SPDX-License-Identifier: Apache-2.0
"""What the probes write: JSON that the harness decodes, columns for people, marks and the end."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.printable import printable
from klp.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpoutput
import klpprobe
import klpring

PROBES = Path(klpprobe.__file__).parent
TOOLS = sorted(each.name.removesuffix("_example.txt") for each in PROBES.glob("*_example.txt"))


@pytest.fixture
def lines():
    return []


@pytest.fixture
def out(lines):
    return klpoutput.Output("klptransition", True, lambda kind, _fields: kind, write=lines.append)


def test_people_see_of_a_tasks_name_what_their_terminal_does_not_obey(lines):
    """As klp itself prints it, whichever character it is."""
    anything = "".join(map(chr, range(0x3000)))
    shown = klpoutput.Output("p", False, lambda _kind, fields: fields["comm"], write=lines.append)
    shown.event("x", 0, comm=anything)
    assert lines[0].partition(" ")[2].lstrip(" ").removesuffix("\n") == printable(anything).translate(
        {9: "␉", 10: "␊"}
    )
    assert json.loads(klpoutput._ENCODE({"comm": anything})) == {"comm": anything}


def decoded(lines):
    return [events.decode(line.encode()) for line in lines]


def test_a_stream_decodes_and_counts_itself(out, lines):
    out.header(
        ["klp_init_transition"], [{"symbol": "klp_sync", "unseen": "nothing"}], {"scheduler_switch": True}
    )
    out.event("synchronize", 7, duration_ns=1)
    out.mark()
    out.lose(3)
    out.lose(3)
    out.end()
    header, wait, mark, lost, end = decoded(lines)
    assert [one.seq for one in (header, wait, mark, lost, end)] == [0, 1, 2, 3, 4]
    assert header.missing == (events.Missing(symbol="klp_sync", unseen="nothing"),)
    assert header.scheduler_switch
    assert (mark.number, lost.count, end.events, end.lost) == (1, 3, 4, 3)


def in_columns(lines, kind, ts_ns, **fields):
    """Write an event in columns, by a tool that began at 1 s."""
    shown = klpoutput.Output(
        "klptransition", False, lambda kind, fields: f"{kind} {fields}", write=lines.append
    )
    shown._began_ns = 1_000_000_000
    shown.event(kind, ts_ns, **fields)


def test_columns_have_the_time_at_which_an_event_ended_and_was_written(lines):
    in_columns(lines, "complete", 3_000_000_000)
    in_columns(lines, "pass", 2_000_000_000, duration_ns=1_500_000_000)
    assert [float(line.split()[0]) for line in lines] == [2.0, 2.5]


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("two\nlines\r\x07", "two␊lines␍␇"),
        ("\u202eright to left", "\ufffdright to left"),
        ("naïve\ufffd", "naïve\ufffd"),
    ],
)
def test_columns_escape_what_a_terminal_would_act_on(lines, comm, shown):
    in_columns(lines, "switch", 2_000_000_000, task={"pid": 1, "comm": comm}, others=[comm])
    assert lines[0].endswith(f"switch {{'task': {{'pid': 1, 'comm': {shown!r}}}, 'others': [{shown!r}]}}\n")


def test_json_has_a_name_as_it_is(out, lines):
    out.event("exit", 7, task={"pid": 1, "tgid": 1, "comm": "\x1b[31mred\n"}, patch_state=0, pending=False)
    [only] = decoded(lines)
    assert only.task.comm == "\x1b[31mred\n"


@pytest.mark.parametrize(
    ("as_json", "written"), [(True, "\u00e9t\u00e9 \ufffd".encode()), (False, rb"\xe9t\xe9 \ufffd")]
)
def test_a_name_that_the_terminal_has_no_letters_for_is_written_all_the_same(as_json, written):
    code = (
        "import klpoutput, sys; klpoutput.set_encoding(bool(int(sys.argv[1]))); "
        "print('\\xe9t\\xe9 ' + klpoutput.text(b'\\xff'))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PROBES)}
    argv = [sys.executable, "-c", code, str(int(as_json))]
    run = subprocess.run(argv, env=environment, capture_output=True, check=True)
    assert run.stdout.rstrip(b"\n") == written


def test_a_header_tells_what_alone_was_traced(out, lines):
    args = SimpleNamespace(patch="my-fix", pid=181, stacks=True)
    out.header([], [], {"filters": list(klpprobe.filters(args))})
    out.header([], [], {"filters": list(klpprobe.filters(SimpleNamespace(patch=None, id=0)))})
    out.header([], [], {"filters": list(klpprobe.filters(SimpleNamespace(patch=None)))})
    assert [one.filters for one in decoded(lines)] == [("patch=my_fix", "pid=181"), ("id=0",), ()]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_shows_its_program_without_bcc(tool):
    run = subprocess.run([PROBES / f"{tool}.py", "--ebpf"], capture_output=True, check=True)
    shown, program = run.stdout.decode(), (PROBES / f"{tool}.bpf.c").read_text()
    replaced = set(program.splitlines()) - set(shown.splitlines())
    assert all(line.startswith(f'#include "{tool}_') for line in replaced)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_option_is_in_the_example_and_in_the_manual(tool):
    told = subprocess.run(
        [PROBES / f"{tool}.py", "--help"], capture_output=True, check=True
    ).stdout.decode()
    options = re.findall(r"^  -(\w)\b.*?--(\w+)", told, re.MULTILINE)
    example, manual = (PROBES / f"{tool}_example.txt").read_text(), (PROBES / f"man/{tool}.8").read_text()
    usage = example.partition("USAGE message:")[2]
    assert len(options) >= 3
    for short, long in options:
        assert re.search(rf"^  -{short},.*--{long}\b", usage, re.MULTILINE), long
        assert f"\n\\-{short}" in manual, long


@pytest.mark.parametrize("tool", TOOLS)
def test_a_program_is_shown_with_each_of_its_parts_once(tool):
    """A part in no program would be text that nothing compiles; one left to clang, none of its own."""
    shown = klpprobe.program_text(tool)
    for part in [*PROBES.glob(f"{tool}_*.bpf.c"), PROBES / "klpname.bpf.c"]:
        assert shown.count(part.read_text()) == 1, part.name
    assert '#include "' not in shown


def test_every_bpf_file_is_a_tool_s_or_a_part_of_one():
    owners = (each.name.removesuffix(".bpf.c").partition("_")[0] for each in PROBES.glob("*.bpf.c"))
    assert set(owners) == {*TOOLS, "klpname"}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_parts_of_a_program_share_no_name(tool):
    """There is no compiler for BPF programs here, and a tool that no test arms would not be missed."""
    shown = klpprobe.program_text(tool)
    types = re.findall(r"^(?:struct|union) (\w+) \{", shown, re.MULTILINE)
    maps = re.findall(r"^BPF_\w+\((?:\"\w+\", \w+, [\w ]+, )?(\w+)", shown, re.MULTILINE)
    functions = re.findall(r"^(?:static __always_inline )?\w[\w *]*?(\w+)\(.*\)\n\{", shown, re.MULTILINE)
    for names in (types, [*maps, *functions]):
        assert sorted(names) == sorted(set(names))


@pytest.fixture
def blocked():
    caught = {signal.SIGUSR1, *klpprobe.STOP_SIGNALS}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, old)


def send(number):
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.usefixtures("blocked")
def test_marks_then_stops_at_signals(out, lines):
    settled = []

    def settle():
        settled.append(1)
        if len(settled) == 1:
            send(signal.SIGTERM)

    send(signal.SIGUSR1)
    klpprobe.follow(lambda: False, settle, out, tick_s=5, duration_s=None)
    mark, end = decoded(lines)
    assert (mark.number, end.events, len(settled)) == (1, 1, 2)


@pytest.mark.usefixtures("blocked")
def test_what_is_left_is_read_before_the_next_tick_and_between_signals(out, lines, monkeypatch):
    chunks, waits, told = [True, True, False], [], []
    wait = signal.sigtimedwait

    def awaited(signals, wait_s):
        waits.append(wait_s)
        return wait(signals, wait_s)

    def read():
        if len(chunks) < 3:
            send(signal.SIGUSR1 if len(chunks) == 2 else signal.SIGTERM)
        return chunks.pop(0)

    monkeypatch.setattr(signal, "sigtimedwait", awaited)
    klpprobe.follow(read, lambda: told.append(len(chunks)), out, tick_s=0.05, duration_s=None)
    assert told == [1, 0]  # the mark between two chunks, and the end
    assert waits == [0.05, *[klpring.LOOK_S] * 3, 0.05]
    assert [type(each) for each in decoded(lines)] == [events.Mark, events.End]


class Ring:
    """The positions of a ring buffer, as its memory holds them."""

    size = 1 << 20

    def __init__(self):
        self.memory = bytearray(2 * klpring.mmap.PAGESIZE)
        self.backlog = klpring.Backlog(self.memory, self.size)

    def write(self, count):
        self._add(klpring.PRODUCER_AT, count)

    def read(self):
        self._add(klpring.CONSUMER_AT, self.backlog.waiting())

    def _add(self, at, count):
        now = int.from_bytes(self.memory[at : at + 8], sys.byteorder)
        self.memory[at : at + 8] = (now + count).to_bytes(8, sys.byteorder)


@pytest.fixture
def ring():
    ring = Ring()
    assert not ring.backlog.due(0.95)  # a tick at which it was empty
    return ring


def test_a_ring_is_read_at_the_tick_after_an_event(ring):
    assert not ring.backlog.due(1.0)
    ring.write(160)
    assert ring.backlog.waiting() == 160
    assert ring.backlog.due(1.1)
    ring.read()
    assert not ring.backlog.due(1.2)


def test_a_rush_is_left_alone_until_it_is_over(ring):
    for tick in range(5):
        ring.write(klpring.RUSH // 10 + 1)
        assert not ring.backlog.due(1.0 + tick / 10)
    assert ring.backlog.due(1.5)


def test_a_rush_that_goes_on_is_read_after_a_second(ring):
    told = []
    for tick in range(25):
        ring.write(klpring.RUSH // 10 + 1)
        if ring.backlog.due(1.0 + tick / 10):
            told.append(tick)
            ring.read()
    assert told == [10, 20]


def test_a_ring_that_fills_up_is_read(ring):
    ring.write(ring.size // 2)
    assert not ring.backlog.due(1.0)
    ring.write(ring.size // 4)
    assert ring.backlog.due(1.1)


def test_what_one_reading_left_is_no_rush(ring):
    ring.write(ring.size * 3 // 4)
    assert ring.backlog.due(1.0)
    assert ring.backlog.due(1.01)


def test_counters_are_read_from_memory():
    memory = bytearray(struct.pack("=2Q", 1 << 40, 0))
    counters = klpring.Counters(memory, 2)
    assert counters.total() == 1 << 40
    struct.pack_into("=Q", memory, 8, 3)
    assert counters.total() == (1 << 40) + 3


@pytest.mark.parametrize("error", [None, PermissionError("no share of real time")])
def test_maps_are_read_without_being_preempted(monkeypatch, error):
    policies = [os.SCHED_OTHER]

    def set_scheduler(pid, policy, _parameter):
        if policy == os.SCHED_FIFO and error:
            raise error
        policies.append(policy)

    monkeypatch.setattr(os, "sched_setscheduler", set_scheduler)
    with klpring.unpreempted():
        assert policies[-1] == (os.SCHED_OTHER if error else os.SCHED_FIFO)
    assert policies[-1] == os.SCHED_OTHER


def test_reading_a_program_s_misses(tmp_path, monkeypatch):
    told = {3: {"prog_id": 7, "recursion_misses": 2}, 4: {"prog_id": 8}, 5: {"recursion_misses": 40}}
    monkeypatch.setattr(klpring, "fdinfo", told.get)
    programs = {name: SimpleNamespace(fd=fd) for name, fd in zip("abc", told, strict=True)}
    assert klpring.misses(SimpleNamespace(funcs=programs)) == 42


def test_the_numbers_of_a_descriptor(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert klpring.fdinfo(file.fileno())["pos"] == 0


def test_a_tick_reads_only_what_is_due(out):
    read = []
    klpprobe.follow(
        lambda: read.append(1), lambda: None, out, tick_s=0.01, duration_s=0.05, due=lambda _now_s: False
    )
    assert read == []


def test_a_duration_ends_the_trace(out, lines):
    klpprobe.follow(lambda: False, lambda: None, out, tick_s=0.01, duration_s=0.03)
    assert isinstance(decoded(lines)[-1], events.End)
