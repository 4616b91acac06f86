# SPDX-License-Identifier: Apache-2.0
"""Why the kernel refused a livepatch: its own words in the log, and what they mean for the author. Pure.

The words are those of kernel/livepatch/core.c, patch.c, kernel/module/ and kmod, 6.1 to 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from klp.analysis.history import History
from klp.analysis.refusal_causes import causes_of
from klp.analysis.refusal_facts import RefusalFacts

# The first pattern that a line fits counts, so what is special stands before what is general (klp_
# symbols). The handler that cannot be registered: livepatch asks ftrace for FTRACE_OPS_FL_IPMODIFY, which a
# function gives to one user only (kernel/trace/ftrace.c); a kprobe with a post-handler has it, too.
_MEANINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"symbol '(?P<name>[^']+)' not found in symbol table",
         "no function {name} in this kernel or module: renamed, inlined everywhere, or given a suffix "
         "such as .isra.0 by the compiler"),
        (r"unresolvable ambiguity for symbol '(?P<name>[^']+)' in object '(?P<object>[^']+)'",
         "several functions are called {name} in {object}; .old_sympos says which one is meant"),
        (r"symbol position (?P<position>\d+) for symbol '(?P<name>[^']+)' in object '(?P<object>[^']+)'",
         "there are fewer than {position} functions called {name} in {object}: .old_sympos is wrong"),
        (r"module (?P<name>\S+) is not marked as a livepatch module",
         'MODULE_INFO(livepatch, "Y") is missing'),
        (r"(?P<name>\S+): version magic '(?P<own>[^']*)' should be '(?P<kernel>[^']*)'",
         "built for another kernel: {own}, and this one is {kernel}"),
        (r"Unknown symbol (?P<name>klp_\w+) \(err -?\d+\)",
         "{name} is for GPL-compatible modules only: see MODULE_LICENSE"),
        (r"Unknown symbol (?P<name>\S+) \(err -?\d+\)",
         "{name} is not exported to modules on this kernel"),
        (r"pre-patch callback failed for object '(?P<object>[^']+)'",
         "its pre-patch callback for {object} returned the error"),
        (r"Livepatch patch \(\S+\) is not compatible with the already installed livepatches",
         "its system states do not fit those that are installed"),
        (r"failed to register ftrace handler for function '(?P<name>[^']+)' \((?P<errno>-?\d+)\)",
         "another user of ftrace that changes where {name} goes holds it (error {errno})"),
        (r"failed to find location for function '(?P<name>[^']+)'",
         "{name} has no ftrace location: notrace, or too early in boot"),
        (r"kallsyms size lookup failed for '(?P<name>[^']+)'",
         "{name} has no size in kallsyms"),
        (r"symbol (?P<name>\S+) is not marked as a livepatch symbol",
         "a klp relocation names {name}, which is no livepatch symbol"),
        (r"(?P<name>\S+): module is already loaded|duplicate filename '/module/(?P<other>\S+)'",
         "a module of that name is loaded already"),
        (r"Module (?P<name>\S+) is in use",
         "{name} is in use: something took a reference of it and did not put it back"),
    )
)  # fmt: skip


_NO_FACTS = RefusalFacts()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something the kernel refused.

    Attributes:
        action: ``load``, ``unload``, ``disable``, …
        subject: the module.
        errno: its name, such as ``EINVAL``.
        said: what insmod, rmmod or the shell said.
        no_exit: whether it has an init function, and none for its exit.
        faults: what is wrong with its structures, each with the errno that the kernel has for it.
        functions: those that it changes.
        facts: of the guest, just after.
    """

    action: str
    subject: str
    errno: str
    said: str
    no_exit: bool = False
    faults: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    facts: RefusalFacts = _NO_FACTS


def refused(refusal: Refusal, log: Sequence[str], history: History | None) -> str:
    """Return a refusal with what it means, and the kernel's own words.

    Args:
        log: the kernel log's lines, without stamps, since the scenario began.
        history: its trace, which knows the states of both sides.
    """
    if refusal.action == "unload" and refusal.no_exit:
        return (
            f"unload of {refusal.subject} was refused with {refusal.errno}: it has no module_exit(), and a "
            "module with an init function and no exit function is never removed; if it is to stay, "
            'patch.toml can say so: stays = "REASON"'
        )
    states = "; ".join(_states(history, refusal.subject)) if history and refusal.action == "load" else ""
    why = states or _causes(refusal, log) or meaning(log) or meaning((refusal.said,)) or refusal.said
    return f"{refusal.action} of {refusal.subject} was refused with {refusal.errno}: {why}"


def _causes(refusal: Refusal, log: Sequence[str]) -> str:
    if refusal.action == "load" and failed_pre_patch(log):
        return ""  # the errno is the author's own
    return causes_of(
        refusal.action, refusal.subject, refusal.errno,
        faults=refusal.faults, functions=refusal.functions, facts=refusal.facts,
    )  # fmt: skip


def follows(refusal: Refusal, report: Sequence[str]) -> bool:
    """Whether a report in the kernel log is but what the kernel says of the refusal itself."""
    # sysfs shows the stack of who asks for a name that is there (sysfs_warn_dup, fs/sysfs/dir.c).
    return refusal.errno == "EEXIST" and any("sysfs_warn_dup" in line for line in report)


def meaning(log: Sequence[str]) -> str:
    """Return what the last telling line of a log means, with the line; empty if none tells."""
    for line in reversed(log):  # the last: an earlier one may be of another livepatch
        for pattern, words in _MEANINGS:
            if found := pattern.search(line):
                parts = {name: part or "" for name, part in found.groupdict().items()}
                return f"{words.format(**parts)} ({line.strip()})"
    return ""


def failed_pre_patch(log: Sequence[str]) -> bool:
    """Whether a pre-patch callback refused the livepatch."""
    return any("pre-patch callback failed for object" in line for line in log)


def _states(history: History, livepatch: str) -> Iterator[str]:
    """Yield why klp_is_patch_compatible() refused a livepatch, by state (kernel/livepatch/state.c)."""
    refusals = [each for _, each in history.states.decisions if each.patch == livepatch]
    if not refusals or refusals[-1].compatible:
        return
    last = refusals[-1]
    own = {state.id: state.version for state in last.states}
    for below in last.installed:
        for state in below.states:
            version = own.get(state.id)
            if version is None and last.replace:
                yield (
                    f"being cumulative, it does not carry state {state.id:#x}, which {below.patch} has "
                    f"installed in version {state.version}"
                )
            elif version is not None and version < state.version:
                yield (
                    f"it carries state {state.id:#x} in version {version}, and {below.patch} has installed "
                    f"version {state.version}: a version may not go down"
                )
