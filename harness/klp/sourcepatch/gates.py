# SPDX-License-Identifier: Apache-2.0
"""What of a source patch cannot become a livepatch, each with its reason and what the author can do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from klp.sourcepatch.changes import Changes
from klp.sourcepatch.keys import key_obstacles
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.parts import Parts
from klp.sourcepatch.values import CompiledUnit, Obstacle, PreparedTree, Unit, Way
from klp.sourcepatch.variables import VariableDifference

_LEAVE_OUT = "leave this file out of the patch"
_CALLERS = "leave it as it is, and patch the functions that call it"
_THE_ONE_IT_RUNS = (
    "patch the function that it runs: a __weak one may be overridden by the architecture; other code comes "
    "of another compiler or configuration, or of a source that was edited after the kernel was built"
)
_NOT_RUNNING = "is no part of the running kernel"
# What a path says of a file, in the order in which it is asked.
_PATHS = tuple(
    (re.compile(pattern), reason, way_out)
    for pattern, reason, way_out in (
        (r"(^|/)Kconfig[^/]*$|(^|/)configs/|\.config$", "changes how the kernel is configured", _LEAVE_OUT),
        (r"(^|/)(Makefile|Kbuild)[^/]*$|\.mk$", "changes how the kernel is built", _LEAVE_OUT),
        (r"\.lds(\.S)?$|\.lds\.h$", "is a linker script, which places the whole kernel", _LEAVE_OUT),
        (r"(^|/)vdso(32|64)?/", "is of the vDSO, which runs in user space",
         "leave it out: processes have the old one mapped"),
        (r"\.(S|s|asm)$", "is assembler, which ftrace cannot redirect",
         "patch the C functions that call it"),
        (r"\.rs$|^rust/", "is Rust, of which no livepatch can be made", "patch the C code around it"),
        (r"^arch/\w+/(boot|purgatory|realmode)/|^drivers/firmware/efi/libstub/",
         f"{_NOT_RUNNING}: it runs before, or beside, the kernel", _LEAVE_OUT),
    )
)  # fmt: skip
_NO_CODE = re.compile(
    r"^(Documentation|LICENSES|tools|samples|scripts|usr|certs)/|(^|/)(MAINTAINERS|CREDITS|COPYING|README[^/]*)$"
    r"|\.(rst|txt|dts|dtsi|yaml|md)$|(^|/)\.[^/]+$"
)
_FREED = (".init.", ".exit.", ".meminit.", ".memexit.", ".devinit.")
_NEVER_TRACED = (".noinstr.", ".entry.", ".cpuidle.", ".spinlock.", ".kprobes.entry")
_SYSCALL = re.compile(r"__(?:do|se)_(?:compat_)?sys_(\w+)")
# Not -fpatchable-function-entry: x86 has it for the padding before functions (CONFIG_CALL_PADDING).
_TRACING = frozenset({"-mfentry", "-pg"})


class ChangedFile(Protocol):
    """A file that a patch changes: its path in the tree, its content before and after."""

    @property
    def path(self) -> str:
        """Relative to the tree."""

    @property
    def before(self) -> bytes | None:
        """None where the patch makes it."""

    @property
    def after(self) -> bytes | None:
        """None where the patch removes it."""


def text_obstacles(files: Sequence[ChangedFile]) -> tuple[Obstacle, ...]:
    """Return what a patch's files alone say against it, before anything is compiled."""
    if files and all(_NO_CODE.search(each.path) for each in files):
        names = ", ".join(sorted(each.path for each in files)[:3])
        reason = f"changes no code of the kernel: it is of {names}"
        return (Obstacle("", "", reason, "name a patch that changes a function"),)
    coded = [each for each in files if not _NO_CODE.search(each.path)]
    return tuple(found for each in coded if (found := _of_file(each)))


def _of_file(each: ChangedFile) -> Obstacle | None:
    for pattern, reason, way_out in _PATHS:
        if pattern.search(each.path):
            return Obstacle(each.path, "", reason, way_out)
    if each.before is None:
        way_out = f"put what it holds into a file of the kernel that {_uses(each.path)} it"
        return Obstacle(each.path, "", "is a new file, which no unit of the kernel is made of", way_out)
    if each.after is None:
        way_out = "leave it where it is, and change the functions that are to do less"
        return Obstacle(each.path, "", "is removed or renamed: the running kernel keeps its code", way_out)
    return None


def _uses(path: str) -> str:
    return "includes" if PurePosixPath(path).suffix == ".h" else "calls"


def unit_obstacles(units: Sequence[Unit]) -> tuple[Obstacle, ...]:
    """Return which units are built without ftrace, as lib/ is: nothing in them can be replaced.

    Their commands tell, so that nothing need be compiled.
    """
    reason = "is built without calls of ftrace, so that none of its functions can be replaced"
    return tuple(
        Obstacle(each.source, "", reason, _CALLERS)
        for each in units
        if not _TRACING & set(each.command.split())
    )


def obstacles(
    compiled: CompiledUnit, changes: Changes, tree: PreparedTree, differences: Mapping[str, str]
) -> tuple[Obstacle, ...]:
    """Return what stands against a livepatch of what a patch changes in a unit.

    Args:
        differences: functions of the unit that are not the running kernel's, and why (proof.differences).
    """
    file = compiled.unit.source
    plain = Parts(ObjectFile.of(compiled.plain))
    why = {each.name: f" (changed along: {each.why})" for each in changes.along}
    found = [
        Obstacle(file, _shown(name), reason + why.get(name, ""), way_out)
        for name in changes.replaced
        if (said := _of_function(name, changes, plain, tree.way, differences))
        for reason, way_out in [said]
    ]
    data = [
        Obstacle(file, each.name, reason, way_out)
        for each in changes.variables
        if (said := _of_variable(each, changes))
        for reason, way_out in [said]
    ]
    exports = [Obstacle(file, *each) for each in _exports(changes)]
    tables = [Obstacle(file, *each) for each in (*_registered(changes), *_new_for_boot(changes))]
    return (*found, *data, *exports, *tables, *key_obstacles(compiled.unit, changes, tree))


def _shown(name: str) -> str:
    found = _SYSCALL.fullmatch(name)
    return f"SYSCALL_DEFINE of {found[1]}, {name}" if found else name


def _of_function(
    name: str, changes: Changes, plain: Parts, way: Way, differences: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return why a function cannot be replaced, and the way out."""
    section = plain.section_of(name)
    if section is None:
        return ("is no function of its own in the kernel, only with a section for each function", _CALLERS)
    if found := _by_place(section, changes.before.functions[name].section, way):
        return found
    if not plain.traced(name):
        return _untraced(name)
    if why := differences.get(name):
        return (f"is not what this kernel runs: {why}", _THE_ONE_IT_RUNS)
    return None


def _by_place(section: str, own: str, way: Way) -> tuple[str, str] | None:
    """Return what its section says against a function; `own` is that with a section for each."""
    if section.startswith(_FREED):
        return (f"lies in {section}, which is freed when the kernel or the module is up",
                "leave it out; what it sets up can be set in a callback")  # fmt: skip
    if section.startswith(_NEVER_TRACED):
        return (f"lies in {section}, which ftrace never touches", _CALLERS)
    if way is Way.CREATE_DIFF_OBJECT and not own.startswith(".text"):
        return (f"lies in {own} with others (__sched and its like put it there), and create-diff-object "
                "takes functions in sections of their own only", _CALLERS)  # fmt: skip
    return None


def _untraced(name: str) -> tuple[str, str]:
    found = _SYSCALL.fullmatch(name)
    if found is None:
        return ("has no call of ftrace: it is notrace, or inline and not inlined everywhere", _CALLERS)
    return (
        "is the body of a system call, which is inline and so has no call of ftrace: only its wrapper "
        f"__x64_sys_{found[1]} has one",
        "leave the body as it is, and patch the functions that it calls",
    )


def _of_variable(each: VariableDifference, changes: Changes) -> tuple[str, str] | None:
    if each.is_new and each.is_static_local:
        users = ", ".join(each.users[:3]) or "a function"
        return (f"is a new static variable of {users}: the compiler only numbers those, so that another "
                "one could be taken for one of the running kernel's",
                "declare it outside of the function")  # fmt: skip
    if each.before is None:
        return None
    if each.for_boot_only:
        return ("changes data that is read at boot only, and freed then", "leave this change out")
    if each.after is not None:
        return (f"changes data: {each.how}; the running kernel's has its value already",
                "set it in a callback (pre_patch), or let the new code use a new variable")  # fmt: skip
    if each.is_static_local and each.before.writable and set(each.users) & set(changes.replaced):
        return (f"is a static variable of {', '.join(each.users[:3])}, and gone: what the running code "
                "keeps in it is lost, and found unchanged when the livepatch is disabled",
                "leave the variable in the function")  # fmt: skip
    return None


def _exports(changes: Changes) -> Iterator[tuple[str, str, str]]:
    before, after = changes.before.exports, changes.after.exports
    for name in sorted(after - before):
        yield (name, "is exported anew, which only a build of the kernel, or of the module, can do",
               "leave EXPORT_SYMBOL out; a livepatch finds symbols that are not exported")  # fmt: skip
    for name in sorted(before - after):
        yield (name, "is exported no longer: the running kernel goes on exporting it",
               "leave EXPORT_SYMBOL where it is")  # fmt: skip


def _registered(changes: Changes) -> Iterator[tuple[str, str, str]]:
    before, after = changes.before.registered, changes.after.registered
    for what in sorted(before.keys() | after.keys()):
        none: frozenset[str] = frozenset()
        for name in sorted(after.get(what, none) ^ before.get(what, none)):
            verb = "adds" if name in after.get(what, none) else "removes"
            yield (name, f"{verb} {what}: the running kernel has read that table already",
                   "leave it as it is; a callback of the livepatch can set up what is new")  # fmt: skip


def _new_for_boot(changes: Changes) -> Iterator[tuple[str, str, str]]:
    for name, part in changes.new_code.items():
        if name not in changes.before.functions and part.section.startswith(_FREED):
            yield (name, f"is new and lies in {part.section}: nothing would call it any more",
                   "let a callback of the livepatch do it")  # fmt: skip
