# SPDX-License-Identifier: Apache-2.0
"""What the guest's shell prints about its livepatches, and how it is read: script and reader together.

The scripts run here on folders that look like the guest's /sys/kernel/livepatch and /proc.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from klp.guest import livepatch
from klp.guest.livepatch import (
    LivepatchState,
    PatchedObject,
    PendingTask,
    parse_listing,
    parse_pending,
)
from klp.process import run


def fill(folder: Path, files: dict[str, str | None]) -> None:
    """Make files, and folders where there is no content."""
    for name, content in files.items():
        path = folder / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content)


def listed(sysfs: Path) -> tuple[LivepatchState, ...]:
    script = livepatch._LIST.replace(livepatch._SYSFS, str(sysfs))
    assert script != livepatch._LIST
    timers = sysfs.with_name("timer_list")
    timers.write_text(
        "Timer List Version: v0.10\nHRTIMER_MAX_CLOCK_BASES: 8\nnow at 24836505969755 nsecs\n\n"
    )
    printed = run(["bash", "-c", script.replace("/proc/timer_list", str(timers))])
    assert "/force" not in printed.stdout  # reading it is an error in a kernel
    assert printed.stderr == ""
    seen = parse_listing(printed.stdout)
    clock_ns = 24836505969755 if sysfs.is_dir() else None
    assert (seen.begun_ns, seen.ended_ns) == (clock_ns, clock_ns)
    return seen.livepatches


def pending(proc: Path, target: str, at_most: int = 100) -> tuple[PendingTask, ...]:
    script = livepatch._PENDING.replace("/proc/", f"{proc}/")
    assert script != livepatch._PENDING
    return parse_pending(run(["sh", "-c", script, "pending", target, str(at_most)], check=False).stdout)


@pytest.fixture
def silence(tmp_path: Path) -> Path:
    """A pipe that nothing ever comes from."""
    os.mkfifo(tmp_path / "silence")
    return tmp_path / "silence"


def lasts(script: str, path: Path, silence: Path) -> str:
    script = script.replace("{0}", shlex.quote(str(path))).replace("/run/klp/silence", str(silence))
    finished = run(["bash", "-c", script])
    assert finished.stderr == ""
    return finished.stdout


def test_waiting_ends_with_what_is_waited_for(tmp_path: Path, silence: Path) -> None:
    flag = tmp_path / "it's a flag"
    assert lasts(livepatch._WHILE_ONE, flag, silence) == ""
    assert lasts(livepatch._WHILE_THERE, flag, silence) == ""
    assert lasts(livepatch._WHILE_HELD, flag, silence) == ""
    flag.write_text("0\n")
    assert lasts(livepatch._WHILE_ONE, flag, silence) == ""
    assert lasts(livepatch._WHILE_HELD, flag, silence) == ""


def test_waiting_says_what_lasts(tmp_path: Path, silence: Path) -> None:
    flag = tmp_path / "flag"
    flag.write_text("1\n")
    assert lasts(livepatch._WHILE_ONE, flag, silence) == "1\n"
    assert lasts(livepatch._WHILE_THERE, tmp_path, silence) == "1\n"
    assert lasts(livepatch._WHILE_HELD, flag, silence) == "1\n"


# --- sysfs ------------------------------------------------------------------------------------------

ON_7_2 = {
    "livepatch_sample/enabled": "1\n",
    "livepatch_sample/transition": "0\n",
    "livepatch_sample/force": "",
    "livepatch_sample/replace": "0\n",
    "livepatch_sample/stack_order": "1\n",
    "livepatch_sample/vmlinux/patched": "1\n",
    "livepatch_sample/vmlinux/cmdline_proc_show,1": None,
    "klp_two/enabled": "0\n",
    "klp_two/transition": "1\n",
    "klp_two/force": "",
    "klp_two/replace": "1\n",
    "klp_two/stack_order": "12\n",
    "klp_two/vmlinux/patched": "1\n",
    "klp_two/vmlinux/b,2": None,
    "klp_two/vmlinux/a.isra.0,1": None,
    "klp_two/ext4/patched": "0\n",
    "klp_two/ext4/ext4_x,1": None,
}


def test_livepatches_of_7_2(tmp_path: Path) -> None:
    fill(tmp_path, ON_7_2)
    assert listed(tmp_path) == (
        LivepatchState(
            name="klp_two", enabled=False, transition=True, replace=True, stack_order=12,
            objects=(
                PatchedObject("ext4", ("ext4_x,1",), False),
                PatchedObject("vmlinux", ("a.isra.0,1", "b,2"), True),
            ),
        ),
        LivepatchState(
            name="livepatch_sample", enabled=True, transition=False, replace=False, stack_order=1,
            objects=(PatchedObject("vmlinux", ("cmdline_proc_show,1",), True),),
        ),
    )  # fmt: skip


def test_what_6_1_does_not_have_is_none(tmp_path: Path) -> None:
    fill(tmp_path, {
        "klp/enabled": "1\n", "klp/transition": "0\n", "klp/force": "", "klp/vmlinux/f,1": None,
    })  # fmt: skip
    assert listed(tmp_path) == (
        LivepatchState(
            name="klp", enabled=True, transition=False, replace=None, stack_order=None,
            objects=(PatchedObject("vmlinux", ("f,1",), None),),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("patched", [None, "1\n"])
def test_an_object_with_callbacks_alone_is_one(tmp_path: Path, patched: str | None) -> None:
    """As in livepatch-callbacks-demo; on 6.1 its folder is empty."""
    fill(tmp_path, {"klp/enabled": "1\n", "klp/transition": "0\n", "klp/vmlinux": None})
    if patched:
        fill(tmp_path, {"klp/vmlinux/patched": patched})
    [state] = listed(tmp_path)
    assert state.objects == (PatchedObject("vmlinux", (), True if patched else None),)


def test_no_livepatches(tmp_path: Path) -> None:
    assert listed(tmp_path) == ()


def test_a_kernel_without_livepatches(tmp_path: Path) -> None:
    assert listed(tmp_path / "none") == ()


# --- /proc ------------------------------------------------------------------------------------------

STACK = "[<0>] busymod_work_func+0x42/0x60 [livepatch_callbacks_busymod]\n[<0>] process_one_work+0x1\n"


def task(proc: Path, pid: int, tid: int, state: str | None, comm: str, stack: str | None = "") -> None:
    folder = f"{pid}/task/{tid}"
    files = {f"{folder}/comm": f"{comm}\n", f"{folder}/patch_state": state, f"{folder}/stack": stack}
    fill(proc, {name: text for name, text in files.items() if text is not None})


def test_only_tasks_in_another_state_are_pending(tmp_path: Path) -> None:
    task(tmp_path, 1, 1, "1\n", "init")
    task(tmp_path, 2, 2, "-1\n", "kthreadd")
    task(tmp_path, 189, 189, "0\n", "kworker/1:2", STACK)
    assert pending(tmp_path, "1") == (
        PendingTask(
            189, "kworker/1:2", 0,
            (
                "[<0>] busymod_work_func+0x42/0x60 [livepatch_callbacks_busymod]",
                "[<0>] process_one_work+0x1",
            ),
        ),
    )  # fmt: skip
    assert [each.pid for each in pending(tmp_path, "0")] == [1]


@pytest.mark.parametrize(
    ("flags", "kthread"), [(0x00200040, True), (0x00400040, False)], ids=["kthread", "user"]
)
def test_a_pending_task_is_told_with_its_state_and_kind(tmp_path: Path, flags: int, kthread: bool) -> None:
    task(tmp_path, 5, 5, "0\n", "a) R (b", STACK)
    fill(tmp_path, {"5/task/5/stat": f"5 (a) R (b) D 2 0 0 0 -1 {flags} 0 0\n"})
    [found] = pending(tmp_path, "1")
    assert (found.state, found.kthread, len(found.stack)) == ("D", kthread, 2)


def test_each_thread_counts(tmp_path: Path) -> None:
    task(tmp_path, 10, 10, "1\n", "main")
    task(tmp_path, 10, 11, "0\n", "worker a", "[<0>] a+0x1\n")
    task(tmp_path, 10, 12, "0\n", "worker b", "[<0>] b+0x1\n")
    found = pending(tmp_path, "1")
    assert {(each.pid, each.comm, each.stack) for each in found} == {
        (11, "worker a", ("[<0>] a+0x1",)),
        (12, "worker b", ("[<0>] b+0x1",)),
    }


def test_no_more_are_told_than_asked_for(tmp_path: Path) -> None:
    for pid in range(10, 15):
        task(tmp_path, pid, pid, "0\n", "held")
    assert len(pending(tmp_path, "1", at_most=3)) == 3


@pytest.mark.parametrize(
    "comm", ["task 0 7 x", "(sd-pam)", "a  b", " a", "*", "$(false)", "%s%n", "-n", "\\t"]
)
def test_names_may_be_anything(tmp_path: Path, comm: str) -> None:
    task(tmp_path, 5, 5, "0\n", comm)
    [found] = pending(tmp_path, "1")
    assert (found.pid, found.comm, found.stack) == (5, comm, ())


def test_a_task_that_goes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    task(tmp_path, 5, 5, None, "gone")
    task(tmp_path, 6, 6, "0\n", "here", None)
    assert [(each.pid, each.stack) for each in pending(tmp_path, "1")] == [(6, ())]


def test_nobody_is_pending(tmp_path: Path) -> None:
    assert pending(tmp_path, "1") == ()


def test_a_pending_task_in_one_line() -> None:
    assert PendingTask(5, "x", 0, ()).line() == "x[5] patch_state 0 in running, or no stack"
    assert PendingTask(5, "x", 1, ("[<0>] a+0x1 [m]", "[<0>] b")).line() == (
        "x[5] patch_state 1 in a+0x1 [m]"
    )
