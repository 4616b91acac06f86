# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a livepatch's structures: each fault is named with its way out, and nothing else."""

from __future__ import annotations

import re

import pytest

from klp.check.entries import entry_faults
from klp.modules.tables import FunctionEntry, LivepatchTables, ObjectEntry

SHOW = FunctionEntry("show", "new_show", 0)


def objects(*functions: FunctionEntry, name: str | None = None, ended: bool = True) -> ObjectEntry:
    return ObjectEntry(name, functions, ended, ())


def patch(*entries: ObjectEntry, ended: bool = True, unseen: tuple[str, ...] = ()) -> LivepatchTables:
    return LivepatchTables("patch", module=True, objects=entries, ended=ended, unseen=unseen)


@pytest.mark.parametrize(
    "right",
    [
        patch(objects(SHOW)),
        patch(objects(SHOW), objects(SHOW, name="loop")),
        patch(objects()),  # callbacks alone, with an empty array
        patch(objects(FunctionEntry("twin", "one", 1), FunctionEntry("twin", "two", 2))),
        patch(objects(FunctionEntry("x" * 511, "new", 0)), objects(SHOW, name="y" * 55)),
    ],
)
def test_what_is_right_is_passed_over(right: LivepatchTables) -> None:
    assert list(entry_faults(right)) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            LivepatchTables("patch", module=False, objects=(objects(SHOW),), ended=True),
            r"patch\.mod is NULL",
        ),
        (LivepatchTables("patch", module=True, objects=None, ended=True), r"patch\.objs is NULL"),
        (patch(objects(SHOW), ended=False), r"klp_object that patch\.objs points to has no end"),
        (patch(), "is an empty array: the kernel sees no object"),
        (patch(unseen=("pre_patch",)), r"sees no object .* the first has callbacks \(pre_patch\)"),
        (patch(objects(SHOW), unseen=("post_patch",)), "entry 2 of the array has callbacks"),
        (patch(objects(SHOW), objects()), "the object vmlinux is listed 2 times"),
        (patch(objects(SHOW, name="x" * 56)), "a name of 56 characters, of 55"),
        (patch(objects(SHOW, name="")), "is an empty string: for the kernel itself it is NULL"),
        (patch(ObjectEntry("loop", None, True, ())), r"the object loop has no \.funcs \(EINVAL\)"),
        (patch(objects(SHOW, ended=False)), "klp_func of vmlinux has no end"),
        (patch(objects(FunctionEntry(None, "new", 0))), r"whose \.new_func is new: \.old_name is missing"),
        (patch(objects(SHOW, FunctionEntry("", "new", 0))), r"entry 2 .*\.old_name is an empty string"),
        (patch(objects(FunctionEntry("show", None, 0))), r"show has no \.new_func: .*EINVAL"),
        (patch(objects(FunctionEntry("x" * 512, "new", 0))), "has 512 characters"),
        (patch(objects(SHOW, SHOW)), "EEXIST, for show of vmlinux is listed 2 times"),
        # No position is the first one: both have the folder show,1.
        (patch(objects(SHOW, FunctionEntry("show", "other", 1))), "show of vmlinux is listed 2 times"),
        (
            patch(objects(FunctionEntry("twin", "one", 2), FunctionEntry("twin", "two", 2))),
            "twin at position 2 of vmlinux is listed 2 times",
        ),
    ],
)
def test_what_is_wrong_is_named_once(wrong: LivepatchTables, says: str) -> None:
    [told] = entry_faults(wrong)
    assert re.search(says, told)
