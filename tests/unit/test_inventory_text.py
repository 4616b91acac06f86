# SPDX-License-Identifier: Apache-2.0
"""Inventories, read from what the script has printed in guests of three kernels, cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.analysis.inventory import Inventory, differences
from klp.analysis.inventory_text import parse_inventory

DATA = Path(__file__).parents[1] / "data/inventories"
KERNELS = sorted(file.stem for file in DATA.glob("*.txt"))
# What follows the state in /proc/PID/stat, up to the flags.
USER, KERNEL = "S 1 7 7 0 -1 4194560 0", "S 2 0 0 0 -1 2129984 0"


@pytest.fixture(params=KERNELS)
def recorded(request: pytest.FixtureRequest) -> str:
    return (DATA / f"{request.param}.txt").read_text()


def with_files(text: str, *lines: str) -> Inventory:
    return parse_inventory(text + "".join(f"=== files\n{line}\n" for line in lines))


def test_there_is_a_recording_of_each_kernel() -> None:
    assert KERNELS == ["6.1", "6.12", "7.2"]


def test_every_section_holds_something(recorded: str) -> None:
    found = parse_inventory(recorded)
    empty = {name for name, keys in found.sections.items() if not keys}
    assert empty <= {"timers", "works", "registered swaps", "registered consoles"}
    assert not found.unread


def test_what_varies_by_nature_is_left_out(recorded: str) -> None:
    keys = parse_inventory(recorded).sections["sysctl"]
    assert keys["/proc/sys/kernel/overflowuid"] == "65534"
    assert not keys.keys() & {"/proc/sys/kernel/random/uuid", "/proc/sys/fs/file-nr"}
    assert "/proc/sys/kernel/tainted" not in keys


def test_kthreads_are_there_and_their_workers_are_not(recorded: str) -> None:
    kthreads = parse_inventory(recorded).sections["kthreads"]
    assert kthreads["kthreadd"] == "1"
    workers = [name for name in kthreads if name.startswith("kworker")]
    assert all(name.startswith("kworker/R-") for name in workers)


def test_counts_of_interrupts_are_left_out(recorded: str) -> None:
    assert parse_inventory(recorded).sections["interrupts"]["4"] == "IO-APIC 4-edge ttyS0"


def test_addresses_mounts_and_areas_are_read(recorded: str) -> None:
    sections = parse_inventory(recorded).sections
    assert "10.0.2.15" in sections["addresses"]
    assert sections["mounts"]["/proc"].startswith("proc proc")
    assert not any(name.startswith("0x") for name in sections["vmalloc"])
    assert "kernel_clone" not in sections["vmalloc"]


@pytest.mark.parametrize(
    ("line", "section", "key"),
    [
        ("/proc/sys/kernel/klp_value:7", "sysctl", "/proc/sys/kernel/klp_value"),
        ("/proc/modules:klp_x 16384 0 - Live 0xffffffffc1000000 (OEK)", "modules", "klp_x"),
        (f"/proc/900/stat:900 (klp (x) y) {KERNEL}", "kthreads", "klp (x) y"),
        ("/sys/kernel/debug/kprobes/list:ffffffff8 k fork_x+0x4 [FTRACE]", "kprobes", "fork_x+0x4"),
        ("/sys/kernel/debug/kprobes/list:ffffffff8 k fork_x+0x4 klp_x [FTRACE]", "kprobes",
         "fork_x+0x4 [klp_x]"),
        ("/sys/kernel/tracing/enabled_functions:klp_f [klp_x] (1) R I", "ftrace", "klp_f [klp_x]"),
        ("/proc/vmallocinfo:0x01-0x02 8192 klp_f+0x1/0x2 [klp_x] pages=1 vmalloc", "vmalloc",
         "klp_f [klp_x]"),
        ("/proc/vmallocinfo:0x01-0x02 8192 0xffffffffc2000001 pages=1 vmalloc", "vmalloc",
         "0xffffffffc2000001"),
        ("/proc/timer_list: #2: <00000000c1963206>, klp_fn [klp_x], S:01", "timers", "klp_fn [klp_x]"),
        ("/proc/self/mountinfo:90 27 0:50 / /mnt rw - tmpfs none rw", "mounts", "/mnt"),
        ("/proc/net/if_inet6:fe80 09 40 20 80 klp0", "addresses", "fe80/64 klp0"),
        ("/proc/misc: 60 klp", "registered misc", "60 klp"),
    ],
)  # fmt: skip
def test_what_is_left_behind_is_seen(recorded: str, line: str, section: str, key: str) -> None:
    before = parse_inventory(recorded)
    after = with_files(recorded, line)
    found = [(each.section, each.key) for each in differences(before, after) if each.section != "sysctl"]
    assert (section, key) in found or (section == "sysctl" and key in after.sections["sysctl"])


@pytest.mark.parametrize(
    "line",
    [
        "/proc/sys/kernel/random/uuid:5",
        f"/proc/900/stat:900 (kworker/1:2-events) {KERNEL}",
        f"/proc/900/stat:900 (cat) {USER}",
        "/proc/vmallocinfo:0x01-0x02 20480 kernel_clone+0xbd/0x440 pages=4 vmalloc",
        "/proc/timer_list: #2: <00000000c1963206>, hrtimer_wakeup, S:01",
        "/proc/self/mountinfo:90 27 0:13 / /sys/kernel/debug/tracing rw - tracefs tracefs rw",
        "/sys/kernel/debug/kprobes/list:ffffffffc1000000 k mptcp_diag_init+0x4 mptcp_diag [GONE][FTRACE]",
    ],
)
def test_what_comes_and_goes_by_itself_is_not(recorded: str, line: str) -> None:
    assert differences(parse_inventory(recorded), with_files(recorded, line)) == ()


def test_a_probe_of_klps_own_is_left_out_and_another_is_not(recorded: str) -> None:
    lines = [
        "/sys/kernel/tracing/kprobe_events:p:klp_calls/n0 klp_x:klp_f",
        "/sys/kernel/debug/kprobes/list:ffffffffc1000000 k klp_f+0x0 klp_x [FTRACE]",
        "/sys/kernel/tracing/enabled_functions:klp_f [klp_x] (1) R I",
    ]
    before = parse_inventory(recorded)
    assert differences(before, with_files(recorded, *lines)) == ()
    assert len(differences(before, with_files(recorded, *lines[1:]))) == 2


def test_what_is_gone_with_its_module_has_the_name_that_was_learned() -> None:
    walked = "=== walked\ntimer 0xffffffffc1000018\nwork 0xffffffffc1000100\nwalked timers\nwalked works\n"
    symbols = ((0xFFFFFFFFC1000010, 0xFFFFFFFFC1000020, "klp_f [klp_x]"),)
    found = parse_inventory(walked, symbols)
    assert found.sections["timers"] == {"klp_f [klp_x]": "1"}
    assert found.sections["works"] == {"0xffffffffc1000100": "1"}
    assert found.unread == ("notifiers",)
    assert "notifiers" not in found.sections


def test_what_is_in_a_module_that_is_there_is_known_as_its() -> None:
    text = (
        "=== files\n/proc/modules:ext4 4096 2 - Live 0xffffffffc1000000\n"
        "=== walked\nnotifier die_chain 0xffffffffc1000008\nwalked notifiers\n"
    )
    found = parse_inventory(text)
    assert found.modules == {"ext4": (0xFFFFFFFFC1000000, 0xFFFFFFFFC1001000)}
    assert found.sections["notifiers"] == {"0xffffffffc1000008 [ext4] in die_chain": "1"}


def test_descriptors_are_counted_but_those_of_klps_own_session() -> None:
    text = (
        "=== session\n7\n=== descriptors\n/proc/1/fd/0\n/proc/1/fd/1\n/proc/9/fd/0\n/proc/4/fd/3\n"
        f"=== files\n/proc/1/stat:1 (init) S 0 1 1 0 -1 4194560 0\n/proc/9/stat:9 (bash) {USER}\n"
        "/proc/4/stat:4 (dropbear) S 1 4 4 0 -1 4194560 0\n"
    )
    assert parse_inventory(text).sections["open files"] == {"init": "2"}
