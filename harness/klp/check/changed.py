# SPDX-License-Identifier: Apache-2.0
"""What is to be said of the functions that a livepatch changes, by what sysfs and kallsyms show. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from klp.analysis.result import PatchedFunctions
from klp.guest.livepatch import LivepatchState
from klp.modules.plan import module_name


def namesakes(listed: str, objects: Sequence[PatchedFunctions]) -> tuple[str, ...]:
    """Return, in words, the functions of `objects` that lines of /proc/kallsyms have several times."""
    return tuple(_namesakes(listed, objects))


def _namesakes(listed: str, objects: Sequence[PatchedFunctions]) -> Iterator[str]:
    fields = [line.split() for line in listed.splitlines()]
    counts = Counter((words[2], words[3].strip("[]") if len(words) > 3 else "vmlinux") for words in fields)
    for each in objects:
        for function in each.functions:
            name, _, position = function.partition(",")
            count = counts[name, each.object]
            # Of such a name klp_find_object_symbol (kernel/livepatch/core.c) refuses position 0 with
            # EINVAL, so the author gave one; and sources do not show in which order the kernel counts.
            if count > 1:
                yield (
                    f"{name} exists {count} times in {each.object}, and .old_sympos = {position} was "
                    "patched: is it the right one?"
                )


def unpatched(state: LivepatchState) -> tuple[str, ...]:
    """Return, in words, the objects of an enabled livepatch that are not patched, as sysfs shows it."""
    if not state.objects:
        return ("sysfs shows no object of it: an object with neither .name nor .funcs ends the array",)
    absent = [each.name for each in state.objects if each.patched is False]
    return tuple(
        f"its object {name} is not patched: no module of that name is loaded"
        + (f" (a module's name has underscores: {own}?)" if (own := module_name(name)) != name else "")
        for name in absent
    )
