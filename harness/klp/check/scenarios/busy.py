# SPDX-License-Identifier: Apache-2.0
"""A livepatch's life in a guest that is busy: forks, switches, files, memory, and its own functions called.

All of it goes on at once, in shells of the guest's own, and the guest has one CPU meanwhile: beside a busy
second one, each interrupt takes QEMU milliseconds, and 6.12 needs thousands of them (docs/facts.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from klp.check.background import in_background
from klp.check.scenario import scenario
from klp.check.scenarios.cpus import one_cpu
from klp.check.stage import Stage
from klp.drive.steps import Moment
from klp.errors import CheckFailed
from klp.waiting import DeadlineMissed, wait_until

_LIVES = 2
_BUSY_S = 60.0
_LOOK_S = 0.3
# Each goes on until its process group is killed. `memory` touches 16 MiB, holds it in tail and gives it
# back, and has the page cache dropped: pages are reclaimed beside the transition.
_LOADS = {
    "forks": "while :; do /bin/true; done",
    "switches": "while :; do echo; done | while read -r line; do echo; done >/dev/null",
    "files": "mkdir -p /run/klp/files; cd /run/klp/files; while :; do "
    "for i in 1 2 3 4 5 6 7 8; do echo $i >$i; done; cat 1 2 3 4 >all; rm -f 1 2 3 4 5 6 7 8 all; done",
    "memory": "while :; do head -c 16M /dev/zero | tail -c 16M | wc -c; "
    "echo 1 >/proc/sys/vm/drop_caches; done",
}


@dataclass(frozen=True, slots=True)
class _Work:
    """What /proc/stat counts: processes made and context switches, since boot."""

    processes: int
    switches: int


@scenario("under-load", "forks, switches, files, memory taken and given back, its functions called")
def under_load(stage: Stage) -> None:
    """The author's commands run in a loop, and must still show what they should when asked."""
    stage.set_up()
    one_cpu(stage)
    with _busy(stage):
        before = _work(stage)
        for _ in range(_LIVES):
            stage.load()
            stage.observe(Moment.ENABLED)
            stage.livepatch.disable()
            stage.observe(Moment.AFTER)
            stage.unload()
        after = _work(stage)
    forked, switched = after.processes - before.processes, after.switches - before.switches
    # A transition beside which nothing happened would prove nothing: so the numbers are told.
    called = " and ran its commands in a loop" if stage.commands else ""
    stage.note(f"the guest made {forked} processes and {switched} context switches meanwhile{called}")
    stage.tear_down()


@contextmanager
def _busy(stage: Stage) -> Iterator[None]:
    """Have the guest busy for the length of a block.

    Raises:
        CheckFailed: it does not get busy.
    """
    loads = dict(_LOADS)
    if stage.commands:
        loads["calls"] = f"while :; do {'; '.join(f'({each})' for each in stage.commands)}; done"
    begun = _work(stage)
    with in_background(stage.guest, "load", loads.values()):
        try:
            wait_until(
                # Four processes a loop are more than it takes to start them: by then the loops go round.
                lambda: _work(stage).processes > begun.processes + len(loads) * 4,
                what="load", timeout_s=_BUSY_S, every_s=_LOOK_S,
            )  # fmt: skip
        except DeadlineMissed as missed:
            raise CheckFailed(f"the guest did not get busy: {missed}") from None
        yield


def _work(stage: Stage) -> _Work:
    text = stage.guest.read("/proc/stat")
    processes, switches = (
        re.search(rf"^{word} (\d+)", text, re.MULTILINE) for word in ("processes", "ctxt")
    )
    if not processes or not switches:
        raise CheckFailed("/proc/stat of the guest counts no processes and switches")
    return _Work(int(processes[1]), int(switches[1]))
