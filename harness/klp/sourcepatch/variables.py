# SPDX-License-Identifier: Apache-2.0
"""Which variables of a unit a patch changes, adds or removes; not those that macros bring along."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klp.sourcepatch.parts import Part, Parts, is_numbered, stable

# What WARN_ONCE, printk, lockdep, __func__, ratelimits and switch statements bring along. New code has its
# own: nobody else knows of them, so that their state may begin anew.
_ALONG = re.compile(
    r"(__already_done|__warned|__func__|__FUNCTION__|__PRETTY_FUNCTION__|__key|_rs|descriptor|_entry"
    r"|_entry_ptr|CSWTCH|\.L.*)(\.\d+)?|__UNIQUE_ID_.*|__BTF_ID__.*|__tracepoint_.*|__tpstrtab_.*"
    r"|__kstrtab.*|__ksymtab.*|__initcall_.*|__setup_str_.*|__addressable_.*"
)
_ALONG_SECTIONS = (
    ".data.once", ".data..once", ".data..Lubsan", ".discard.", "__dyndbg", "__ksymtab", ".export_symbol",
    ".modinfo", ".printk_index", "__bug_table", ".BTF_ids", "__param", "__tracepoints",
)  # fmt: skip
_INIT = (".init.", ".initcall")


@dataclass(frozen=True, slots=True)
class VariableDifference:
    """A variable that is not the same before and after.

    Attributes:
        name: in the source.
        before: None where it is new.
        after: None where it is gone.
        users: the functions that refer to it.
    """

    name: str
    before: Part | None
    after: Part | None
    users: tuple[str, ...]

    @property
    def is_static_local(self) -> bool:
        """Whether it is a static variable inside a function, which the compiler numbers."""
        part = self.after or self.before
        return part is not None and is_numbered(part.symbol)

    @property
    def is_new(self) -> bool:
        """Whether it is new, and can be written to."""
        return self.before is None and self.after is not None and self.after.writable

    @property
    def for_boot_only(self) -> bool:
        """Whether the kernel frees it when it has booted."""
        part = self.after or self.before
        return part is not None and part.section.startswith(_INIT)

    @property
    def how(self) -> str:
        """What changed in it, in words; only where it is in both."""
        if self.before is None or self.after is None:
            return ""
        old, new = len(self.before.content), len(self.after.content)
        if old != new:
            return f"it was {old} bytes long, and would be {new}"
        if self.before.content == self.after.content:
            return "it would point to something else"
        return "it has another initial value"


def changed_variables(before: Parts, after: Parts) -> tuple[VariableDifference, ...]:
    """Return the variables that differ between two compiles of a unit."""
    found: list[VariableDifference] = []
    old, new = before.variables, after.variables
    for name in sorted(old.keys() | new.keys()):
        mine = [each for each in old.get(name, ()) if not _comes_along(each)]
        theirs = [each for each in new.get(name, ()) if not _comes_along(each)]
        gone, come = _unmatched(mine, theirs), _unmatched(theirs, mine)
        users = _users(name, (before if gone else after).functions) if gone or come else ()
        for at in range(max(len(gone), len(come))):
            was, becomes = (each[at] if at < len(each) else None for each in (gone, come))
            found.append(VariableDifference(name, was, becomes, users))
    return tuple(found)


def _comes_along(part: Part) -> bool:
    return bool(_ALONG.fullmatch(part.symbol)) or part.section.startswith(_ALONG_SECTIONS)


def _unmatched(parts: Sequence[Part], others: Sequence[Part]) -> list[Part]:
    """Return the parts that have no like among `others`, each of which is like one only."""
    left = list(others)
    found = []
    for part in parts:
        like = next((each for each in left if part.same_as(each)), None)
        if like is None:
            found.append(part)
        else:
            left.remove(like)
    return found


def _users(name: str, functions: Mapping[str, Part]) -> tuple[str, ...]:
    return tuple(
        sorted(
            function
            for function, part in functions.items()
            if any(each.target == stable(name) for each in part.references)
        )
    )
