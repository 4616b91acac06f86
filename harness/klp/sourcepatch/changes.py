# SPDX-License-Identifier: Apache-2.0
"""What a patch changes in a unit: the functions it is about, and those changed along by the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from klp.sourcepatch.declared import DeclaredFunction, declared_functions
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.parts import Part, Parts, owner
from klp.sourcepatch.touched import Touched, touched_functions
from klp.sourcepatch.values import CompiledUnit
from klp.sourcepatch.variables import VariableDifference, changed_variables

_COLD = ".cold"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ChangedAlong:
    """A function that the patch does not touch, and whose code differs all the same: `why`, in words."""

    name: str
    why: str

    @property
    def words(self) -> str:
        """It in one line."""
        return f"{self.name}: {self.why}"


@dataclass(frozen=True)
class Changes:
    """What is not the same in a unit's objects before and after a patch.

    Attributes:
        before: the parts of the unit before.
        after: and after.
        functions: functions that the patch changes, by their symbols in the kernel, such as ``f.isra.0``;
            a ``.cold`` piece counts as a part of its function.
        along: functions that are changed by the compiler only, because of others.
        added: functions and variables that are new.
        variables: the variables that differ.
        warnings: what the author should know, in words.
    """

    before: Parts
    after: Parts
    functions: tuple[str, ...]
    along: tuple[ChangedAlong, ...]
    added: tuple[str, ...]
    variables: tuple[VariableDifference, ...]
    warnings: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether the patch changes no code and no data of the unit: comments, or what is not compiled."""
        exported = self.before.exports == self.after.exports
        return exported and not (self.functions or self.along or self.added or self.variables)

    @property
    def replaced(self) -> tuple[str, ...]:
        """All functions of the kernel that a livepatch replaces."""
        return tuple(sorted((*self.functions, *(each.name for each in self.along))))

    @cached_property
    def new_code(self) -> Mapping[str, Part]:
        """The code that the livepatch has instead, and that which is new to the unit."""
        known = {*self.replaced, *self.added}
        pieces = self.after.functions.items()
        return {name: part for name, part in pieces if name.removesuffix(_COLD) in known}


def changes_of(compiled: CompiledUnit, before_text: str | bytes, after_text: str | bytes) -> Changes:
    """Return what differs between a unit's objects before and after.

    Args:
        before_text: the unit's C file before.
        after_text: the patched one.
    """
    before, after = (Parts(ObjectFile.of(each)) for each in (compiled.before, compiled.after))
    differ = _differing(before.functions, after.functions)
    source, wanted = compiled.unit.source, {owner(name) for name in differ}
    was = declared_functions(compiled.before, source, wanted)
    touched = touched_functions(
        _text(before_text), _text(after_text), {name: each.line for name, each in was.items()}
    )
    # Reading debug information takes a second or two for a large unit.
    clear = wanted <= touched.functions
    becomes = {} if clear else declared_functions(compiled.after, source, wanted)
    reasons = _Reasons(before, after, was, becomes, touched, frozenset(differ))
    why = {name: reasons.of(name) for name in differ}
    variables = changed_variables(before, after)
    new = [name for name in after.functions if name not in before.functions and not name.endswith(_COLD)]
    return Changes(
        before, after,
        tuple(name for name in differ if not why[name]),
        tuple(ChangedAlong(name, because) for name, because in why.items() if because),
        (*sorted(new), *(each.name for each in variables if each.before is None)),
        variables,
        tuple(_new_variable(each) for each in variables if each.is_new and not each.is_static_local),
    )  # fmt: skip


def _text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode(errors="replace")


def _differing(before: Mapping[str, Part], after: Mapping[str, Part]) -> list[str]:
    """Return the functions of both whose code, or whose piece for unlikely cases, is not the same."""

    def same(name: str) -> bool:
        old, new = before.get(name), after.get(name)
        return old is new if old is None or new is None else old.same_as(new)

    names = {name.removesuffix(_COLD) for name in before.keys() | after.keys() if not same(name)}
    return sorted(name for name in names if name in before and name in after)


def _new_variable(each: VariableDifference) -> str:
    user = f"{', '.join(each.users[:_SHOWN])}: " if each.users else ""
    return (
        f"{user}the variable {each.name} is new: it begins at its initial value whenever the livepatch is "
        "loaded, and is gone when it is unloaded"
    )


@dataclass(frozen=True)
class _Reasons:
    """Why functions changed; names of symbols for code, names in the source for what is written."""

    before: Parts
    after: Parts
    was: Mapping[str, DeclaredFunction]
    becomes: Mapping[str, DeclaredFunction]
    touched: Touched
    differ: frozenset[str]

    def of(self, name: str) -> str:
        """Return why a function that the patch does not touch changed; empty where the patch touches it."""
        source = owner(name)
        if source in self.touched.functions or not self._knows_lines:
            return ""
        inlined = self._inlines(source) & self.touched.functions
        if inlined:
            return f"inlines {_listed(inlined)}"
        if self.touched.mentions.get(source, frozenset()) & self.touched.outside:
            return ""
        return self._by_compiler(name, source) or self._otherwise()

    @property
    def _knows_lines(self) -> bool:
        # Where the patch changes nothing in the unit's own file, it does so by a header.
        return bool(self.was) and bool(self.touched.functions or self.touched.outside)

    def _inlines(self, source: str) -> frozenset[str]:
        return frozenset().union(*(e[source].inlines for e in (self.was, self.becomes) if source in e))

    def _by_compiler(self, name: str, source: str) -> str:
        old, new = (
            each[source].inlines if source in each else frozenset() for each in (self.was, self.becomes)
        )
        calls, called = (self._calls(each, name) for each in (self.after, self.before))
        # A function that changed itself is no news where it is inlined or called now and then.
        about = {owner(each) for each in self.differ | self._moved} | self.touched.functions
        if now := (new - old) & about:
            return f"inlines {_listed(now)} now"
        if no_more := (old - new) & about:
            return f"no longer inlines {_listed(no_more)}"
        if gained := (calls - called) & self._moved:
            return f"calls {_listed(gained)}, which the compiler made"
        if lost := (called - calls) & self._moved:
            return f"no longer calls {_listed(lost)}, which the compiler dropped"
        if both := calls & called & self.differ - {name}:
            return f"calls {_listed(both)}, and relies on which registers it leaves alone"
        return ""

    def _otherwise(self) -> str:
        return "" if self.touched.outside else "the compiler laid it out in another way"

    @property
    def _moved(self) -> frozenset[str]:
        """Symbols of code that are in one of the objects only: the compiler splits and merges functions."""
        return frozenset(self.before.functions.keys() ^ self.after.functions.keys())

    @staticmethod
    def _calls(parts: Parts, name: str) -> frozenset[str]:
        pieces = [parts.functions[each] for each in (name, name + _COLD) if each in parts.functions]
        return frozenset(each.target for piece in pieces for each in piece.references if each.calls) - {
            name,
            name + _COLD,
        }


def _listed(names: frozenset[str] | set[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
