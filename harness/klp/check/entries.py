# SPDX-License-Identifier: Apache-2.0
"""What the kernel refuses, or never sees, in a livepatch's own structures. Pure.

By klp_enable_patch(), klp_init_patch_early(), klp_init_object() and klp_init_func() of
kernel/livepatch/core.c, 6.1 to 7.2: nearly all of them return EINVAL, and none says a word in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from klp.modules.tables import FunctionEntry, LivepatchTables, ObjectEntry

# include/linux/kallsyms.h: KSYM_NAME_LEN, 512 bytes since 6.1, with the one that ends it.
LONGEST_FUNCTION = 511
# include/linux/module.h: MODULE_NAME_LEN, 64 bytes less a long of 8, and less the byte that ends it.
LONGEST_MODULE = 55


def entry_faults(patch: LivepatchTables) -> Iterator[str]:
    """Yield what is wrong with a klp_patch, whatever kernel it is for, a sentence each."""
    if not patch.module:
        yield f"{patch.variable}.mod is NULL, and klp_enable_patch() wants THIS_MODULE there (EINVAL)"
    if patch.objects is None:
        yield f"{patch.variable}.objs is NULL: it names no object that is to be changed (EINVAL)"
        return
    if not patch.ended:
        yield (
            f"the array of klp_object that {patch.variable}.objs points to has no end: the kernel reads on "
            "behind it; an empty entry, { }, ends it"
        )
    if patch.unseen:
        yield _unseen(patch, len(patch.objects))
    elif not patch.objects:
        yield f"{patch.variable}.objs is an empty array: the kernel sees no object in it"
    names = Counter(each.shown for each in patch.objects)
    for name, times in names.items():
        if times > 1:
            yield (
                f"the object {name} is listed {times} times: sysfs has one folder for it (EEXIST); all "
                "functions of an object belong into one array"
            )
    for each in patch.objects:
        yield from _object_faults(each)


def _unseen(patch: LivepatchTables, before: int) -> str:
    which = f"entry {before + 1} of the array" if before else "the first"
    return (
        "the kernel sees no object in an entry that has neither .name nor .funcs, for that ends the array: "
        f"{which} has callbacks ({', '.join(patch.unseen)}), which never run; for callbacks alone .funcs "
        "takes an empty array, { { } }"
    )


def _object_faults(entry: ObjectEntry) -> Iterator[str]:
    name = entry.name or ""
    if len(name) > LONGEST_MODULE:
        yield f"the object {name[:20]}… has a name of {len(name)} characters, of {LONGEST_MODULE} (EINVAL)"
    if entry.name == "":
        yield "an object's .name is an empty string: for the kernel itself it is NULL"
    if entry.functions is None:
        yield (
            f"the object {entry.shown} has no .funcs (EINVAL): for callbacks alone it takes an empty "
            "array, { { } }"
        )
        return
    if not entry.ended:
        yield (
            f"the array of klp_func of {entry.shown} has no end: the kernel reads on behind it, and takes "
            "what lies there for functions; an empty entry, { }, ends it"
        )
    for number, each in enumerate(entry.functions, 1):
        yield from _function_faults(entry.shown, number, each)
    # Each function has a folder in sysfs, NAME,POSITION (klp_init_object_loaded(), klp_init_func()).
    folders = Counter((each.old, each.position or 1) for each in entry.functions if each.old)
    for (old, position), times in folders.items():
        if times > 1:
            which = f"{old} at position {position}" if position > 1 else old
            yield (
                f"klp_enable_patch() returns EEXIST, for {which} of {entry.shown} is listed {times} times: "
                "sysfs has one folder for it"
            )


def _function_faults(shown: str, number: int, entry: FunctionEntry) -> Iterator[str]:
    which = f"entry {number} of the functions of {shown}"
    if not entry.old:
        what = "is an empty string" if entry.old == "" else "is missing"
        to = f", whose .new_func is {entry.new}" if entry.new else ""
        yield f"{which}{to}: .old_name {what} (EINVAL)"
    elif len(entry.old) > LONGEST_FUNCTION:
        yield (
            f"{which}: .old_name has {len(entry.old)} characters, and no function's name has more than "
            f"{LONGEST_FUNCTION} (EINVAL)"
        )
    if entry.new is None:
        yield (
            f"{entry.old[:60] if entry.old else which} has no .new_func: klp_enable_patch() returns EINVAL "
            "for it, and the log has no word of it"
        )
