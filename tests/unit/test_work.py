# SPDX-License-Identifier: Apache-2.0
"""Units handed to an executor: what is collected, what an error ends, and whose host performs them."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from klp.work import Hosts, collect


def double(unit: int) -> int:
    if unit == 13:
        raise ValueError(unit)
    return 2 * unit


def submit(executor: Executor, unit: int) -> Future[int]:
    return executor.submit(double, unit)


def test_what_comes_of_each_unit_is_taken_with_it() -> None:
    found: dict[int, int] = {}
    with ThreadPoolExecutor(2) as workers:
        collect(workers, range(5), submit, found.__setitem__, lambda: pytest.fail("nothing failed"))
    assert found == {unit: 2 * unit for unit in range(5)}


def test_an_error_stops_what_is_under_way_and_what_was_not_begun() -> None:
    begun, stopped = [], threading.Event()

    def slowly(unit: int) -> int:
        begun.append(unit)
        if unit:
            assert stopped.wait(60)
        return double(unit or 13)

    with ThreadPoolExecutor(2) as workers, pytest.raises(ValueError, match="13"):
        collect(workers, range(9), lambda own, unit: own.submit(slowly, unit), lambda *_: None, stopped.set)
    assert len(begun) <= 3  # one failed, two threads at once


def test_an_interrupt_while_taking_stops_as_well() -> None:
    stopped = threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as workers, pytest.raises(KeyboardInterrupt):
        collect(workers, range(3), submit, interrupt, stopped.set)
    assert stopped.is_set()


class Counted:
    """A host that knows whether it was closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.closed = folder, 0

    def close(self) -> None:
        self.closed += 1


def test_a_process_has_one_host_for_the_work_in_a_folder() -> None:
    hosts = Hosts(Counted)
    made = hosts.of(Path("/a"))
    assert hosts.of(Path("/a")) is made
    assert hosts.of(Path("/b")) is not made
    own = Counted(Path("/c"))
    with hosts.serving(Path("/c"), own) as host:
        assert hosts.of(Path("/c")) is host is own
        assert not own.closed
    assert own.closed == 1
    assert hosts.of(Path("/c")) is not own
