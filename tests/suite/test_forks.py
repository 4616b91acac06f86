# SPDX-License-Identifier: Apache-2.0
"""Children that are born while their parents have still to switch (klp_copy_process, transition.c)."""

from __future__ import annotations

import pytest

from klp import wait_until

_PARENTS = 3
# clone() tells its caller the child's pidfd in the middle of the fork, by writing to the caller's memory.
_FORK = """\
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
file = os.open("/proc/klp_holder_fault", os.O_RDWR)
memory = ctypes.c_void_p(libc.mmap(None, 4096, 3, 1, file, ctypes.c_long(0)))
SYS_clone, CLONE_PIDFD, SIGCHLD = 56, 0x1000, 17
pid = libc.syscall(SYS_clone, ctypes.c_long(CLONE_PIDFD | SIGCHLD), None, memory, None, None)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.klp_rules("T4", "T5", "T11", "T13")
def test_a_pending_task_has_pending_children(guest, holder, fix, passes, let_go, trace):
    holder("")
    for _ in range(_PARENTS):
        guest.run(f"python3 -c '{_FORK}' </dev/null >/dev/null 2>/run/fork.log &").must("forking")
    wait_until(
        lambda: guest.read("/proc/klp_holder").endswith(f"inside {_PARENTS}"),
        what=f"{_PARENTS} tasks held in the middle of a fork", timeout_s=60, every_s=0.1,
    )  # fmt: skip
    fix.load(wait=False)
    passes(fix, 1)
    let_go()
    fix.wait()
    [leg] = trace.history().legs
    assert leg.forks_pending
