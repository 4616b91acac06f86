# SPDX-License-Identifier: Apache-2.0
"""A trace in which every rule can be seen to hold: what a long session on one guest would write."""

from __future__ import annotations

from klp.trace import events as ev
from tests.unit.traces import SHELL, Trace, task

SLEEPING = {3: ("sleeping", "cmdline_proc_show")}


def everything(kernel: str = "6.12.117") -> Trace:
    """Return the trace; each part is one of the functions below."""
    t = Trace(kernel)
    t.put(ev.Plan, name="everything", livepatch="p", moment="begin")
    for part in (held_up, reversed_disabling, target_module, stacked, refused, cancelled, replaced, forced,
                 loaded_again, shadow, seen):  # fmt: skip
        t.wait(2_000)
        part(t)
    t.wait(2_000)
    t.put(ev.Plan, name="everything", livepatch="p", moment="end")
    return t.end()


def compatible(
    t: Trace,
    patch: str,
    own: dict[int, int],
    installed: dict[str, dict[int, int]],
    good: bool,
    **fields: bool,
) -> None:
    def states(of: dict[int, int]) -> tuple[ev.State, ...]:
        return tuple(ev.State(id=id_, version=version) for id_, version in of.items())

    t.put(
        ev.Compatible, patch=patch, replace=fields.get("replace", False), states=states(own),
        installed=tuple(ev.Installed(patch=name, states=states(of)) for name, of in installed.items()),
        compatible=good,
    )  # fmt: skip


def held_up(t: Trace) -> None:
    """A first livepatch waits 17 passes for a sleeping task, and the core signals it on the way."""
    begun = t.now
    compatible(t, "p", {1: 1}, {}, True)
    t.begin_enabling("p")
    parent, child = task(1, "task1"), task(4, "task4")
    t.tasks[4] = 0
    t.pending.add(4)
    t.put(ev.Fork, child=child, child_state=0, child_pending=True, parent=parent, parent_state=0,
          parent_pending=True)  # fmt: skip
    t.try_once({2: ("running", None), **SLEEPING})
    t.put(ev.Enable, at=begun, patch="p", replace=False, errno=0, duration_ns=t.now - begun)
    t.switch(2, "exit")
    for _ in range(15):
        t.wait(1_000)
        with t.try_all(SLEEPING):
            if t.core.signals_cnt == 16:
                t.put(ev.Signals, patch="p", core=t.core)
    t.wait(1_000)
    with t.try_all(), t.completing():
        t.callback("p", "post_patch")
    for version, state, count in (("old", 0, 3), ("new", 1, 40), ("new", -1, 1)):
        t.put(ev.Ran, patch="p", object="vmlinux", function="cmdline_proc_show", version=version,
              patch_state=state, target=1, count=count, task=SHELL)  # fmt: skip
    t.stacked("complete")
    t.sysfs(p=True)
    t.put(ev.Control, patch="p", target=1, passes=17, duration_ns=17_000_000_000)


def reversed_disabling(t: Trace) -> None:
    """Disabling waits for a sleeping task, and is reversed."""
    t.begin_disabling("p")
    t.try_once(SLEEPING)
    t.wait(500)
    t.put(ev.Reverse, patch="p", target=1, core=t.core)
    t.pending.clear()
    t.set_core(target_state=1, enabled=True)
    t.start()
    t.wait(500)
    with t.try_all(), t.completing():
        t.callback("p", "post_patch")


def target_module(t: Trace) -> None:
    """A module comes and goes, twice, that `p` has an object for."""
    comes = ("coming", "patch", "pre_patch", "post_patch")
    goes = ("going", "unpatch", "pre_unpatch", "post_unpatch")
    for action, object_, before, after in (comes, goes, comes, goes):
        begun = t.now
        t.callback("p", before, "target")
        t.object("p", "target", object_, functions=("target_show",), transition=False)
        t.callback("p", after, "target")
        t.put(ev.ModuleNotice, at=begun, module="target", action=action, livepatch=False, errno=0,
              duration_ns=t.now - begun)  # fmt: skip


def stacked(t: Trace) -> None:
    """A second livepatch on the same function, with a state of its own and one that is installed."""
    compatible(t, "q", {1: 2, 7: 1}, {"p": {1: 1}}, True)
    begun = t.now
    t.begin_enabling("q")
    q, p = ev.State(id=1, version=2), ev.State(id=1, version=1)
    t.put(ev.StateGet, call="get", patch="q", id=1, found=q, caller="pre [q]", task=SHELL)
    t.put(ev.StateGet, call="get_prev", patch=None, id=1, found=p, caller="pre [q]", task=SHELL)
    with t.try_all(), t.completing():
        t.callback("q", "post_patch")
    t.stacked("complete")
    t.put(ev.Enable, at=begun, patch="q", replace=False, errno=0, duration_ns=t.now - begun)


def refused(t: Trace) -> None:
    """A livepatch with an old version of a state, and a cumulative one that lacks a state."""
    installed = {"p": {1: 1}, "q": {1: 2, 7: 1}}
    for patch, states, replace in (("old", {1: 1}, False), ("poor", {1: 2}, True)):
        begun = t.now
        compatible(t, patch, states, installed, False, replace=replace)
        t.put(ev.Enable, at=begun, patch=patch, replace=replace, errno=-22, duration_ns=t.now - begun)


def cancelled(t: Trace) -> None:
    """A livepatch whose second object's pre-patch callback fails."""
    begun = t.now
    compatible(t, "bad", {}, {"p": {1: 1}, "q": {1: 2, 7: 1}}, True)
    t.stack.append("bad")
    t.init("bad", 1)
    t.callback("bad", "pre_patch")
    t.object("bad", functions=("other_show",))
    t.callback("bad", "pre_patch", "busy", result=-19)
    t.put(ev.Cancel, patch="bad", core=t.core)
    t.set_core(target_state=0)
    with t.completing():
        t.object("bad", action="unpatch", functions=("other_show",))
        t.callback("bad", "post_unpatch")
    t.freed("bad")
    t.put(ev.Enable, at=begun, patch="bad", replace=False, errno=-19, duration_ns=t.now - begun)
    t.step("load", "bad", errno=-19)


def replaced(t: Trace) -> None:
    """A cumulative livepatch replaces both, with a no-op for the function that it does not change."""
    begun = t.now
    compatible(t, "z", {1: 2, 7: 1}, {"p": {1: 1}, "q": {1: 2, 7: 1}}, True, replace=True)
    both = ("other_show", "cmdline_proc_show")
    t.begin_enabling("z", True, functions=both, nops=("cmdline_proc_show",))
    with t.try_all(), t.completing(True):
        for each in ("p", "q"):
            t.put(ev.Replaced, patch=each, by="z")
            t.object(each, action="unpatch")
        t.object("z", action="unpatch", functions=both, nops=("cmdline_proc_show",), nops_only=True)
        t.callback("z", "post_patch")
    t.stacked("complete")
    for each in ("p", "q"):
        t.freed(each)
    t.put(ev.Enable, at=begun, patch="z", replace=True, errno=0, duration_ns=t.now - begun)


def forced(t: Trace) -> None:
    """Disabling waits for a sleeping task, and is forced."""
    t.begin_disabling("z")
    t.try_once(SLEEPING)
    t.put(ev.Force, patch="z", core=t.core)
    t.switch(3, "force")
    t.census("forced")
    t.wait(1_000)
    t.finish_disabling("z", forced=True, functions=("other_show",))


def loaded_again(t: Trace) -> None:
    """A livepatch is loaded, disabled, unloaded, and loaded again."""
    for _ in range(2):
        compatible(t, "y", {}, {}, True)
        t.enable("y")
        t.step("load", "y")
        t.wait(100)
        t.disable("y")
        t.step("disable", "y")
        t.wait(100)
        t.step("unload", "y")


def shadow(t: Trace) -> None:
    """Every way for a shadow variable to be made, found, refused and freed."""
    made(t, "alloc", "0x1", 1, "made", "0xa1", ctor=True)
    made(t, "alloc", "0x1", 1, "exists", None, ctor=True)
    made(t, "alloc", "0x2", 1, "made", "0xa2", zeroed=True)
    made(t, "get_or_alloc", "0x3", 2, "made", "0xa3", ctor=True)
    made(t, "get_or_alloc", "0x3", 2, "found", "0xa3", ctor=True)
    made(t, "get_or_alloc", "0x4", 2, "failed", None, ctor=True)
    begun = t.now
    freed(t, "0x1", 1, "0xa1")
    t.put(ev.ShadowFree, at=begun, obj="0x1", id=1, dtor=True, freed=True, caller="f+0x1 [y]", task=SHELL)
    made(t, "alloc", "0x5", 2, "made", "0xa5", zeroed=True)
    begun = t.now
    freed(t, "0x3", 2, "0xa3")
    freed(t, "0x5", 2, "0xa5")
    t.put(ev.ShadowFreeAll, at=begun, id=2, dtor=True, count=2, duration_ns=t.now - begun + 10,
          caller="f+0x9 [y]", task=SHELL)  # fmt: skip
    t.wait(1)
    begun = t.now
    freed(t, "0x2", 1, "0xa2")
    t.put(ev.ShadowFree, at=begun, obj="0x2", id=1, dtor=True, freed=True, caller="f+0x1 [y]", task=SHELL)
    t.module("y", "going", livepatch=True)
    t.put(ev.ShadowGets, id=1, found=5, absent=2, racing=1, wrong=0, unknown=0,
          raced_right=1)  # fmt: skip
    t.put(ev.ShadowTotals, made=4, found=1, exists=1, failed=1, freed=4)


def made(
    t: Trace, call: str, obj: str, id_: int, result: str, variable: str | None, ctor: bool = False,
    zeroed: bool | None = None,
) -> None:  # fmt: skip
    ran = ctor and result in ("made", "failed")
    t.put(
        ev.ShadowAlloc, call=call, obj=obj, id=id_, size=8, flags=0, ctor=ctor, ctor_calls=int(ran),
        ctor_result=(-12 if result == "failed" else 0) if ran else None, result=result, variable=variable,
        zeroed=zeroed, caller="f+0x1 [y]", stack=None, duration_ns=100, task=SHELL,
    )  # fmt: skip


def freed(t: Trace, obj: str, id_: int, variable: str) -> None:
    t.put(ev.ShadowFreed, obj=obj, id=id_, variable=variable, age_ns=5, dtor=True, dtor_calls=1)


def seen(t: Trace) -> None:
    """What authors said can be seen, and the kernel's log."""
    for rules, moment in ((("L5",), "enabled"), (("V6",), "after a reversal"), (("L2",), "uncovered")):
        t.put(ev.Behaviour, patch="p", moment=moment, command="cat /proc/cmdline", pattern="patched",
              output="this has been live patched", held=True, rules=rules)  # fmt: skip
    t.put(ev.LoggedLine, text="livepatch: 'p': patching complete", expected=None)
    t.put(ev.Taint, flags="OEK")
