# SPDX-License-Identifier: Apache-2.0
"""The pool's promises, with counted stand-ins for guests: fresh ones only, never too many, none left."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from klp.errors import Interrupted
from klp.vm.pool import Pool, size_that_fits


class Counted:
    """Makes numbered stand-ins and counts how many are alive."""

    def __init__(self, broken=()):
        self.made = self.alive = self.most = 0
        self.threads = set()
        self._broken = set(broken)
        self._lock = threading.Lock()

    @contextmanager
    def make(self):
        with self._lock:
            self.made += 1
            number = self.made
            self.threads.add(threading.current_thread().name)
            if number in self._broken:
                raise OSError(f"no {number}")
            self.alive += 1
            self.most = max(self.most, self.alive)
        try:
            yield number
        finally:
            with self._lock:
                self.alive -= 1


def test_every_lease_is_fresh_and_never_more_than_size_are_alive():
    counted = Counted()
    with Pool(counted.make, 3) as pool:
        seen = []
        for _ in range(20):
            with pool.lease() as one, pool.lease() as other:
                seen += [one, other]
    assert len(set(seen)) == 40
    assert counted.most <= 3
    assert counted.alive == 0
    assert counted.threads == {"pool"}


def test_a_lease_that_fails_ends_its_guest_and_the_next_is_fresh():
    counted = Counted()
    with Pool(counted.make, 1) as pool:
        with pytest.raises(ZeroDivisionError), pool.lease() as first:
            raise ZeroDivisionError
        with pool.lease() as second:
            assert second != first
            assert counted.alive == 1
    assert counted.alive == 0


def test_a_guest_that_does_not_start_is_told_to_its_lease_alone():
    counted = Counted(broken={1})
    with Pool(counted.make, 1) as pool:
        with pytest.raises(OSError, match="no 1"), pool.lease():
            pass
        with pool.lease() as second:
            assert second == 2


def test_many_threads_share_it():
    counted, seen = Counted(), []

    def work(pool):
        for _ in range(10):
            with pool.lease() as number:
                seen.append(number)

    with Pool(counted.make, 2) as pool:
        threads = [threading.Thread(target=work, args=(pool,)) for _ in range(5)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(seen) == len(set(seen)) == 50
    assert counted.most <= 2
    assert counted.alive == 0


def test_nobody_waits_for_a_guest_of_a_pool_that_is_closed():
    counted, told = Counted(), []

    def work(pool):
        try:
            with pool.lease():
                told.append("leased")
        except Interrupted as error:
            told.append(error.message)

    pool = Pool(counted.make, 1)
    pool.__enter__()
    with pool.lease():  # the only one, so that the others wait
        waiting = [threading.Thread(target=work, args=(pool,), daemon=True) for _ in range(3)]
        for each in waiting:
            each.start()
        pool._closing.set()
    pool.__exit__(None, None, None)
    for each in waiting:
        each.join(20)
    assert told == ["no further guest is to be had"] * 3
    assert counted.alive == 0


@pytest.mark.parametrize(
    ("available_kib", "asked", "fits"), [(8 << 20, 1, 1), (100 << 10, None, 1), (100, 4, 1)]
)
def test_size_is_bounded(tmp_path, available_kib, asked, fits):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {available_kib} kB\n")
    assert size_that_fits(1024, asked, meminfo) == fits


def test_size_never_exceeds_cores(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemAvailable: {64 << 20} kB\n")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert size_that_fits(1024, None, meminfo) == 6
    assert size_that_fits(1024, 4, meminfo) == 4
    meminfo.write_text(f"MemAvailable: {1300 << 10} kB\n")
    assert size_that_fits(1024, None, meminfo) == 2
