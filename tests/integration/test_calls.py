# SPDX-License-Identifier: Apache-2.0
"""In a real guest: so many reads by so many tasks are so many calls of each function."""

from __future__ import annotations

import pytest

from klp.analysis.result import PatchedFunctions
from klp.drive.calls import CallCounter, CountedFunction, new_functions, originals
from klp.modules.build import build
from klp.modules.sources import find_source
from klp.progress import Silent
from klp.waiting import wait_until

pytestmark = pytest.mark.vm("6.12")

SOURCE = """// SPDX-License-Identifier: GPL-2.0-only
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static int show(struct seq_file *m, const char *what)
{
	seq_printf(m, "%s livepatched\\n", what);
	return 0;
}

static int read_often(struct seq_file *m, void *v)
{
	return show(m, "version");
}

static int never_read(struct seq_file *m, void *v)
{
	return show(m, "filesystems");
}

static notrace int not_traced(struct seq_file *m, void *v)
{
	return show(m, "cmdline");
}

static int not_probed(struct seq_file *m, void *v)
{
	return show(m, "uptime");
}
NOKPROBE_SYMBOL(not_probed);

static struct klp_func funcs[] = {
	{ .old_name = "version_proc_show", .new_func = read_often },
	{ .old_name = "filesystems_proc_show", .new_func = never_read },
	{ .old_name = "cmdline_proc_show", .new_func = not_traced },
	{ .old_name = "uptime_proc_show", .new_func = not_probed }, { }
};

static struct klp_object objs[] = { { .funcs = funcs }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };

static int __init counted_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit counted_exit(void)
{
}

module_init(counted_init);
module_exit(counted_exit);
MODULE_DESCRIPTION("Livepatch of which half the functions can be counted");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""
FILES = "/proc/version /proc/cmdline /proc/uptime"


@pytest.fixture(scope="module")
def livepatch(image, tmp_path_factory):
    source = tmp_path_factory.mktemp("counted") / "counted.c"
    source.write_text(SOURCE)
    [module] = build(find_source(str(source)), image.kernel, source.parent / "out", Silent())
    return module


def enable(lab):
    lab.guest.run("insmod /run/counted.ko").must("loading")
    lab.livepatches.wait_transition("counted", deadline_s=120, stuck=lambda tasks: None)


def remove(lab):
    lab.guest.run("echo 0 >/sys/kernel/livepatch/counted/enabled").must("disabling")
    gone = ["test", "!", "-d", "/sys/kernel/livepatch/counted"]
    wait_until(lambda: not lab.guest.run(gone).status, what="end of counted", timeout_s=120, every_s=0.2)
    lab.guest.run("rmmod counted").must("unloading")


def read(lab, tasks, times):
    """Have a number of tasks read the files, each a number of times."""
    reads = f"for time in {{1..{times}}}; do for file in {FILES}; do read -r line <$file; done; done"
    lab.guest.run(f"for task in {{1..{tasks}}}; do ({reads}); done").must("reading")


def test_so_many_calls_by_so_many_tasks_in_each_of_its_lives(lab, livepatch):
    lab.guest.put(livepatch.file, "/run/counted.ko")
    counter = CallCounter(lab.guest, new_functions(livepatch), "own")
    counter.arm()
    read(lab, tasks=2, times=1)
    assert [each.calls for each in counter.read()] == [0] * 4
    enable(lab)
    read(lab, tasks=5, times=3)
    often, never, untraced, unprobed = counter.read()
    assert sorted(each.calls for each in often.tasks) == [3] * 5
    assert (often.calls, never.calls, often.uncounted, never.uncounted) == (15, 0, "", "")
    assert "notrace" in untraced.uncounted
    assert "NOKPROBE_SYMBOL" in unprobed.uncounted
    remove(lab)
    read(lab, tasks=2, times=1)
    assert counter.read()[0] == often
    enable(lab)
    read(lab, tasks=2, times=2)
    remove(lab)
    after = counter.read()
    assert (after[0].calls, len(after[0].tasks), after[0].dropped) == (19, 7, 0)
    assert after[1].calls == 0
    counter.clear()
    assert [each.calls for each in counter.read()] == [0] * 4
    counter.disarm()
    assert "own" not in lab.guest.read("/sys/kernel/tracing/kprobe_events")


def test_the_kernel_is_asked_for_no_probe_that_it_then_refuses(lab):
    log = lab.guest.run("dmesg").must("reading the kernel log").stdout
    lines = [line for line in log.splitlines() if "trace_kprobe" in line]
    assert len(lines) == 2
    assert all("might be able to register after target module is loaded" in line for line in lines)


def test_originals_are_counted_and_one_of_several_is_found_by_its_place(lab, livepatch):
    version, *_ = originals(livepatch)
    listed = lab.guest.run("grep -c ' [tT] name_show$' /proc/kallsyms").stdout
    [last] = originals([PatchedFunctions(object="vmlinux", functions=(f"name_show,{int(listed)}",))])
    gone = CountedFunction("vmlinux", "name_show", "", "name_show", int(listed) + 1)
    counter = CallCounter(lab.guest, [version, last, gone], "old")
    counter.arm()
    read(lab, tasks=3, times=2)
    first, second, third = counter.read()
    assert sorted(each.calls for each in first.tasks) == [2] * 3
    assert (second.calls, second.uncounted) == (0, "")
    assert third.uncounted == f"vmlinux has no name_show number {int(listed) + 1} now"
    counter.disarm()


def test_functions_by_the_hundred_are_armed_by_one_command_in_memory_that_is_bounded(lab):
    before = used_kib(lab)
    many = [CountedFunction("later", "f", f"g{each}", f"later:g{each}") for each in range(300)]
    counter = CallCounter(lab.guest, many, "many")
    counter.arm()
    assert {each.uncounted for each in counter.read()} == {""}
    assert used_kib(lab) - before < 40 * 1024


def used_kib(lab):
    text = lab.guest.run("grep -E '^(Slab|Percpu|VmallocUsed):' /proc/meminfo").stdout
    return sum(int(line.split()[1]) for line in text.splitlines())
