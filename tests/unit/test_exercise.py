# SPDX-License-Identifier: Apache-2.0
"""The scenario `exercise` without a guest: likeness, knowledge, outputs, faults, the guest's program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.check import in_guest
from klp.check.exercise import faults
from klp.check.exercise.finding import ProbedFunction, WhoCalls, addresses, together, varied
from klp.check.exercise.growing import not_judged
from klp.check.exercise.knowledge import Knowledge, Known, Reached, shunned
from klp.check.exercise.outputs import usual_output
from klp.check.exercise.remote import Alone, Hanging, RunCount, Sleeper
from klp.check.exercise.workloads import (
    GuestWorkload,
    Origin,
    WorkloadKind,
    catalogue,
    commands,
    files,
    of_author,
    ranked,
    stressors,
    tried_words,
)
from klp.check.in_guest import probes, watching, working
from klp.modules.plan import PatchPlan
from klp.modules.plan import Workload as Planned
from klp.paths import CacheLayout
from klp.waiting import wait_until

CMDLINE = ("vmlinux", "cmdline_proc_show")


def reading(path: str) -> GuestWorkload:
    return GuestWorkload(kind=WorkloadKind.READ, text=path, origin=Origin.FILE)


def command(text: str, origin: Origin = Origin.COMMAND, *, may_fail: bool = False) -> GuestWorkload:
    return GuestWorkload(kind=WorkloadKind.COMMAND, text=text, origin=origin, name=text, may_fail=may_fail)


def test_a_command_that_is_a_script_is_told_in_a_line() -> None:
    script = "python3 -c '\n" + "".join(f"    step{number}()\n" for number in range(40)) + "'"
    assert command("mount -t ramfs x /mnt").words == "`mount -t ramfs x /mnt`"
    assert "\n" not in command(script).words
    assert command(script).words.startswith("`python3 -c ' step0() step1()")
    assert len(command(script).words) < 80


def reached(workload: GuestWorkload, seconds: float = 0.1, hits: int = 1) -> Reached:
    return Reached(workload=workload, hits=hits, seconds=seconds)


def likeliest(object_: str, function: str, count: int = 1) -> list[str]:
    some = ("/proc/cmdline", "/proc/meminfo", "/proc/sys/kernel/hostname", "/sys/kernel/mm/lru_gen/enabled")
    every = (*commands(), *stressors(catalogue().stressors), *map(reading, some))
    return [each.name or each.text for each, _ in ranked(every, [(object_, function)])[:count]]


@pytest.mark.parametrize(
    ("object_", "function", "wanted"),
    [
        ("vmlinux", "cmdline_proc_show", "/proc/cmdline"),
        ("vmlinux", "meminfo_proc_show", "/proc/meminfo"),
        ("vmlinux", "do_futex", "stress-ng --futex"),
        ("vmlinux", "eventfd_read", "stress-ng --eventfd"),
        ("loop", "lo_ioctl", "losetup"),
        ("nf_tables", "nf_tables_newtable", "nft"),
        ("dummy", "dummy_xmit", "ip link add dummy"),
        ("tun", "tun_chr_open", "ip tuntap"),
        ("overlay", "ovl_copy_up_flags", "mount overlay"),
    ],
)
def test_the_usual_case_is_tried_first(object_: str, function: str, wanted: str) -> None:
    assert wanted in likeliest(object_, function, 4)


def test_the_authors_own_come_before_what_is_hardly_alike() -> None:
    own = command("poke-it", Origin.AUTHOR)
    every = [*commands(), own]
    assert ranked(every, [("vmlinux", "unheard_of")])[0][0] == own


def test_the_catalogue_can_be_run() -> None:
    for each in commands():
        done = subprocess.run(["sh", "-n", "-c", each.text], capture_output=True, text=True, check=False)
        assert not done.stderr, each.name
        # Beside itself: what is made is named after the process, or in a namespace of its own.
        makes = any(word in each.text for word in ("mkdir ", "ip link add", "truncate "))
        assert not makes or "$$" in each.text or "unshare" in each.text, each.name
    names = [each.name for each in commands()]
    assert len(names) == len(set(names))
    assert len(catalogue().stressors) == len(set(catalogue().stressors))


def test_files_that_harm_or_are_alike_are_left_out() -> None:
    found = files(
        ["/proc/kmsg", "/proc/cmdline", "/proc/1/mem", "/sys/kernel/tracing/trace_pipe",
         *(f"/sys/devices/cpu{n}/x" for n in range(9)), *(f"/sys/kernel/slab/{n}/order" for n in "abcdef")],
        ["/proc/sys/vm/swappiness", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/ftrace_enabled"],
    )  # fmt: skip
    assert [each.text for each in found if each.kind is WorkloadKind.WRITE_BACK] == [
        "/proc/sys/vm/swappiness"
    ]
    assert [each.text for each in found if each.kind is WorkloadKind.READ] == [
        "/proc/cmdline", "/sys/devices/cpu0/x", *(f"/sys/kernel/slab/{n}/order" for n in "abcd")
    ]  # fmt: skip


def test_what_was_tried_is_told_by_kind() -> None:
    every = [
        command("a"),
        command("b", Origin.AUTHOR),
        *stressors(["pipe"]),
        *map(reading, map(str, range(1500))),
    ]
    assert tried_words(every) == "2 commands, 1 stressor and 1,500 files of /proc, /sys and debugfs"


def test_the_authors_commands_are_workloads() -> None:
    plan = PatchPlan(
        name="a", summary="a", livepatch="a",
        workload=(Planned(command="x"), Planned(command="y", may_fail=True)),
    )  # fmt: skip
    assert [(each.text, each.may_fail) for each in of_author(plan)] == [("x", False), ("y", True)]


def test_the_quickest_is_first_and_then_what_is_different() -> None:
    slow, quick, other = (
        reached(reading("/a"), 0.3), reached(reading("/b"), 0.1), reached(command("c"), 0.5),
    )  # fmt: skip
    assert varied([slow, quick, other]) == (quick, other, slow)


def test_what_calls_more_often_in_a_given_time_is_quicker() -> None:
    short, long = reached(command("a"), 0.1, hits=1), reached(command("b"), 0.5, hits=50)
    assert varied([short, long]) == (long, short)


@pytest.mark.parametrize(("calls", "told"), [(0, False), (1, True), (99, True), (100, False)])
def test_what_was_called_too_seldom_to_see_memory_grow_is_told(calls: int, told: bool) -> None:
    tasks = (TaskCalls(task="df", pid=1, calls=calls),)
    words = list(not_judged([FunctionCalls(object="vmlinux", old="f", new="lp_f", tasks=tasks)]))
    assert bool(words) is told
    assert all("lp_f" in each and f"{calls} are too few" in each for each in words)


def test_each_function_has_a_workload_however_many_there_are() -> None:
    functions = [ProbedFunction("vmlinux", f"f{n},1", f"o{n}") for n in range(20)]
    found = {each: (reached(reading(f"/{each.name}")), reached(reading("/all"))) for each in functions}
    chosen = together([], found)
    for function in functions:
        assert any(each.workload in chosen for each in found[function])
    slow = {functions[0]: (reached(reading("/a")), reached(command("slow"), 2.0))}
    assert together([], slow) == (reading("/a"),)
    assert together([command("own")], slow) == (command("own"), reading("/a"))


def test_a_function_among_namesakes_is_found_by_its_position() -> None:
    listed = "ff01 t show\nff02 T show\nff03 t show\t[ext4]\nff04 t show\t[ext4]\n"
    of = [("vmlinux", "show,2"), ("ext4", "show,2"), ("ext4", "show,3")]
    functions = [ProbedFunction(*each, f"o{number}") for number, each in enumerate(of)]
    assert addresses(listed, functions) == {"o0": "0xff02", "o1": "0xff04"}


def test_what_the_system_calls_by_itself_needs_no_workload() -> None:
    often, hardly = (ProbedFunction("vmlinux", name, name) for name in ("schedule,0", "kexec_crash_size,0"))
    tried = dict.fromkeys((often, hardly), "9 commands")
    found = WhoCalls(reached=dict.fromkeys(tried, ()), tried=tried, idle={often: 120.0, hardly: 0.1})
    assert found.busy == (often,)
    assert found.unreached == (hardly,)


@pytest.fixture
def knowledge(tmp_path: Path) -> Knowledge:
    return Knowledge(CacheLayout(tmp_path), "d" * 64)


def test_what_was_found_is_known_afterwards(knowledge: Knowledge) -> None:
    function = ("vmlinux", "cmdline_proc_show,1")
    assert knowledge.of(function) is None
    known = Known(catalogue="c", reached=(reached(reading("/proc/cmdline")),))
    knowledge.learn(function, known)
    assert knowledge.of(function) == known
    assert knowledge.of(("vmlinux", "cmdline_proc_show,2")) is None
    assert known.answers("another catalogue", quick=False)


@pytest.mark.parametrize(
    ("whole", "same", "quick", "answers"),
    [(True, True, False, True), (False, True, False, False), (False, True, True, True),
     (True, False, False, False), (True, False, True, False)],
)  # fmt: skip
def test_that_none_was_found_holds_for_what_was_tried(
    whole: bool, same: bool, quick: bool, answers: bool
) -> None:
    known = Known(catalogue="c", tried="3 commands", whole=whole)
    assert known.answers("c" if same else "d", quick=quick) is answers


def test_a_damaged_file_is_as_good_as_none(knowledge: Knowledge, tmp_path: Path) -> None:
    knowledge.learn(CMDLINE, Known(catalogue="c"))
    [file] = tmp_path.rglob("*.json")
    file.write_text("{")
    assert knowledge.of(CMDLINE) is None


def test_what_harms_is_shunned(knowledge: Knowledge) -> None:
    knowledge.shun(command("a\nb"))
    knowledge.shun(command("c"))
    assert shunned(command("a\nb"), knowledge.harmful())
    assert not shunned(command("b"), knowledge.harmful())


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        (["a 1\n"] * 2, "a 1\n", False),
        (["a 1\n"] * 2, "a 2\n", True),
        (["a 1\n"] * 2, "", True),
        (["a 1\n", "a 2\n"], "a 77\n", False),
        (["a 1\n", "a 2\n"], "b 1\n", True),
        (["up 1\nsame 5\n", "up 2\nsame 5\n"], "up 3\nsame 6\n", False),
        (["x one\nsame 5\n", "x two\nsame 5\n"], "x three\nsame 5\n", False),
        (["x one\nsame 5\n", "x two\nsame 5\n"], "x three\nsame 6\n", True),
        (["a\n", "a\nb\n"], "c\n", False),
        (["a\n", "a\nb\n"], "", True),
        (["", ""], "c", True),
        (["a  1\n", "a 10\n"], "a   100\n", False),
        (["f 0xffff12\n", "f 0xaaaa99\n"], "f 0x12\n", False),
    ],
)  # fmt: skip
def test_what_varies_by_itself_is_not_compared(before: list[str], now: str, differs: bool) -> None:
    assert (usual_output(before).difference(now) is not None) is differs


def test_a_difference_is_told_around_where_it_is() -> None:
    line = "x" * 200
    found = usual_output([f"{line}a\n"] * 2).difference(f"{line}b\n")
    assert found
    assert found.words == f"'{'x' * 40}b', not '{'x' * 40}a' as before it was loaded"


def ended(result: str, output: str = "") -> dict[int, Alone]:
    return {0: Alone(ran=0, result=result, output=output, seconds=0.1)}


def failing(phase: str, result: str, runs: int = 5, *, workload: GuestWorkload | None = None) -> list[str]:
    ran = (RunCount(0, "before", "ok", 9, 0.1, ""), RunCount(0, phase, result, runs, 0.1, "cat: no\n"))
    return list(faults.failures([workload or reading("/proc/x")], ran, [ended("ok")]))


def test_what_never_failed_before_is_a_fault() -> None:
    assert failing("enabled", "EIO") == [
        "reading /proc/x fails with EIO while the livepatch is enabled, in 5 of 5 runs; it never did "
        "before (cat: no)"
    ]  # fmt: skip
    assert failing("enabled", "ok") == []
    assert failing("before", "EIO") == []


def test_a_signal_is_named() -> None:
    assert "dies of SIGSEGV" in failing("loading", "signal 11")[0]
    assert "exit status 139 (SIGSEGV)" in failing("loading", "exit 139")[0]
    assert "exit status 3 while" in failing("loading", "exit 3")[0]


def test_what_may_fail_may_while_it_is_enabled_but_not_die() -> None:
    own = command("own", Origin.AUTHOR, may_fail=True)
    assert failing("enabled", "exit 1", workload=own) == []
    assert failing("after", "exit 1", workload=own)
    assert failing("enabled", "signal 9", workload=own)


def test_a_command_of_the_catalogue_may_fail_once() -> None:
    assert failing("enabled", "exit 1", 1, workload=command("c")) == []
    assert failing("enabled", "exit 1", 2, workload=command("c"))
    assert failing("enabled", "EIO", 1)


def test_what_is_not_as_before_is_told() -> None:
    before = [ended("ok", "a\n")] * 3
    one = [reading("/proc/x")]
    assert faults.changes(one, before, ended("ok", "a\n")) == {}
    assert faults.changes(one, before, ended("ok", "b\n")) == {
        0: "after unloading, reading /proc/x shows 'b', not 'a' as before it was loaded"
    }
    assert faults.changes(one, before, ended("EIO")) == {
        0: "reading /proc/x fails with EIO after unloading; before loading it never did"
    }
    assert faults.changes(stressors(["pipe"]), before, ended("ok", "b\n")) == {}


@pytest.mark.parametrize(
    ("before", "after", "lasts"),
    [
        (["a 1", "a 1"], ["b 1", "b 1"], True),
        (["a 1", "a 1"], ["a 2", "a 2"], True),
        (["a 1", "a 1"], ["a 2", "a 3"], False),  # a number that stood still by chance
        (["a 1", "a 2"], ["b 3", "b 4"], True),  # numbers vary, and a word is another
        (["a 1", "a 2"], ["a 3", "a 3"], False),
        (["a 1", "a 1"], ["b 1", "a 1"], False),  # it was put back, if late
    ],
)
def test_what_still_moves_after_unloading_is_no_change(
    before: list[str], after: list[str], *, lasts: bool
) -> None:
    one = [reading("/proc/x")]
    runs, later = ([ended("ok", f"{text}\n") for text in each] for each in (before, after))
    assert bool(faults.lasting_changes(one, runs, later)) is lasts


def test_who_hangs_is_told_with_where() -> None:
    stack = ("mutex_lock+0x2f/0x40", "lp_show+0x11/0x20 [klp_bad]", "seq_read_iter+0x1/0x2")
    task = Sleeper(pid=7, comm="python3", state="D", stack=stack)
    hanging = Hanging(hangs=0, seconds=11.2, phase="enabled", tasks=(task,))
    assert faults.hanging_words(hanging, reading("/proc/x")) == (
        "reading /proc/x hangs while the livepatch is enabled, for 11 s: python3[7] sleeps in "
        "mutex_lock < lp_show [klp_bad] < seq_read_iter"
    )


# The guest's program, on this machine.


def look(state: str, *stack: str, pid: int = 1, ticks: int = 0) -> dict[str, Any]:
    return {"pid": pid, "comm": "x", "state": state, "stack": list(stack), "ticks": ticks}


@pytest.mark.parametrize(
    ("first", "second", "stays"),
    [
        (look("D", "a+0x1"), look("D", "a+0x1"), True),
        (look("S", "a+0x1"), look("S", "a+0x1"), True),
        (look("D", "a+0x1"), look("D", "a+0x2"), False),
        (look("D", "a+0x1"), look("R", "a+0x1"), False),
        (look("D"), look("D"), False),
        (look("D", "a+0x1", pid=2), look("D", "a+0x1"), False),
        (look("R"), look("R", ticks=290), True),
    ],
)
def test_who_hangs_has_not_moved(first: dict[str, Any], second: dict[str, Any], stays: bool) -> None:
    assert bool(watching.stays([first], [second])) is stays


def test_only_our_own_probes_are_counted() -> None:
    text = "  exercised0              12               0\n  o1    3    0\n  exercised2   4   0\n  x  5  0\n"
    assert probes.profile_of(text) == {"exercised0": 12, "exercised2": 4}


class Program:
    """The guest's program, on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        os.mkfifo(folder / "control")
        (folder / "answers").touch()
        place = Path(in_guest.__file__).parent
        words = [sys.executable, "-E", "-s", "-S", "-m", f"{place.name}.exerciser", str(folder)]
        self.process = subprocess.Popen(words, cwd=place.parent)

    def order(self, what: str, **more: Any) -> None:
        with (self._folder / "control").open("w") as control:
            control.write(json.dumps({"do": what, **more}) + "\n")

    def use(self, *workloads: GuestWorkload) -> None:
        file = self._folder / "list"
        file.write_text(json.dumps([msgspec.to_builtins(each) for each in workloads]))
        self.order("use", file=str(file))

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self._folder / "answers").read_text().splitlines()]

    def await_done(self, what: str) -> list[dict[str, Any]]:
        def look() -> list[dict[str, Any]] | None:
            found = self.answers()
            return found if any(each.get("done") == what for each in found) else None

        return wait_until(look, what=what, timeout_s=20, every_s=0.05)

    def ran(self) -> dict[tuple[int, str, str], int]:
        rows = next((each["tasks"] for each in reversed(self.answers()) if "tasks" in each), [])
        return {(index, phase, result): runs for index, phase, result, runs, _, _ in rows}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    running = Program(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()


def test_tasks_rest_less_while_there_is_no_transition_to_be_slowed() -> None:
    for phase in (faults.BEFORE, faults.LOADING, faults.DISABLING, faults.AFTER):
        assert working.rest_s(0.1, phase) > 2 * working.rest_s(0.1, faults.ENABLED) > 0


def test_workloads_run_alone(program: Program, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("5\n")
    back = GuestWorkload(kind=WorkloadKind.WRITE_BACK, text=str(tmp_path / "value"), origin=Origin.FILE)
    program.use(
        reading(str(tmp_path / "value")), reading(str(tmp_path / "none")), back, command("echo a; exit 3"),
        command("kill -9 $$"), command("sleep 1000 & echo b"),
    )  # fmt: skip
    program.order("alone")
    ran = [each for each in program.await_done("alone") if "ran" in each]
    assert [(each["result"], each["output"]) for each in ran] == [
        ("ok", "5\n"), ("ENOENT", ""), ("ok", "5\n"), ("exit 3", "a\n"), ("signal 9", ""),
        ("exit 0", "b\n"),
    ]  # fmt: skip
    assert (tmp_path / "value").read_text() == "5\n"


def test_tasks_take_turns_and_are_counted_by_phase(program: Program, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.write_text("x")
    program.use(reading("/proc/self/stat"), reading(str(gone)))
    program.order("phase", phase="before")
    program.order("tasks", count=3)
    wait_until(lambda: len(program.ran()) == 2, what="runs", timeout_s=20, every_s=0.05)
    gone.unlink()
    program.order("phase", phase="enabled")
    wait_until(
        lambda: (1, "enabled", "ENOENT") in program.ran(), what="failures", timeout_s=20, every_s=0.05
    )
    program.order("rest")
    program.await_done("rest")
    assert {(0, "before", "ok"), (1, "before", "ok"), (0, "enabled", "ok")} <= set(program.ran())
    program.order("end")
    assert program.process.wait(20) == 0
