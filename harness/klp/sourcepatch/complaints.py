# SPDX-License-Identifier: Apache-2.0
"""What objtool and create-diff-object say where no livepatch can be made of a patch, put into words."""

from __future__ import annotations

import re
from typing import NamedTuple

_KEY_HINT = "write static_key_enabled(&{1}) in {0}: it reads the key, and no code has to be rewritten"
_CALL_HINT = "call what the static call leads to by its name in {0}"
_DATA_HINT = "leave it as it is; a callback (post_patch) can set a variable while the livepatch is loaded"


class Complaint(NamedTuple):
    """Why a unit's change cannot be a livepatch's.

    Attributes:
        reason: in words, with the function or variable.
        hint: what the author can do; empty where nothing is known.
    """

    reason: str
    hint: str = ""


class _Known(NamedTuple):
    pattern: re.Pattern[str]
    reason: str
    hint: str


# Those that name a function come before those that only count; {0} is a pattern's first group.
_KNOWN = (
    # create-diff-object of kpatch 0.9.10, then objtool of v7.2 (tools/objtool/klp-diff.c).
    _Known(
        re.compile(r"Found a jump label at (\S+)\(\)\+0x\w+, using key (\S+?)(?:,|\.\s)"),
        "{0}: tests the static key {1}, which a livepatch cannot do where the key is a module's", _KEY_HINT,
    ),
    _Known(
        re.compile(r"error: .*?(\S+)\+0x\w+: unsupported static branch key (\S+)\. "),
        "{0}: tests the static key {1}, which a livepatch cannot do where the key is a module's", _KEY_HINT,
    ),
    _Known(
        re.compile(r"Found a static call at (\S+)\(\)\+0x\w+, using key (\S+?),"),
        "{0}: makes the static call {1}, which a livepatch cannot do where the call is a module's",
        _CALL_HINT,
    ),
    _Known(
        re.compile(r"error: .*?(\S+)\(\)\+0x\w+: unsupported static call key (\S+)\. "),
        "{0}: makes the static call {1}, which a livepatch cannot do where the call is a module's",
        _CALL_HINT,
    ),
    _Known(
        re.compile(r"symbol changed sections: (\S+)"),
        "{0}: it would lie in another section, as data does that has become zero, or no longer is",
        _DATA_HINT,
    ),
    _Known(
        re.compile(r"changed section \.(?:data|rodata|bss)(?:\.\.\w+)?\.(\S+) not selected"),
        "{0}: its initial value changes, which the running kernel never looks at again", _DATA_HINT,
    ),
    _Known(
        re.compile(r"changed data: (\S+)"),
        "{0}: its initial value changes, which the running kernel never looks at again", _DATA_HINT,
    ),
    _Known(
        re.compile(r"changed section (\.(?:init|exit)\.text\S*) not selected"),
        "code in {0} changes, which the kernel does not run again", "change what runs later",
    ),
    _Known(
        re.compile(r"changed section (\.(?:sched|noinstr|entry|spinlock|kprobes|cpuidle)\.text\S*) not"),
        "code in {0} changes, a section of which create-diff-object takes no function",
        "change a function that calls it",
    ),
    _Known(
        re.compile(r"changed section (?:\.export_symbol|_*ksymtab\S*) not selected"),
        "it exports other symbols", "a livepatch cannot export for the kernel: keep what is exported",
    ),
    _Known(
        re.compile(r"function (\S+) has no fentry/mcount call"),
        "{0}: ftrace cannot reach it (notrace)", "change a function that calls it",
    ),
    _Known(re.compile(r"changed section (\S+) not selected"), "section {0} changes", ""),
)  # fmt: skip


def complaint_in(output: str) -> Complaint | None:
    """Return what a program complains of, if it is known here."""
    for pattern, reason, hint in _KNOWN:
        if found := pattern.search(output):
            groups = [each or "" for each in found.groups()]
            return Complaint(reason.format(*groups), hint.format(*groups))
    return None
