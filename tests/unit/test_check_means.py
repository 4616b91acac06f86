# SPDX-License-Identifier: Apache-2.0
"""What the scenarios of klp check make on the host, and what they read in a guest, without a guest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from klp.check.scenarios.callees import CalleeSleeper, sleepers_in
from klp.check.scenarios.cpus import cpus_of
from klp.check.scenarios.ftrace_users import calls_in
from klp.check.scenarios.out_of_memory import chosen_numbers
from klp.errors import NotALivepatch
from klp.modules.modinfo import read_module
from klp.modules.rename import other_name, renamed

BANNER = Path(__file__).parents[1] / "data/modules/klp_version_banner.ko"


def test_a_copy_has_another_name_where_the_kernel_looks_and_is_equal_elsewhere(tmp_path: Path) -> None:
    module = read_module(BANNER)
    copy = renamed(module, tmp_path / "copies")
    assert copy.name == "klp_version_bannex" == other_name(module.name)
    old, new = BANNER.read_bytes(), copy.file.read_bytes()
    differing = [at for at, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    assert len(differing) == 2
    assert {chr(new[at]) for at in differing} == {"x"}
    assert copy.vermagic == module.vermagic
    assert copy.livepatch


def test_a_module_without_its_name_where_the_kernel_looks_is_refused(tmp_path: Path) -> None:
    other = replace(read_module(BANNER), name="banner")
    with pytest.raises(NotALivepatch, match="no name banner in its section"):
        renamed(other, tmp_path)


def test_a_name_that_ends_in_x_gets_another_letter() -> None:
    assert other_name("fix") == "fiy"


TRACED = """\
# tracer: function
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
             cat-279     [001] .....    93.103: cmdline_proc_show <-seq_read_iter
             cat-280     [001] .....    93.203: cmdline_proc_show <-seq_read_iter
             cat-280     [001] .....    93.204: klp_target_answer [klp_target] <-show
             cat-280     [001] .....    93.205: other <-cmdline_proc_show
"""
PROBED = """\
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
             cat-279     [001] .....    93.103: f1: (klp_target_answer+0x0/0x20 [klp_target])
     f0: x (-280     [000] ..... 93.2: f0: (seq_read_iter+0x1/0x2 <- cmdline_proc_show)
"""


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (TRACED, {"cmdline_proc_show": 2, "klp_target_answer": 1}),
        (PROBED, {"cmdline_proc_show": 1, "klp_target_answer": 1}),
        ("# tracer: nop\n", {}),
    ],
)
def test_calls_are_counted_by_function(text: str, seen: dict[str, int]) -> None:
    assert calls_in(text, ("cmdline_proc_show", "klp_target_answer")) == Counter(seen)


@pytest.mark.parametrize(("spans", "cpus"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0-1,3", [0, 1, 3])])
def test_a_list_of_cpus_is_read(spans: str, cpus: list[int]) -> None:
    assert cpus_of(spans) == cpus


STACKS = """\
/proc/272/task/272/stack-[<0>] msleep+0x2d/0x40
/proc/272/task/272/stack-[<0>] klp_waiter_wait+0x15/0x20 [klp_waiter]
/proc/272/task/272/stack:[<0>] klp_waiter_show+0x15/0x20 [klp_waiter]
--
/proc/273/task/273/stack-[<0>] seq_read_iter+0x1/0x20
/proc/273/task/273/stack:[<0>] livepatch_show+0x15/0x20 [klp_fix]
/proc/273/task/273/stack:[<0>] klp_waiter_show+0x15/0x20 [klp_waiter]
--
/proc/274/task/274/stack:[<0>] klp_waiter_show+0x15/0x20 [klp_waiter]
/proc/275/task/275/stack-[<0>] pipe_read+0x15/0x20
/proc/275/task/275/stack:[<0>] klp_waiter_show+0x15/0x20
"""


def test_who_sleeps_in_what_a_changed_function_calls_is_read_from_stacks() -> None:
    found = sleepers_in(STACKS, {("klp_waiter", "klp_waiter_show")}, "klp_fix")
    assert found == (
        CalleeSleeper(272, "klp_waiter:klp_waiter_wait", "klp_waiter_show"),
        CalleeSleeper(273, "seq_read_iter", "livepatch_show"),
    )
    assert [each.filter for each in found] == ["klp_waiter_wait:mod:klp_waiter", "seq_read_iter"]


@pytest.mark.parametrize(
    ("count", "own", "most", "numbers"),
    [
        (13, (2,), 4, (2, 1, 6, 10)),
        (3, (), 16, (1, 2, 3)),
        (3, (1, 2, 3), 2, (1, 2)),
        (2, (1, 2), 16, (1, 2)),
    ],
)
def test_allocations_that_fail_are_its_own_first_and_others_spread(
    count: int, own: tuple[int, ...], most: int, numbers: tuple[int, ...]
) -> None:
    assert chosen_numbers(count, own, most) == numbers
