# SPDX-License-Identifier: Apache-2.0
"""A refusal with all that is known of what was refused: its file, and the guest just after."""

from __future__ import annotations

from dataclasses import replace

from klp.analysis.refusal_facts import RefusalFacts
from klp.analysis.refusals import Refusal
from klp.check.candidate import Candidate
from klp.check.entries import entry_faults
from klp.drive.subject import Refused
from klp.errors import HostLacks
from klp.guest.errnos import name_of
from klp.modules.modinfo import can_be_removed
from klp.modules.tables import LivepatchTables, tables_of


def refusal_of(error: Refused, candidate: Candidate) -> Refusal:
    """Return what was refused, and what may tell why."""
    module = candidate.modules.get(error.subject)
    tables: tuple[LivepatchTables, ...] = ()
    if module is not None and module.livepatch:
        try:
            tables = tables_of(module, candidate.kernel)
        except HostLacks:  # a kernel without BTF: the guest's own facts still tell
            tables = ()
    entries = [each for table in tables for each in table.objects or ()]
    functions = (each.old for entry in entries for each in entry.functions or () if each.old)
    return Refusal(
        error.action, error.subject, name_of(error.errno), error.said,
        no_exit=module is not None and not can_be_removed(module.file),
        faults=tuple(fault for table in tables for fault in entry_faults(table)),
        functions=tuple(dict.fromkeys(functions)),
        facts=error.facts if module is None or module.livepatch else _of_a_plain_module(error.facts),
    )  # fmt: skip


def _of_a_plain_module(facts: RefusalFacts) -> RefusalFacts:
    # Neither a transition nor a sysctl of ftrace's keeps a module that is no livepatch from being loaded.
    return replace(facts, livepatches=(), ftrace_enabled=None)
