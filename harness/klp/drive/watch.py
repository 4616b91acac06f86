# SPDX-License-Identifier: Apache-2.0
"""What somebody who watches a run as it goes has to offer."""

from __future__ import annotations

from typing import Protocol

from klp.guest.livepatch import PendingTask
from klp.trace.events import AnyEvent


class Watch(Protocol):
    """Gets what happens in a run while it happens; called from several threads."""

    def event(self, event: AnyEvent) -> None:
        """Take an event as a probe, or klp, wrote it."""

    def slow(self, tasks: tuple[PendingTask, ...]) -> None:
        """Take the tasks that hold a transition which lasts, with their kernel stacks."""
