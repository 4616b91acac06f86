# SPDX-License-Identifier: Apache-2.0
"""BPF programs at the entry and the return of the functions that a livepatch changes.

A program of that kind (fentry, fexit) is called by a trampoline that ftrace calls directly, and where
one is at the return the trampoline calls the function itself: it must then call what the livepatch has
put in its place. Since 6.0 the two tell each other so, whichever comes first
(FTRACE_OPS_CMD_ENABLE_SHARE_IPMODIFY_SELF and _PEER, bpf_tramp_ftrace_ops_func in
kernel/bpf/trampoline.c).
"""

from __future__ import annotations

import json
import shlex
from collections import Counter

from klp import paths
from klp.check.scenario import scenario
from klp.check.scenarios.ftrace_users import both_orders
from klp.check.stage import NotApplicable, Stage
from klp.errors import CheckFailed

_PROGRAM = paths.IN_GUEST / "bpf_users.py"
_IN_GUEST = "/run/klp/bpf_users.py"
_PINNED = "/sys/fs/bpf/klp_check"
# As the program in the guest counts them.
_WHERE = ("return", "entry")


class _BpfUser:
    """BPF programs on the functions that the livepatch changes: `FunctionUser`."""

    def __init__(self, stage: Stage) -> None:
        self._guest = stage.guest
        self._stage = stage
        pairs = dict.fromkeys(stage.functions)
        if not pairs:
            raise NotApplicable("it changes no function, so there is none for a BPF program")
        self._functions = tuple(name if of == "vmlinux" else f"{of}:{name}" for of, name in pairs)
        self._refused: dict[str, str] | None = None
        self._seen: Counter[str] = Counter()
        self._guest.write(_IN_GUEST, _PROGRAM.read_bytes())

    def attach(self) -> None:
        """Attach the programs; what is refused before the livepatch is there is no fault of its.

        Raises:
            NotApplicable: no function takes one, without the livepatch.
            CheckFailed: one that was taken before is refused.
        """
        refused: dict[str, str] = json.loads(self._run("attach", *self._functions))
        self._seen = Counter()
        reasons = "; ".join(f"{where}: {why}" for where, why in refused.items())
        if self._refused is not None:
            new = {where: why for where, why in refused.items() if where not in self._refused}
            for where, why in new.items():
                raise CheckFailed(f"a BPF program is refused while it is enabled: {where}: {why}")
            return
        self._refused = refused
        if len(refused) == len(self._functions) * len(_WHERE):
            raise NotApplicable(f"none of its functions takes a BPF program: {reasons}")
        if reasons:
            self._stage.note(f"BPF: not on every function: {reasons}")

    def detach(self) -> None:
        """Take the programs away.

        Raises:
            CheckFailed: the kernel refuses.
        """
        self._guest.run(["rm", "-r", _PINNED]).must("detaching BPF programs")

    def calls(self) -> Counter[str]:
        """Return how often each program ran since the last time."""
        total: Counter[str] = Counter()
        names = [f"{each} at its {where}" for each in self._functions for where in _WHERE]
        for name, count in zip(names, json.loads(self._run("read")), strict=True):
            total[name] = count
        now, self._seen = total - self._seen, total
        return now

    def _run(self, action: str, *words: str) -> str:
        # -E -s -S: without site-packages Python starts in a third of the time.
        line = ["python3", "-E", "-s", "-S", _IN_GUEST, action, _PINNED, *words]
        return self._guest.run(shlex.join(line)).must("BPF programs").stdout


@scenario(
    "bpf-user", "BPF programs (fentry, fexit) are on its functions, from before it and from after it",
    informed=True,
)  # fmt: skip
def bpf_user(stage: Stage) -> None:
    """What a BPF program does at a function's return depends on who calls the function."""
    both_orders(stage, _BpfUser(stage))
