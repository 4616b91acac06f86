# SPDX-License-Identifier: Apache-2.0
"""The only place that sleeps: every wait has a deadline and says what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineMissed(Exception):
    """`wait_until` gave up. No `KlpError`: each caller knows what it means, and raises one of its own.

    Attributes:
        what: what was waited for, in words.
        waited_s: seconds from the first look to the last.
    """

    def __init__(self, what: str, waited_s: float) -> None:
        super().__init__(f"no {what} within {waited_s:.1f} s")
        self.what = what
        self.waited_s = waited_s


def wait_until(look: Callable[[], T | None], *, what: str, timeout_s: float, every_s: float) -> T:
    """Call `look` until it returns something true, and return that.

    Args:
        look: returns a truthy value when the wait is over; may raise to end it early.
        what: named in the error.
        timeout_s: seconds until giving up; one last look is taken at the deadline.
        every_s: seconds between looks.

    Raises:
        DeadlineMissed: nothing truthy came in time.
    """
    begun = time.monotonic()
    while True:
        found = look()
        if found:
            return found
        waited = time.monotonic() - begun
        if waited >= timeout_s:
            raise DeadlineMissed(what, waited)
        time.sleep(min(every_s, max(timeout_s - waited, 0.001)))
