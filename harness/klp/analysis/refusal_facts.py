# SPDX-License-Identifier: Apache-2.0
"""What a guest was like just after its kernel refused something, as far as that tells why. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RefusalFacts:
    """The state of a guest just after a refusal; what it did not tell is empty, or None.

    Attributes:
        livepatches: all that are there, to whether a transition of theirs is under way.
        module: what was refused, if it is in the kernel: ``live``, ``coming`` or ``going``.
        holders: the modules that use it.
        references: how often something holds it.
        ftrace_enabled: the sysctl ``kernel.ftrace_enabled``.
        redirected: the functions that a user of ftrace redirects (FTRACE_OPS_FL_IPMODIFY).
        probed: the functions with a kprobe.
        lockdown: the kernel's lockdown mode; ``none`` is none.
        modules_disabled: the sysctl ``kernel.modules_disabled``.
        signed_only: whether modules need a signature (``module.sig_enforce``).
        available_kib: memory that could be had.
    """

    livepatches: tuple[tuple[str, bool], ...] = ()
    module: str = ""
    holders: tuple[str, ...] = ()
    references: int | None = None
    ftrace_enabled: bool | None = None
    redirected: frozenset[str] = frozenset()
    probed: frozenset[str] = frozenset()
    lockdown: str = ""
    modules_disabled: bool = False
    signed_only: bool = False
    available_kib: int | None = None

    @property
    def moving(self) -> tuple[str, ...]:
        """The livepatches in transition: the kernel has one at a time."""
        return tuple(name for name, transition in self.livepatches if transition)


def read_refusal_facts(text: str) -> RefusalFacts:
    """Read what `klp.drive.refusal_facts` has a guest print: ``KEY VALUE`` lines, some keys repeated."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value.strip())

    def one(key: str) -> str:
        return found.get(key, [""])[-1]

    moving = (each.rpartition(" ") for each in found.get("livepatch", ()))
    ftrace, references, memory = one("ftrace_enabled"), one("references"), one("available")
    return RefusalFacts(
        livepatches=tuple((name, state == "1") for name, _, state in moving),
        module=one("module"),
        holders=tuple(found.get("holder", ())),
        references=int(references) if references.lstrip("-").isdigit() else None,
        ftrace_enabled=ftrace == "1" if ftrace else None,
        redirected=frozenset(found.get("redirected", ())),
        probed=frozenset(found.get("probed", ())),
        lockdown=one("lockdown"),
        modules_disabled=one("modules_disabled") == "1",
        signed_only=one("signed_only") == "Y",
        available_kib=int(memory) if memory.isdigit() else None,
    )
