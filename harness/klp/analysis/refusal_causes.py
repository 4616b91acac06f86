# SPDX-License-Identifier: Apache-2.0
"""Why the kernel refused something, where its log has no word of it: by errno and facts. Pure.

docs/refusals.md has every place in the kernel's source that refuses, 6.1 to 7.2, with what tells it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from klp.analysis.refusal_facts import RefusalFacts


def causes_of(
    action: str, subject: str, errno: str, *, faults: tuple[str, ...], functions: tuple[str, ...],
    facts: RefusalFacts,
) -> str:  # fmt: skip
    """Return what the facts say of a refusal, with the way out; empty if they say nothing.

    Args:
        action: ``load``, ``unload``, ``disable``, ``enable`` or ``force``.
        subject: the module.
        errno: its name.
        faults: what is wrong with the livepatch's structures; those that the kernel refuses name the errno.
        functions: those that it changes.
        facts: of the guest, just after.
    """
    if action == "load":
        found = [each for each in faults if errno in each]
        if errno == "EBUSY":
            # do_init_module() makes EBUSY of an init function's EEXIST since 7.0 (kernel/module/main.c).
            found = [f"{each}, of which the loader makes EBUSY" for each in faults if "EEXIST" in each]
        finder = _LOAD.get(errno)
        found += finder(subject, functions, facts) if finder else ()
    elif action == "unload":
        found = list(_unload(subject, errno, facts))
    else:
        found = list(_written(action, subject, errno, facts))
    if errno == "EINVAL" and faults:  # all are true of the livepatch; the kernel stops at the first
        return "; ".join(found)
    return _one_of(found)


def _one_of(causes: list[str]) -> str:
    # Each may have been it; which the kernel met, nothing tells.
    return f"one of: {'; '.join(causes)}" if len(causes) > 1 else "".join(causes)


def _exists(subject: str, _: tuple[str, ...], facts: RefusalFacts) -> Iterator[str]:
    if subject in dict(facts.livepatches):
        yield (
            f"the livepatch {subject} is loaded and enabled already: write 0 to "
            f"/sys/kernel/livepatch/{subject}/enabled, then rmmod {subject}"
        )
    elif facts.module:
        yield f"a module of that name is loaded already: rmmod {subject}"


def _busy(subject: str, functions: tuple[str, ...], facts: RefusalFacts) -> Iterator[str]:
    yield from _in_transition(facts)
    if facts.module in ("coming", "going"):
        yield f"a module of that name is {facts.module} just now: wait until it has loaded, or is gone"
    if facts.ftrace_enabled is False:
        yield "kernel.ftrace_enabled is 0, and a livepatch needs ftrace: sysctl kernel.ftrace_enabled=1"
    for each in functions:
        if each in facts.redirected:
            who = "a kprobe with a post-handler" if each in facts.probed else "another user of ftrace"
            yield f"{who} redirects {each}, which a function allows to one at a time: remove it first"


def _in_transition(facts: RefusalFacts) -> Iterator[str]:
    for each in facts.moving:
        yield (
            f"{each} is in transition, and the kernel has one transition at a time: wait until "
            f"/sys/kernel/livepatch/{each}/transition says 0"
        )


def _not_permitted(_: str, __: tuple[str, ...], facts: RefusalFacts) -> Iterator[str]:
    if facts.modules_disabled:
        yield "kernel.modules_disabled is 1: no module is loaded until the next boot"
    if facts.lockdown not in ("", "none"):
        yield (
            f"the kernel is locked down ({facts.lockdown}) and loads signed modules only: sign it, or boot "
            "without lockdown="
        )


def _bad_key(_: str, __: tuple[str, ...], facts: RefusalFacts) -> Iterator[str]:
    if facts.signed_only:
        yield "the kernel loads signed modules only (module.sig_enforce): sign it with a key that it knows"
    else:
        yield "its signature is by a key that the kernel does not know, or was broken by strip"


def _no_memory(_: str, __: tuple[str, ...], facts: RefusalFacts) -> Iterator[str]:
    had = (
        "" if facts.available_kib is None else f" ({facts.available_kib // 1024} MiB could be had after it)"
    )
    yield f"the kernel got no memory for it{had}: give the guest more, and see what else takes it"


def _no_device(_: str, __: tuple[str, ...], ___: RefusalFacts) -> Iterator[str]:
    yield "its init function or a callback returned it"
    yield "ftrace or livepatch switched itself off after a failure: the log has its warning; boot anew"


_Finder = Callable[[str, tuple[str, ...], RefusalFacts], Iterator[str]]
_LOAD: dict[str, _Finder] = {
    "EEXIST": _exists,
    "EBUSY": _busy,
    "EPERM": _not_permitted,
    "EKEYREJECTED": _bad_key,
    "ENOKEY": _bad_key,
    "ENOMEM": _no_memory,
    "ENODEV": _no_device,
}


def _unload(subject: str, errno: str, facts: RefusalFacts) -> Iterator[str]:
    if errno == "EAGAIN" and facts.holders:
        first = facts.holders[0]
        yield f"{subject} is used by {', '.join(facts.holders)}: rmmod {first} first"
    elif errno == "EAGAIN" and subject in dict(facts.livepatches):
        yield f"it is still enabled: write 0 to /sys/kernel/livepatch/{subject}/enabled first"
    elif errno == "EBUSY" and facts.module in ("coming", "going"):
        yield f"it is {facts.module} just now: its init or exit function has not returned"
    elif errno == "ENOENT" and not facts.module:
        yield f"{subject} is not loaded"


def _written(action: str, subject: str, errno: str, facts: RefusalFacts) -> Iterator[str]:
    if errno == "EBUSY":
        yield from _in_transition(facts)
    elif errno == "EINVAL" and action == "force":
        yield f"{subject} is not in transition, so there is nothing to force"
    elif errno == "EINVAL" and action == "enable":
        yield (
            "a livepatch that is enabled stays so, and one that was disabled to the end can only be "
            "unloaded and loaded again"
        )
    elif errno == "EINVAL":
        yield f"{subject} is disabled already"
    elif errno == "ENOENT":
        yield f"{subject} is not in /sys/kernel/livepatch: it is not enabled"
