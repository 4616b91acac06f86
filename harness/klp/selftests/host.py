# SPDX-License-Identifier: Apache-2.0
"""This machine, as it runs selftest scripts, each in a guest of its own."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from klp import settings
from klp.analysis.selftests import ScriptResult
from klp.errors import Interrupted, VmLost
from klp.images.cache import Cache
from klp.lab.lab import Lab
from klp.lab.warm import WarmStart, ensure_warm, warm_pool
from klp.paths import CacheLayout, cache_root
from klp.progress import Progress, Silent, teller, under_way
from klp.selftests.plan import ScriptUnit
from klp.selftests.script import lost_script, run_script
from klp.trace.tracer import PROBES
from klp.vm.pool import Pool, size_that_fits
from klp.work import Hosts


def perform_script(unit: ScriptUnit) -> ScriptResult:
    """Run a script on this machine; whatever befalls it or its guest is told in the result.

    Raises:
        HostLacks: this machine cannot run its guest.
        Interrupted: no further result is wanted.
    """
    return SELFTEST_HOSTS.of(unit.folder).perform(unit)


class SelftestsHost:
    """What this process has made ready for the scripts of one run.

    Args:
        jobs: guests at once; None for as many as this machine holds.
    """

    def __init__(self, cache: Cache, progress: Progress, jobs: int | None = None) -> None:
        self._cache = cache
        self._progress = progress
        self._jobs = jobs
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._pools: dict[str, tuple[Pool[Lab], WarmStart]] = {}

    def perform(self, unit: ScriptUnit) -> ScriptResult:
        """See `perform_script`."""
        if self._stop.is_set():
            raise Interrupted("no further result is wanted")
        pool, warm = self.ready(unit)
        try:
            with under_way(self._progress, unit.script.name):
                tell = teller(self._progress)
                tell("waiting for a guest")
                with pool.lease() as lab:
                    tell("")
                    return run_script(lab, unit, warm.probes, self._stop)
        except VmLost as lost:  # before the script: what befalls the guest later is the script's result
            return lost_script(unit, lost)

    def guests_at_once(self, unit: ScriptUnit, wanted: int) -> int:
        """Return how many guests are used at once, of those that `wanted` scripts could use."""
        return size_that_fits(unit.request.memory_mib, min(self._jobs or wanted, wanted))

    def ready(self, unit: ScriptUnit, wanted: int = 1) -> tuple[Pool[Lab], WarmStart]:
        """Return the guests that a unit's comes from; made ready where they are not yet, in minutes.

        Args:
            wanted: how many scripts could use one at once.

        Raises:
            HostLacks: this machine cannot run its guests.
            VmLost: the guest to be saved did not come up.
        """
        with self._lock:
            # Under the lock, minutes long as it is: two scripts that come at once would else both save a
            # guest.
            if unit.kernel not in self._pools:
                self._pools[unit.kernel] = self._make(unit, wanted)
            return self._pools[unit.kernel]

    def _make(self, unit: ScriptUnit, wanted: int) -> tuple[Pool[Lab], WarmStart]:
        # Untraced, a guest has no probes at all: one that watches nothing still takes its CPU.
        probes = PROBES if unit.traced else ()
        warm = ensure_warm(self._cache, unit.request, progress=self._progress, probes=probes)
        size = self.guests_at_once(unit, wanted)
        return self._stack.enter_context(warm_pool(warm, asked=size)), warm

    def close(self) -> None:
        """End every guest that waits to be used; a later unit begins anew."""
        with self._lock:
            self._pools.clear()
            self._stack.close()

    def stop(self) -> None:
        """End what is under way, from another thread: each script ends with Interrupted."""
        self._stop.set()


def _silent(folder: Path) -> SelftestsHost:
    del folder
    layout = CacheLayout(cache_root(settings.load().cache))
    return SelftestsHost(Cache(layout, Silent()), Silent())


SELFTEST_HOSTS = Hosts(_silent)
