# SPDX-License-Identifier: Apache-2.0
"""Our own rules on a selftest's trace and kernel log: a second opinion beside the script's own result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from klp.analysis.evidence import Evidence
from klp.analysis.history import history
from klp.analysis.plan_checks import none_lost
from klp.analysis.result import Check, check
from klp.analysis.rule_checks import rule_checks, rule_name
from klp.analysis.rules.registry import RuleVerdict, judge_all
from klp.klog.lines import without_stamp
from klp.records.verdicts import judge_run
from klp.trace.events import LoggedLine
from klp.trace.observer import STREAM
from klp.trace.reading import BadTrace
from klp.trace.store import EventStore, TornStream

_LOG_RULE = "L6"


def trace_checks(events: Path) -> tuple[Check, ...]:
    """Return the verdicts on a script's recorded events; the file may be one of an older run."""
    with EventStore(Path(os.devnull)) as store:
        # Checked for gaps first: where a stream is torn, a rule would take what is missing for what did
        # not happen.
        store.append(events.read_bytes().splitlines())
        try:
            store.check()
            verdicts = judge_run(events)
        except (TornStream, BadTrace) as torn:
            return (check("trace whole", False, torn.message),)
        seen = store.since()
    return (none_lost(seen), *rule_checks(verdicts))


def log_checks(lines: Sequence[str], judged: Sequence[Check] = ()) -> tuple[Check, ...]:
    """Return the verdict of the one rule that judges log lines (L6), on those that a script brought.

    Return nothing where that rule is among those `judged` on the trace: the trace has the same lines.
    """
    if rule_name(_LOG_RULE) in {each.name for each in judged}:
        return ()
    events = [
        LoggedLine(probe=STREAM, seq=number, ts_ns=number, text=without_stamp(line), expected=None)
        for number, line in enumerate(lines)
    ]
    return rule_checks(tuple(_without_numbers(judge_all(history(enumerate(events, 1)), [_LOG_RULE]))))


def _without_numbers(verdicts: Sequence[RuleVerdict]) -> Iterator[RuleVerdict]:
    """Yield verdicts on events that are in no file: their numbers would be taken for lines of one."""
    for each in verdicts:
        yield replace(each, evidence=tuple(Evidence(events=(), words=one.words) for one in each.evidence))
