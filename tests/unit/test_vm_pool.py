# SPDX-License-Identifier: Apache-2.0
"""The pool's promises, with counted stand-ins for guests: fresh ones only, never too many, none left."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from klp.errors import Interrupted
from klp.vm.hostlimits import HostFiles, usable_cpus
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


def test_guests_that_nobody_leased_end_with_the_pool():
    counted, both = Counted(), threading.Semaphore(0)

    @contextmanager
    def make():
        with counted.make() as number:
            both.release()
            yield number

    with Pool(make, 2):
        assert both.acquire(timeout=60)
        assert both.acquire(timeout=60)
    assert counted.made == 2
    assert counted.alive == 0


def test_a_pool_whose_guests_fail_closes_as_any_other():
    tried = threading.Event()

    def make():
        tried.set()
        raise OSError("none")

    with Pool(make, 1):
        assert tried.wait(60)


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
    ("available_kib", "asked", "fits"),
    [(8 << 20, 1, 1), (8 << 20, 0, 1), (100 << 10, None, 1), (100, 4, 1)],
)
def test_size_is_bounded(host, available_kib, asked, fits):
    host.meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {available_kib} kB\n")
    assert size_that_fits(1024, asked, host) == fits


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of six CPUs and 64 GiB, without control groups."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    files = HostFiles(tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "groups")
    files.meminfo.write_text(f"MemAvailable: {64 << 20} kB\n")
    files.groups.mkdir()
    return files


def grouped(host, own, **limits):
    """Put this process into a control group with limits, each named as its file."""
    host.own_groups.write_text(f"{own}\n")
    _, controllers, path = own.split(":")
    group = host.groups / controllers / path.lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    for name, text in limits.items():
        (group / name.replace("__", ".")).write_text(f"{text}\n")


def test_size_never_exceeds_the_cpus_that_may_be_used(host, monkeypatch):
    assert size_that_fits(1024, None, host) == 6
    assert size_that_fits(1024, 4, host) == 4
    host.meminfo.write_text(f"MemAvailable: {1300 << 10} kB\n")
    assert size_that_fits(1024, None, host) == 2
    host.meminfo.write_text(f"MemAvailable: {64 << 20} kB\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {5})
    assert size_that_fits(1024, None, host) == 1


@pytest.mark.parametrize(
    ("own", "limits", "fits"),
    [
        ("0::/job", {"cpu__max": "250000 100000"}, 2),
        ("0::/job", {"cpu__max": "max 100000"}, 6),
        ("0::/job", {"memory__max": 2 << 30, "memory__current": 100 << 20}, 3),
        ("0::/job", {"memory__max": "max", "memory__current": 5}, 6),
        ("0::/job", {"memory__max": 2 << 30, "memory__current": 2 << 30,
                     "memory__stat": f"anon 1\ninactive_file {1300 << 20}"}, 2),
        ("3:cpu,cpuacct:/job", {"cpu__cfs_quota_us": 300000, "cpu__cfs_period_us": 100000}, 3),
        ("3:cpu,cpuacct:/job", {"cpu__cfs_quota_us": -1, "cpu__cfs_period_us": 100000}, 6),
        ("4:memory:/job", {"memory__limit_in_bytes": 2 << 30, "memory__usage_in_bytes": 1 << 30}, 1),
        ("4:memory:/job", {"cpu__max": "100000 100000"}, 6),
    ],
)  # fmt: skip
def test_a_control_group_limits_it(host, own, limits, fits):
    grouped(host, own, **limits)
    assert size_that_fits(1024, None, host) == fits


def test_the_groups_above_limit_it_too(host):
    grouped(host, "0::/job", cpu__max="200000 100000")
    grouped(host, "0::/job/step", cpu__max="max 100000")
    assert usable_cpus(host) == 2


def test_a_container_sees_its_own_group_at_the_top(host):
    host.own_groups.write_text("0::/of/the/host\n")
    (host.groups / "cpu.max").write_text("100000 100000\n")
    assert usable_cpus(host) == 1
