# SPDX-License-Identifier: Apache-2.0
"""What kernels say when they fail is read right: recordings of three kernels, and what none was made of."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klp.arch import DEFAULT
from klp.errors import (
    Category,
    CrashReport,
    GuestOutOfMemory,
    GuestPanicked,
    GuestStalled,
    QemuGone,
    VmLost,
)
from klp.klog.crash import FATAL, begins, closed, fingerprint, first_of, parse_report, without_stamp
from klp.model import Accelerator
from klp.vm.console import Console
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine
from klp.vm.spec import MachineSpec

RECORDED = Path(__file__).parent.parent / "data/consoles"
ALL = frozenset(Category)
NULL = "BUG: kernel NULL pointer dereference, address: 0000000000000000"
CONTEXT = "Modules linked in: klp_fix(OEK) other(OE+) ext4 [last unloaded: klp_old(OEK)]"
INT3 = "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI"
RIP = "RIP: 0010:__schedule+0x2f2/0xbe0"


def expected(name: str) -> tuple[Category, str, str]:
    """Return what a recording must be told as: category, function, title."""
    fault = name.partition("-")[2]
    return {
        "panic": (Category.PANIC, "klp_fault_panic", "Kernel panic - not syncing: klp_fault was told to"),
        "oops": (Category.OOPS, "klp_fault_oops", NULL),
        "irqs_off": (Category.SOFT_LOCKUP, "klp_fault_irqs_off", "watchdog: BUG: soft lockup - CPU#"),
        "preempt_off-soft": (
            Category.SOFT_LOCKUP, "klp_fault_preempt_off", "watchdog: BUG: soft lockup - CPU#"),
        "preempt_off-rcu": (
            Category.RCU_STALL, "klp_fault_preempt_off",
            "rcu: INFO: rcu_preempt self-detected stall on CPU"),
        "blocked": (Category.HUNG_TASK, "klp_fault_blocked", "INFO: task klp_fault:"),
        "memory": (
            Category.OUT_OF_MEMORY, "klp_fault_memory",
            "Kernel panic - not syncing: System is deadlocked on memory"),
    }[fault]  # fmt: skip


def names(pattern: str = "*") -> list[str]:
    return sorted(each.stem for each in RECORDED.glob(f"{pattern}.log"))


def report_of(name: str) -> CrashReport:
    wanted = FATAL | {expected(name)[0]}
    console = Console(RECORDED / f"{name}.log")
    finding = console.loss(wanted)
    assert finding is not None
    return console.report(finding, emulated=True)


def parsed(category: Category, *lines: str, emulated: bool = False) -> CrashReport:
    return parse_report(category, [f"[   12.345678] {line}" for line in lines], emulated=emulated)


def test_all_recordings_are_there() -> None:
    assert len(names()) == 19
    assert {name.partition("-")[0] for name in names()} == {"6.1", "6.12", "7.2"}


@pytest.mark.parametrize("name", names())
def test_a_recording_is_told_as_what_it_was(name: str) -> None:
    report = report_of(name)
    category, function, title = expected(name)
    assert (report.category, report.function) == (category, function)
    assert report.title.startswith(title)
    assert report.modules == ("klp_fault",)
    assert any(function in frame for frame in report.trace)
    assert report.title in report.lines[0]
    assert not report.emulator_suspect
    assert report.summary().startswith(f"{category} in {function} [klp_fault], fingerprint ")
    assert "\n" not in report.summary()


@pytest.mark.parametrize("name", names())
def test_a_trace_has_reliable_frames_only(name: str) -> None:
    for frame in report_of(name).trace:
        assert re.fullmatch(r"[\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+( \[klp_fault\])?", frame), frame


@pytest.mark.parametrize("fault", ["oops", "blocked", "irqs_off", "preempt_off-rcu", "preempt_off-soft"])
def test_one_fault_has_one_fingerprint_on_every_kernel(fault: str) -> None:
    assert len({report_of(name).fingerprint for name in names(f"*-{fault}")}) == 1


def test_different_ends_have_different_fingerprints() -> None:
    prints = {report_of(name).fingerprint for name in names("6.12-*")}
    assert len(prints) == len(names("6.12-*"))


@pytest.mark.parametrize("name", names("*-blocked"))
def test_a_hung_task_alone_is_told_and_survived(name: str) -> None:
    console = Console(RECORDED / f"{name}.log")
    assert console.loss(FATAL) is None
    [report] = console.survived(FATAL, emulated=True)
    assert (report.category, report.function) == (Category.HUNG_TASK, "klp_fault_blocked")
    assert "</TASK>" in report.lines[-1]
    assert console.survived(ALL, emulated=True) == ()


def test_what_is_repeated_is_told_once_and_what_comes_before_the_end_apart() -> None:
    reports = Console(RECORDED / "6.12-preempt_off-soft.log").survived(FATAL, emulated=True)
    assert [each.title for each in reports] == [
        "INFO: task kworker/1:1:46 blocked for more than 2 seconds.",
        "INFO: task khugepaged:41 blocked for more than 2 seconds.",
    ]


@pytest.mark.parametrize("name", names())
def test_a_report_is_found_wherever_the_console_is_cut(name: str, tmp_path: Path) -> None:
    content = (RECORDED / f"{name}.log").read_bytes()
    grown = Console(tmp_path / "console.log")
    with (tmp_path / "console.log").open("wb", buffering=0) as file:
        for start in range(0, len(content), 97):
            file.write(content[start : start + 97])
            grown.loss(ALL)
    finding = grown.loss(FATAL | {expected(name)[0]})
    assert finding is not None
    assert grown.report(finding, emulated=True) == report_of(name)


@pytest.mark.parametrize("name", names())
def test_half_a_report_is_read_as_far_as_it_goes(name: str) -> None:
    report = report_of(name)
    for count in range(1, len(report.lines)):
        part = parse_report(report.category, report.lines[:count], emulated=True)
        assert part.title == report.title
        assert part.function == report.function or part.trace != report.trace


@pytest.mark.parametrize(
    ("line", "category"),
    [
        ("Kernel panic - not syncing: Fatal exception in interrupt", Category.PANIC),
        ("Kernel panic - not syncing: Out of memory: compulsory panic_on_oom", Category.OUT_OF_MEMORY),
        ("Kernel panic - not syncing: softlockup: hung tasks", Category.SOFT_LOCKUP),
        ("Kernel panic - not syncing: hung_task: blocked tasks", Category.HUNG_TASK),
        ("Kernel panic - not syncing: RCU Stall", Category.RCU_STALL),
        ("Kernel panic - not syncing: Hard LOCKUP", Category.HARD_LOCKUP),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", Category.HARD_LOCKUP),
        ("watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1", Category.HARD_LOCKUP),
        ("BUG: unable to handle page fault for address: ffffffffc0a01000", Category.OOPS),
        ("general protection fault, probably for non-canonical address 0xdead000100: 0000 [#1] SMP",
         Category.OOPS),
        ("kernel BUG at mm/slub.c:448!", Category.OOPS),
        ("invalid opcode: 0000 [#1] PREEMPT SMP NOPTI", Category.OOPS),
        ("int3: 0000 [#1] PREEMPT SMP NOPTI", Category.OOPS),
        (INT3, Category.OOPS),
        ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", Category.RCU_STALL),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... }", Category.RCU_STALL),
        ("INFO: task cat:77 blocked in I/O wait for more than 120 seconds.", Category.HUNG_TASK),
        ("sshd invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0", Category.OOM_KILL),
        ("WARNING: CPU: 0 PID: 1 at kernel/livepatch/core.c:1 klp_add_nops+0x1/0x2", None),
        ("------------[ cut here ]------------", None),
        ("BUG: sleeping function called from invalid context at kernel/locking/mutex.c:1", None),
        ("klp: looks for Kernel panic - not syncing: nothing", None),
        ("klp_fix: mends: Oops: 0002 [#1] PREEMPT SMP", None),
        ("klp_fix: cat invoked oom-killer: no more", None),
        ("kernel BUG at boot is mended", None),
        ("RIP: 0010:panic+0x1/0x2", None),
        ("Modules linked in: klp_fault(OE)", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "stamp", ["", "[   12.345678] ", "[    1.000001][  T123] ", "<4>[12345.678901][    C1] "]
)
def test_a_report_is_known_by_its_first_line(stamp: str, line: str, category: Category | None) -> None:
    assert without_stamp(stamp + line) == line
    assert begins(stamp + line) is category


def test_what_a_guest_survives_by_default() -> None:
    survived = ALL - FATAL
    assert survived == {Category.HUNG_TASK, Category.OOM_KILL}


def test_an_int3_among_nothing_else_is_the_text_of_a_module_that_went() -> None:
    """7.2 fills it so; in what the emulator raced for, the other bytes are instructions."""
    gone = f"Code: {'cc ' * 42}<cc>{' cc' * 21}"
    race = "Code: 90 90 0f 1f 44 00 00 55 48 89 e5 <cc> 10 20 30"
    assert not parse_report(Category.OOPS, [INT3, gone], emulated=True).emulator_suspect
    assert parse_report(Category.OOPS, [INT3, race], emulated=True).emulator_suspect


@pytest.mark.parametrize("opening", [INT3, "int3: 0000 [#1] PREEMPT SMP NOPTI"])
def test_an_int3_under_tcg_is_the_emulators_unless_a_livepatch_is_in_the_trace(opening: str) -> None:
    fix = " klp_fix_show+0x1/0x20 [klp_fix]"
    plain = (opening, RIP, "Call Trace:", " <TASK>", " schedule+0x27/0xc0", " other_work+0x1/0x2 [other]")
    suspect = parsed(Category.OOPS, *plain, CONTEXT, emulated=True)
    assert suspect.emulator_suspect
    assert "emulator" in suspect.summary()
    assert not parsed(Category.OOPS, *plain, CONTEXT, emulated=False).emulator_suspect
    assert not parsed(Category.OOPS, *plain, fix, CONTEXT, emulated=True).emulator_suspect
    other = parsed(Category.OOPS, NULL, *plain[1:], CONTEXT, emulated=True)
    assert not other.emulator_suspect
    assert "emulator" not in other.summary()


def test_an_unreliable_frame_does_not_make_a_livepatch_guilty() -> None:
    lines = (INT3, RIP, "Call Trace:", " ? klp_fix_show+0x1/0x20 [klp_fix]", " schedule+0x27/0xc0", CONTEXT)
    assert parsed(Category.OOPS, *lines, emulated=True).emulator_suspect


def test_a_fingerprint_has_no_offsets_nor_what_compilers_append() -> None:
    one = parsed(
        Category.OOPS, NULL, "RIP: 0010:f+0x1/0x2", "Call Trace:", " g.isra.0+0x1/0x9", " h+0x3/0x9"
    )
    two = parsed(Category.OOPS, NULL, "RIP: 0010:f+0x7/0x8", "Call Trace:", " g.constprop.3+0x5/0x9",
                 " ? i+0x1/0x2", " h.cold+0x3/0xa")  # fmt: skip
    assert one.fingerprint == two.fingerprint == fingerprint(Category.OOPS, ["f", "g", "h"])
    assert one.trace == ("f+0x1/0x2", "g.isra.0+0x1/0x9", "h+0x3/0x9")
    assert one.fingerprint != fingerprint(Category.PANIC, ["f", "g", "h"])
    assert one.fingerprint != fingerprint(Category.OOPS, ["f", "h", "g"])
    assert fingerprint(Category.OOPS, list("abcdef")) == fingerprint(Category.OOPS, list("abcdeg"))


def test_a_stall_is_under_the_interrupt_that_noticed_it() -> None:
    trace = ("Call Trace:", " <IRQ>", " rcu_sched_clock_irq+0x1/0x2", " </IRQ>", " <TASK>",
             " asm_sysvec_apic_timer_interrupt+0x1/0x2", "RIP: 0010:spin+0x1/0x2 [mine]", "RAX: 0000",
             " caller+0x1/0x2", " </TASK>")  # fmt: skip
    stall = parsed(Category.RCU_STALL, "rcu: INFO: rcu_preempt self-detected stall on CPU", *trace)
    assert stall.function == "spin"
    assert stall.modules == ("mine",)
    assert not any("rcu_sched" in frame for frame in stall.trace)
    # A panic in an interrupt, though, is the interrupt's.
    assert parsed(Category.PANIC, "Kernel panic - not syncing: x", *trace).function == "rcu_sched_clock_irq"


@pytest.mark.parametrize(("loop", "named"), [("handle_softirqs", "spin"), ("__do_softirq", "spin"),
                                             ("a_timer_handler", "a_timer_handler")])  # fmt: skip
def test_a_stall_is_not_the_softirq_loops_that_the_watchdog_happened_to_find(loop: str, named: str) -> None:
    stall = parsed(
        Category.SOFT_LOCKUP, "watchdog: BUG: soft lockup - CPU#0 stuck for 6s! [mine:219]",
        f"RIP: 0010:{loop}+0x1/0x2", "Call Trace:", " <IRQ>", " irq_exit_rcu+0x1/0x2",
        " sysvec_apic_timer_interrupt+0x1/0x2", " </IRQ>", " <TASK>",
        " asm_sysvec_apic_timer_interrupt+0x1/0x2", "RIP: 0010:spin+0x1/0x2 [mine]", "RAX: 0000",
        " kthread+0x1/0x2", " </TASK>",
    )  # fmt: skip
    assert stall.function == named
    assert stall.modules == ("mine",)


def test_user_spaces_rip_is_nobodys_function() -> None:
    report = parsed(Category.PANIC, "Kernel panic - not syncing: x", "Call Trace:", " f+0x1/0x2",
                    "RIP: 0033:0x7f245eb1a4f9")  # fmt: skip
    assert report.trace == ("f+0x1/0x2",)


def test_a_panic_without_a_trace_is_told() -> None:
    report = parsed(Category.PANIC, "Kernel panic - not syncing: VFS: Unable to mount root fs")
    assert (report.function, report.trace, report.modules) == ("", (), ())
    assert report.summary().endswith(": Kernel panic - not syncing: VFS: Unable to mount root fs")


def test_where_a_report_ends() -> None:
    assert closed(Category.SOFT_LOCKUP, ["[ 1.0] x", "[ 1.0]  </TASK>"])
    assert not closed(Category.OOPS, ["[ 1.0]  </TASK>"])
    assert closed(Category.OOPS, ["[ 1.0] ---[ end Kernel panic - not syncing: Fatal exception ]---"])
    assert first_of(Category.HUNG_TASK, ["a", " </TASK>", "b"]) == ["a", " </TASK>"]
    assert first_of(Category.HUNG_TASK, ["a", "b"]) == ["a", "b"]


def test_a_console_that_never_stops_makes_no_endless_report() -> None:
    assert len(parsed(Category.PANIC, *["x"] * 10_000).lines) == 500


class FakeQemu:
    """A process that has ended, or has not."""

    def __init__(self, status: int | None) -> None:
        self._status = status
        self.pid = os.getpid()

    def status(self) -> int | None:
        return self._status


class TestMachine:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> Iterator[Machine]:
        nowhere = tmp_path / "none"
        spec = MachineSpec(DEFAULT, nowhere, nowhere, nowhere, nowhere, console=tmp_path / "console.log")
        (tmp_path / "qemu.log").write_text("last word\n")
        spec.console.write_text("[    1.000000] Linux version 6.12\n")
        made = Machine(spec, tmp_path / "qemu.log", deadlines(Accelerator.TCG))
        made._process = FakeQemu(None)
        yield made
        made._process = None

    def replay(self, machine: Machine, name: str) -> None:
        with machine.spec.console.open("ab") as file:
            file.write((RECORDED / f"{name}.log").read_bytes())

    def test_nothing_wrong(self, machine: Machine) -> None:
        machine.check_alive()
        assert machine.survived() == ()

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [("panic", GuestPanicked), ("oops", GuestPanicked), ("irqs_off", GuestStalled),
         ("preempt_off-soft", GuestStalled), ("preempt_off-rcu", GuestStalled),
         ("memory", GuestOutOfMemory)],
    )  # fmt: skip
    def test_each_loss_has_its_own_type(self, machine: Machine, fault: str, kind: type[VmLost]) -> None:
        self.replay(machine, f"6.12-{fault}")
        machine._process = FakeQemu(0)
        with pytest.raises(kind) as caught:
            machine.check_alive()
        assert type(caught.value) is kind
        assert caught.value.report == report_of(f"6.12-{fault}")
        assert caught.value.message == f"the guest is lost: {caught.value.report.summary()}"
        assert caught.value.console_tail

    def test_a_hung_task_is_fatal_when_asked(self, machine: Machine) -> None:
        self.replay(machine, "6.12-blocked")
        machine.check_alive()
        assert [each.category for each in machine.survived()] == [Category.HUNG_TASK]
        machine.fatal |= {Category.HUNG_TASK}
        with pytest.raises(GuestStalled, match="hung task in klp_fault_blocked"):
            machine.check_alive()

    def test_a_kernel_told_to_panic_on_a_hung_task_is_lost_by_the_hung_task(self, machine: Machine) -> None:
        self.replay(machine, "6.12-blocked")
        with machine.spec.console.open("a") as file:
            file.write("[   60.000000] Kernel panic - not syncing: hung_task: blocked tasks\n")
        machine._process = FakeQemu(0)
        with pytest.raises(GuestStalled, match="hung task in klp_fault_blocked"):
            machine.check_alive()

    def test_a_report_is_heard_to_its_end(self, machine: Machine) -> None:
        whole = (RECORDED / "6.12-irqs_off.log").read_text().splitlines(keepends=True)
        looks = 0

        def grow() -> None:
            nonlocal looks
            looks += 1
            with machine.spec.console.open("a") as file:
                file.write("".join(whole[(looks - 1) * 10 : looks * 10]))

        class Growing(FakeQemu):
            def status(self) -> int | None:
                grow()
                return None

        machine._process = Growing(None)
        grow()
        with pytest.raises(GuestStalled) as caught:
            machine.check_alive()
        assert caught.value.report == report_of("6.12-irqs_off")
        assert len(caught.value.report.lines) > 30

    def test_a_report_without_end_is_told_soon(self, machine: Machine) -> None:
        with machine.spec.console.open("a") as file:
            file.write(f"[   60.000000] {NULL}\n")
        begun = time.monotonic()
        with pytest.raises(GuestPanicked, match="oops, fingerprint"):
            machine.check_alive()
        with pytest.raises(GuestPanicked):  # and not waited for again
            machine.check_alive()
        assert time.monotonic() - begun < 2.5

    def test_a_killed_qemu_is_told(self, machine: Machine) -> None:
        machine._process = FakeQemu(-9)
        with pytest.raises(QemuGone, match="killed by signal 9: last word") as caught:
            machine.check_alive()
        assert caught.value.report is not None
        assert caught.value.report.category is Category.QEMU_GONE
        assert "Linux version 6.12" in caught.value.report.lines[-1]

    def test_a_report_that_came_with_qemus_end_is_not_missed(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look = machine.console.loss
        too_early = [None]
        monkeypatch.setattr(
            machine.console, "loss", lambda fatal: too_early.pop() if too_early else look(fatal)
        )
        self.replay(machine, "6.12-panic")
        machine._process = FakeQemu(0)
        with pytest.raises(GuestPanicked):
            machine.check_alive()

    def test_a_silent_guest_is_told_by_its_last_words(self, machine: Machine) -> None:
        said = machine.silent("no end of `true` within 2 s")
        assert re.fullmatch(
            r"no end of `true` within 2 s; its console, last \d s ago: \[    1.000000\] Linux version 6.12",
            said.message,
        )
        assert said.report is not None
        assert said.report.category is Category.SILENT
        self.replay(machine, "6.12-blocked")
        assert "; before: hung task in klp_fault_blocked" in machine.silent("x").message


WAITS = (" smp_call_function_many_cond+0x1/0x2", " caller+0x1/0x2")
LOCKUP = "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [mine:219]"


def test_a_stall_that_waits_for_a_cpu_is_that_cpus() -> None:
    stall = parsed(
        Category.SOFT_LOCKUP, LOCKUP, "Call Trace:", *WAITS, " </TASK>",
        # What is printed besides is no other CPU's; and of those the first that does not wait as well.
        "Call Trace:", " unrelated+0x1/0x2", " </TASK>",
        "NMI backtrace for cpu 1", "Call Trace:", *WAITS, " </TASK>",
        "NMI backtrace for cpu 2", "RIP: 0010:culprit+0x1/0x2", "Call Trace:", " below+0x1/0x2", " </TASK>",
        "NMI backtrace for cpu 3", "Call Trace:", " another+0x1/0x2", " </TASK>",
    )  # fmt: skip
    assert (stall.function, stall.trace) == ("culprit", ("culprit+0x1/0x2", "below+0x1/0x2"))
    alone = parsed(Category.SOFT_LOCKUP, LOCKUP, "Call Trace:", *WAITS, " </TASK>")
    assert alone.function == "smp_call_function_many_cond"
    busy = parsed(Category.SOFT_LOCKUP, LOCKUP, "Call Trace:", *reversed(WAITS), " </TASK>",
                  "NMI backtrace for cpu 1", "Call Trace:", " other+0x1/0x2", " </TASK>")  # fmt: skip
    assert busy.function == "caller"


def test_frames_are_a_stacks_from_its_heading_to_its_end() -> None:
    stall = parsed(
        Category.SOFT_LOCKUP, LOCKUP, " before+0x1/0x2", "Call Trace:", " one+0x1/0x2", " <IRQ>",
        " noticed+0x1/0x2", " </IRQ>", " two+0x1/0x2", "Modules linked in: x", " after+0x1/0x2",
    )  # fmt: skip
    assert stall.trace == ("one+0x1/0x2", "two+0x1/0x2")


def test_a_fingerprint_is_of_the_five_topmost_functions() -> None:
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(Category.OOPS, ()))
    assert fingerprint(Category.OOPS, list("abcde")) != fingerprint(Category.OOPS, list("abcdx"))
