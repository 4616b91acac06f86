# SPDX-License-Identifier: Apache-2.0
"""Calls are counted per task: what the kernel prints is read, and what it refuses costs only itself."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from klp.analysis.calls import FunctionCalls, TaskCalls, calls_of, fields_of
from klp.analysis.history import history
from klp.analysis.result import PatchedFunctions
from klp.drive.calls import (
    CallCounter,
    CountedFunction,
    address_of,
    entries_for,
    histograms,
    new_functions,
    originals,
    refusals,
    untold,
)
from klp.guest.ssh import CommandResult
from klp.modules.functions import changed_functions
from klp.modules.modinfo import read_module
from klp.trace import events as ev
from tests.unit.traces import Trace

DATA = Path(__file__).parents[1] / "data"
PAIR = read_module(DATA / "modules" / "klp_pair_fix.ko")
BANNER = read_module(DATA / "modules" / "klp_version_banner.ko")
KERNELS = ("6.1", "6.12", "7.2")


def printed(kernel: str) -> str:
    return (DATA / "calls" / f"{kernel}.txt").read_text()


class Shell:
    """Runs commands on this machine, with a folder in place of tracefs and a list in place of kallsyms."""

    def __init__(self, tracing: Path) -> None:
        self.tracing = tracing
        self.commands = 0

    def run(self, command, *, stdin=b"", timeout_s=None):
        self.commands += 1
        words = command if isinstance(command, str) else subprocess.list2cmdline(command)
        line = words.replace("/sys/kernel/tracing", str(self.tracing))
        if not isinstance(command, str):
            line = f"cat {self.tracing}/kallsyms"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        return CommandResult(line, done.returncode, done.stdout, done.stderr)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    histogram = tmp_path / "events/sched/sched_switch/hist"
    histogram.parent.mkdir(parents=True)
    histogram.touch()
    return Shell(tmp_path)


def test_a_kernel_without_histograms_is_told_as_such(shell: Shell) -> None:
    (shell.tracing / "events/sched/sched_switch/hist").unlink()
    counter = CallCounter(shell, [function("one")], "own")
    counter.arm()
    [found] = counter.read()
    assert found.uncounted == "this guest cannot count: no CONFIG_HIST_TRIGGERS"


def ready(shell: Shell, *numbers: int) -> None:
    """Have tracefs take the events of these numbers: of others there is no folder."""
    for number in numbers:
        (shell.tracing / "events" / "own" / f"own_{number}").mkdir(parents=True, exist_ok=True)


def function(name: str, position: int = 0, hidden: str = "") -> CountedFunction:
    return CountedFunction("vmlinux", name, f"new_{name}", name, position, hidden)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_each_kernel_prints_is_read(kernel: str) -> None:
    found = histograms(printed(kernel), "klp_calls")
    assert list(found) == list(range(40))
    assert (len(found[0].tasks), found[0].dropped) == (128, 7)
    assert {each.task for each in found[0].tasks} == {"bash"}
    calls = [(each.task, each.calls) for each in found[1].tasks]
    assert sorted(calls) == [("a [1] } x", 1)] * 3 + [("bash", 1), ("bash", 2)]
    assert len({each.pid for each in found[1].tasks}) == 5
    assert all(not each.tasks and not each.dropped for number, each in found.items() if number > 1)


def test_all_kernels_print_the_same_but_for_who_called_first() -> None:
    assert (
        len({tuple(sorted(re.sub(r"\[ +\d+\]", "", printed(each)).split("\n"))) for each in KERNELS}) == 1
    )


def test_a_call_that_a_kprobe_missed_is_a_call() -> None:
    text = printed("6.12").replace("klp_calls_1 6 0", "klp_calls_1 6 2")
    assert histograms(text, "klp_calls")[1].dropped == 2


@pytest.mark.parametrize(("functions", "entries"), [(1, 1024), (4, 1024), (5, 512), (32, 128), (300, 128)])
def test_functions_share_the_memory_of_histograms(functions: int, entries: int) -> None:
    assert entries_for(functions) == entries


def test_refusals_are_told_in_the_kernels_words() -> None:
    said = "bash: line 1: echo: write error: Invalid argument\nown_2 refused\nown_10 refused\n"
    why = "the kernel refuses to count it: "
    assert refusals(said, "own") == {2: f"{why}Invalid argument", 10: f"{why}it does not say why"}


def test_one_that_is_refused_costs_no_other_its_count(shell: Shell) -> None:
    ready(shell, 0, 2)
    counter = CallCounter(
        shell, [function("a"), function("b"), function("c"), function("d", 0, "why")], "own"
    )
    counter.arm()
    assert shell.commands == 1
    asked = (shell.tracing / "kprobe_events").read_text().split()
    assert asked == ["p:own/own_0", "a", "p:own/own_1", "b", "p:own/own_2", "c"]
    key = "hist:keys=common_pid.execname:size=1024\n"
    assert (shell.tracing / "events/own/own_2/trigger").read_text() == key
    histogram = printed("6.12").partition("klp_calls_1 6 0\n")[2].partition("klp_calls_2")[0]
    (shell.tracing / "events/own/own_2/hist").write_text(histogram)
    (shell.tracing / "kprobe_profile").write_text("  other 7 0\n  own_0 0 0\n  own_1 0 0\n  own_2 6 1\n")
    first, refused, third, hidden = counter.read()
    assert shell.commands == 2
    assert (first.calls, first.uncounted) == (0, "")
    assert (refused.old, refused.uncounted) == (
        "b",
        "the kernel refuses to count it: No such file or directory",
    )
    assert (third.object, third.old, third.new, third.calls, third.dropped) == (
        "vmlinux",
        "c",
        "new_c",
        7,
        1,
    )
    assert (hidden.calls, hidden.uncounted) == (0, "why")
    counter.disarm()
    assert (shell.tracing / "kprobe_events").read_text().split()[-1] == "-:own/own_2"


def test_a_guest_without_tracefs_counts_nothing_and_says_so(shell: Shell) -> None:
    shell.tracing /= "not-there"
    counter = CallCounter(shell, [function("a")], "own")
    counter.arm()
    [only] = counter.read()
    assert only.uncounted == "this guest cannot count: No such file or directory"
    assert shell.commands == 1


def test_counts_that_are_gone_are_no_zeros(shell: Shell) -> None:
    ready(shell, 0)
    counter = CallCounter(shell, [function("a")], "own")
    counter.arm()
    assert "cannot be read: " in counter.read()[0].uncounted
    (shell.tracing / "kprobe_profile").write_text("  other 7 0\n")
    assert counter.read()[0].uncounted == "its count is gone from tracefs"


def test_of_several_of_a_name_the_one_that_is_meant_is_counted(shell: Shell) -> None:
    ready(shell, 0, 1)
    listed = (
        "ffffffff81000010 t show\nffffffff81000020 T show\nffffffffc0000010 t show\t[m]\n"
        "ffffffffc0000020 t show\t[m]\n"
    )
    (shell.tracing / "kallsyms").write_text(listed)
    counter = CallCounter(shell, [function("a", 1), function("show", 2), function("show", 3)], "own")
    counter.arm()
    asked = (shell.tracing / "kprobe_events").read_text().split()
    assert asked == ["p:own/own_0", "a", "p:own/own_1", "0xffffffff81000020"]
    (shell.tracing / "kprobe_profile").write_text("own_0 0 0\nown_1 0 0\n")
    assert [each.uncounted for each in counter.read()] == ["", "", "vmlinux has no show number 3 now"]
    of_module = CountedFunction("m", "show", "", "m:show", 2)
    assert address_of(listed, of_module) == "0xffffffffc0000020"


def test_where_the_kernel_wants_no_first_one_of_a_name_it_gets_its_address(shell: Shell) -> None:
    (shell.tracing / "kallsyms").write_text("ffffffff81000010 t show\nffffffff81000020 T show\n")
    CallCounter(shell, [function("show", 1)], "own").arm()
    asked = (shell.tracing / "kprobe_events").read_text().split()
    assert asked == ["p:own/own_0", "show", "p:own/own_0", "0xffffffff81000010"]


def test_new_functions_are_the_modules_own_and_originals_the_objects() -> None:
    assert [each.symbol for each in new_functions(PAIR)] == [
        "klp_pair_fix:livepatch_pair_seal", "klp_pair_fix:livepatch_pair_open",
    ]  # fmt: skip
    assert [each.symbol for each in originals(PAIR)] == ["klp_pair:klp_pair_seal", "klp_pair:klp_pair_open"]
    [banner] = originals([PatchedFunctions(object="vmlinux", functions=("version_proc_show,1",))])
    assert (banner.symbol, banner.position) == (originals(BANNER)[0].symbol, 1) == ("version_proc_show", 1)


def test_functions_that_the_file_does_not_tell_are_uncounted() -> None:
    found = untold([PatchedFunctions(object="m", functions=("f,1", "g,2"))])
    assert [(each.object, each.old, each.new) for each in found] == [("m", "f", ""), ("m", "g", "")]
    assert all("its file does not tell" in each.uncounted for each in found)


def broken(tmp_path: Path, old: bytes, new: bytes):
    file = tmp_path / "broken.ko"
    assert PAIR.file.read_bytes().count(old)
    file.write_bytes(PAIR.file.read_bytes().replace(old, new))
    return dataclasses.replace(PAIR, file=file)


def test_one_that_ftrace_does_not_know_is_not_tried(tmp_path: Path) -> None:
    found = new_functions(broken(tmp_path, b".rela__mcount_loc\0", b".rela__mcount_lok\0"))
    assert [each.hidden for each in found] == ["ftrace does not know it (notrace)"] * 2


def test_of_two_of_a_name_in_the_livepatch_none_is_tried(tmp_path: Path) -> None:
    found = new_functions(broken(tmp_path, b"livepatch_pair_seal\0", b"livepatch_pair_open\0"))
    assert [each.hidden for each in found] == ["its name exists 2 times in the livepatch"] * 2


def test_the_position_among_several_of_a_name_is_read(tmp_path: Path) -> None:
    content = bytearray(PAIR.file.read_bytes())
    with PAIR.file.open("rb") as opened:
        elf = ELFFile(opened)
        code = next(elf.get_section_by_name(".rela__mcount_loc").iter_relocations())["r_info_sym"]
        pointers = elf.get_section_by_name(".rela.data").iter_relocations()
        first = min(each["r_offset"] for each in pointers if each["r_info_sym"] == code) - 8
        content[elf.get_section_by_name(".data")["sh_offset"] + first + 16] = 3
    file = tmp_path / "third.ko"
    file.write_bytes(content)
    found = changed_functions(dataclasses.replace(PAIR, file=file))
    assert [each.position for each in found] == [3, 0]


def test_a_trace_tells_the_calls_again() -> None:
    ran = FunctionCalls(
        object="vmlinux", old="f", new="g", tasks=(TaskCalls(task="cat", pid=7, calls=3),), dropped=2
    )
    idle = FunctionCalls(object="m", old="h", new="i", uncounted="why")
    trace = Trace()
    for each in (ran, idle):
        trace.put(ev.Calls, patch="p", **fields_of(each))
    trace.put(ev.Calls, patch="q", **fields_of(idle))
    assert history(trace.numbered()).seen.calls_of("p") == (ran, idle)
    assert ran.calls == 5
    assert calls_of(trace.events[-1]) == idle
