# SPDX-License-Identifier: Apache-2.0
"""Our own rules on a selftest's trace: a second opinion, independent of what the script says.

This is the one place where verdicts on a script's trace and kernel log come from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.checks import alarm_check, check, loss_check, shadow_check
from harness.analysis.result import Check
from harness.analysis.shadow import shadow_ledger
from harness.guest.klog import alarms
from harness.trace.store import EventStore, TornStream


def trace_checks(events: Path) -> tuple[Check, ...]:
    """Return the verdicts on a script's recorded events; the file may be one of an older run."""
    with EventStore(Path(os.devnull)) as store:
        store.append(events.read_bytes().splitlines())
        try:
            store.check()
        except TornStream as torn:
            return (check("trace whole", False, torn.message),)
        seen = store.since()
    return (loss_check(seen), shadow_check(shadow_ledger(seen)))


def log_checks(lines: Sequence[str]) -> tuple[Check, ...]:
    """Return the verdicts on the kernel's log lines of a script's span (L6)."""
    return (alarm_check(alarms(tuple(lines))),)
