# SPDX-License-Identifier: Apache-2.0
"""Rules of the life cycle: kernel/livepatch/core.c, Documentation/livepatch/livepatch.rst, 5 and 6."""

from __future__ import annotations

from collections.abc import Iterator

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History
from klp.analysis.legs import Leg, LegOutcome, ObjectSeen
from klp.analysis.numbered import between
from klp.analysis.rules.rule import rule
from klp.analysis.rules.states import observed
from klp.analysis.standing import Standing
from klp.analysis.words import spelt
from klp.errors import errno_name
from klp.klog.lines import alarming
from klp.trace import events as ev

_CORE = "kernel/livepatch/core.c"
_LIFE = "Documentation/livepatch/livepatch.rst, 5. Livepatch life-cycle"
_ENDS = "klp_init_transition klp_start_transition klp_complete_transition"


@rule(
    "L1",
    "enabled, transition, replace, stack_order and per-object patched agree with the traced events.",
    f"enabled_show, transition_show, {_CORE}; Documentation/ABI/testing/sysfs-kernel-livepatch",
    "klp klptransition klpstates",
    f"{_ENDS} klp_patch_object klp_unpatch_object klp_reverse_transition",
)
def sysfs(history: History) -> Finding:
    """Judge enabled_show, transition_show, replace_show, patched_show: sysfs-kernel-livepatch.

    Reading sysfs takes klp some tenths of a second; a value is right if it stood at any moment of
    that time. What was so before the trace began is not known. A livepatch that is freed, and so leaves
    sysfs (klp_free_patch_finish), must have been disabled or replaced before.
    """
    tally = Tally()
    standing = Standing(history)
    for number, sample in history.seen.sysfs:
        for each in sample.patches:
            for what, shown, traced in standing.compare(each, sample):
                known = " or ".join(map(spelt, traced))
                words = f"{each.name}: {what} is {spelt(shown)}, traced {known}"
                tally.judge(shown in traced, words, number, sure=False)
        for name in standing.missing(sample):
            tally.lacking(f"{name} is enabled, and not in sysfs", number)
        for name, freed in _gone(history, sample):
            tally.lacking(f"{name} was freed, and is still in sysfs", freed, number)
    for number, free in history.stack.frees:
        if (leg := _enabled_by(history, free)) is not None:
            tally.lacking(f"{leg.told()} completed, and {free.patch} was freed", leg.begun[0], number)
    return tally.finding("sysfs was not read")


def _gone(history: History, sample: ev.Sysfs) -> Iterator[tuple[str, int]]:
    """Yield the livepatches that sysfs shows though they were freed, and the events of that.

    klp_free_patch_finish() waits for the folder's end before it lets the module go, which is what the event
    tells. Of a forced one the module is never let go, and the event says nothing of the folder.
    """
    begun = sample.ts_ns if sample.begun_ns is None else sample.begun_ns
    for each in sample.patches:
        freed = history.stack.freed_before(each.name, begun)
        if freed and not freed[1].forced and not _told_again(history, each.name, freed[1].ts_ns, sample):
            yield each.name, freed[0]


def _told_again(history: History, name: str, since_ns: int, sample: ev.Sysfs) -> bool:
    """Whether a livepatch was enabled again between a moment and the end of a reading of sysfs."""
    until = (sample.ts_ns if sample.ended_ns is None else sample.ended_ns) + 1
    legs = (history.leg_at(until), history.leg_at(until - 1))
    return (
        any(leg and leg.patch == name and leg.begun_ns > since_ns for leg in legs)
        or any(name in each.patches for _, each in between(history.stack.stacks, since_ns + 1, until))
        or any(each.patch == name for _, each in between(history.stack.enables, since_ns + 1, until))
    )


def _enabled_by(history: History, free: ev.PatchFree) -> Leg | None:
    """Return the transition that enabled a livepatch which was freed, if nothing took that back."""
    earlier = history.stack.freed_before(free.patch, free.ts_ns)
    since = earlier[1].ts_ns if earlier else 0
    if any(each.patch == free.patch for _, each in between(history.stack.replaced, since, free.ts_ns)):
        return None
    legs = [each for each in history.legs_between(since, free.ts_ns) if each.patch == free.patch]
    ended = legs[-1].completed if legs else None
    return legs[-1] if ended and ended[1].target == ev.PATCHED else None


@rule(
    "L2",
    "Functions stack: the newest livepatch wins; disabling it uncovers the one below.",
    f"klp_patch_func, kernel/livepatch/patch.c, and klp_init_patch, {_CORE}; {_LIFE}",
    "klpstates klp",
    "klp_enable_patch",
)
def stacking(history: History) -> Finding:
    """Judge klp_init_patch's list_add_tail, klp_patch_func's list_add_rcu: livepatch.rst, 5.2.

    Judged by the order of klp_patches, where there are several, and by what commands showed in the guest
    for which a livepatch's author says that they show this rule.
    """
    tally = Tally()
    before: tuple[str, ...] = ()
    for number, each in history.stack.stacks:
        new = [name for name in each.patches if name not in before]
        kept = [name for name in before if name in each.patches]
        if each.cut:
            tally.gap = "there were more livepatches than klpstates tells"
            before = ()
            continue
        if len(each.patches) > 1:
            words = f"after {each.why}: {' < '.join(each.patches)}"
            # klp_init_patch() adds to the end of klp_patches; the others keep their order.
            good = not before or list(each.patches) == kept + new
            tally.judge(good, words, number, sure=False)
        before = each.patches
    seen = observed(history, "L2")
    return Finding(
        tally.seen + seen.observations,
        seen.broken,
        (*tally.shown, *seen.shown)[:3],
        "no two livepatches were enabled at once",
        tuple(tally.lacked),
        tally.gap,
    )


@rule(
    "L3",
    "Atomic replace removes the replaced livepatches and their functions, adding no-ops for functions that"
    " are no longer patched.",
    f"klp_add_nops, klp_unpatch_replaced_patches, klp_discard_nops, {_CORE}; "
    "Documentation/livepatch/cumulative-patches.rst, Atomic Replace",
    "klpstates klptransition",
    f"{_ENDS} klp_unpatch_replaced_patches klp_patch_object klp_unpatch_object klp_enable_patch",
)
def replacing(history: History) -> Finding:
    """Judge klp_add_nops and klp_unpatch_replaced_patches: cumulative-patches.rst, *Usage*."""
    tally = Tally()
    for leg in history.legs:
        if not leg.replace or leg.target != ev.PATCHED or leg.outcome is not LegOutcome.COMPLETE:
            continue
        below = _below(history, leg)
        gone = {each.patch: number for number, each in history.replaced_in(leg)}
        for name in below:
            words = f"{leg.patch} replaces {name}"
            kept = _kept(history, leg, name)
            if name in gone and not kept:
                tally.judge(True, words, leg.begun[0], gone[name])
            else:
                tally.lacking(f"{words}, which was not unpatched", leg.begun[0], *kept)
        if below:
            _judge_nops(tally, history, leg, below)
            _judge_left(tally, history, leg, below)
    return tally.finding("no livepatch replaced another")


def _below(history: History, leg: Leg) -> tuple[str, ...]:
    """Return the livepatches that lay below one when its transition ended.

    The stack is told when klp_enable_patch has returned. A transition that completes in its first pass ends
    before that, within the call: then the new one is not in the stack as it was told last, and all others
    lie below it.
    """
    stack = history.stack.before(leg.ended_ns or leg.last_ns) or ()
    return stack[: stack.index(leg.patch)] if leg.patch in stack else stack


def _kept(history: History, leg: Leg, name: str) -> list[int]:
    """Return what a replaced livepatch had patched and still patches when the next transition begins."""
    after = history.leg_after(leg.begun_ns)
    patched: dict[str, int] = {}
    for each in history.objects_between(
        _loaded_ns(history, name, leg), after.begun_ns - 1 if after else history.last_ns
    ):
        event = each.event
        # klp_discard_nops() takes only the no-ops from an object, which stays patched.
        if event.patch != name or event.errno or event.nops_only:
            continue
        if event.action == "patch":
            patched[event.object] = each.number
        else:
            patched.pop(event.object, None)
    return list(patched.values())


def _loaded_ns(history: History, name: str, leg: Leg) -> int:
    """Return since when a livepatch's name stands for what it does at a leg's beginning.

    Before it was freed, another build of that name may have been there, with other functions.
    """
    freed = history.stack.freed_before(name, leg.begun_ns)
    return freed[1].ts_ns if freed else 0


def _judge_nops(tally: Tally, history: History, leg: Leg, below: tuple[str, ...]) -> None:
    """Every function that a replaced livepatch changed is the new one's too, or a no-op of it."""
    mine = [each for each in leg.objects if each.event.patch == leg.patch and each.event.action == "patch"]
    for each in mine:
        if len(each.functions) < each.event.functions:
            continue  # the probe tells at most 32 functions of an object
        theirs = _changed(history, below, each, leg)
        own = {_named(one) for one in each.functions}
        nops = {_named(one) for one in each.functions if one.nop}
        # klp_unpatch_replaced_patches() takes the replaced functions away for all tasks at once, which is
        # right only where the new livepatch has every one of them, changed or as a no-op.
        uncovered, idle = theirs - own, nops - theirs
        words = f"{leg.patch}, {each.event.object}: {len(nops)} no-ops for {len(theirs)} replaced functions"
        # Where nothing of theirs is known, they were patched before the trace began: the no-ops prove
        # nothing.
        if uncovered or (idle and theirs):
            words += f"; wrong: {', '.join(sorted(uncovered | idle))}"
            tally.lacking(words, each.number)
        elif theirs:
            tally.judge(True, words, each.number)


def _named(function: ev.Function) -> str:
    """Return what tells a function from others of its name, as klp_find_func() does."""
    return f"{function.function},{function.position}" if function.position else function.function


def _changed(history: History, below: tuple[str, ...], mine: ObjectSeen, leg: Leg) -> set[str]:
    found: set[str] = set()
    for name in below:
        for each in history.objects_between(_loaded_ns(history, name, leg), leg.begun_ns - 1):
            event = each.event
            fits = (event.patch, event.object) == (name, mine.event.object)
            if fits and event.action == "patch" and not event.errno:
                found |= {_named(one) for one in each.functions if not one.nop}
    return found


def _judge_left(tally: Tally, history: History, leg: Leg, below: tuple[str, ...]) -> None:
    """Once the replaced are freed, nothing is left below; judged up to the next init."""
    following = history.leg_after(leg.begun_ns)
    until = following.begun_ns if following else history.last_ns + 1
    freed = {each.patch for _, each in between(history.stack.frees, leg.begun_ns + 1, until)}
    # What klp_enable_patch() tells is of the next that comes, which may have a name that was there before.
    following_stacks = between(history.stack.stacks, leg.begun_ns + 1, until)
    stacks = [each for each in following_stacks if each[1].why != "enable"]
    if freed >= set(below) and stacks:
        number, last = stacks[-1]
        kept = [name for name in last.patches if name in below]
        words = f"after {leg.patch}: {' < '.join(last.patches) or 'nothing'} is left"
        tally.judge(not kept, words, number, sure=False)


@rule(
    "L4",
    "A disabled livepatch's module can be removed, and loaded again.",
    f"klp_free_patch_finish, {_CORE}; Documentation/livepatch/livepatch.rst, 5.5. Removing",
    "klp klptransition klpstates",
    f"{_ENDS} klp_free_patch_finish",
)
def removing(history: History) -> Finding:
    """Judge klp_free_patch_finish's module_put: livepatch.rst, 5.5. Removing.

    Not judged: a livepatch that was disabled or replaced by force, whose module the kernel never lets go,
    and one whose module something else still refers to.
    """
    tally = Tally()
    removed: dict[str, int] = {}
    for number, step in history.seen.steps:
        free = _freed_before(history, step)
        if step.action == "unload" and free is not None:
            words = f"{step.subject} unloaded after it was freed: {errno_name(step.errno)}"
            tally.judge(not step.errno, words, free, number)
            if not step.errno:
                removed[step.subject] = number
        elif step.action == "load" and step.subject in removed and not _refused(history, step):
            words = f"{step.subject} loaded again: {errno_name(step.errno)}"
            # Once it is there again, a second load is refused, and so is its removal while it is enabled.
            tally.judge(not step.errno, words, removed.pop(step.subject), number)
    return tally.finding("no disabled livepatch was removed")


def _freed_before(history: History, step: ev.Step) -> int | None:
    """Return the free of a livepatch that ended before a step began, if its module was let go by it."""
    # klp_free_patch_finish() lets the module go after the livepatch's folder in sysfs is gone, in a work
    # item: whoever waits for the folder to go may still find the module in use.
    begun = step.ts_ns - step.duration_ns
    freed = history.stack.freed_before(step.subject, begun)
    if freed is None or _enabled_since(history, step.subject, freed[1].ts_ns, begun):
        return None
    number, last = freed
    if last.forced:
        # Marked as forced though nobody forced it: the removal is judged, and fails for the reference that
        # is kept.
        return None if any(leg.forces and leg.begun_ns < last.ts_ns for leg in history.legs) else number
    return number if last.module_refs in (0, None) else None


def _enabled_since(history: History, name: str, freed_ns: int, until_ns: int) -> bool:
    """Whether a livepatch was enabled again after it was freed, or loaded again, which enables it."""
    enables = between(history.stack.enables, freed_ns + 1, until_ns)
    steps = between(history.seen.steps, freed_ns + 1, until_ns)
    return any(each.patch == name and not each.errno for _, each in enables) or any(
        (each.subject, each.action, each.errno) == (name, "load", 0) for _, each in steps
    )


def _refused(history: History, step: ev.Step) -> bool:
    """Whether the livepatch was refused for a reason of its own, by a callback or for its states."""
    begun = step.ts_ns - step.duration_ns
    return step.errno != 0 and any(
        each.patch == step.subject and each.errno
        for _, each in between(history.stack.enables, begun, step.ts_ns + 1)
    )


@rule(
    "L5",
    "What the patch changes is seen changed after completion and restored after disable.",
    f"klp_ftrace_handler, kernel/livepatch/patch.c; {_LIFE}",
    "klp",
)
def behaviour(history: History) -> Finding:
    """Judge the commands by which authors show what a livepatch changes: livepatch.rst, 5.2, 5.4."""
    tally = Tally()
    for number, each in history.seen.behaviours:
        if "L5" in each.rules or not each.rules:
            shown = each.output.splitlines()[-1][:80] if each.output else "nothing"
            words = f"{each.patch}, {each.moment}: {each.command}: {shown!r}, for {each.pattern!r}"
            tally.judge(each.held, words, number)
    return tally.finding("no observation was made of what a livepatch changes")


# K livepatch, O out of tree, E unsigned: add_taint() and add_taint_module() in kernel/module/main.c.
_ALLOWED_TAINT = set("KOE")


@rule(
    "L6",
    "No warning, oops, lockdep, RCU or hung-task report appears in the kernel log that was not expected;"
    " taint is K (and O, E where unsigned), nothing else.",
    "module_augment_kernel_taints (in 6.1 check_modinfo_livepatch), kernel/module/main.c;"
    " Documentation/admin-guide/tainted-kernels.rst",
    "klp",
)
def clean_log(history: History) -> Finding:
    """Judge the kernel's own reports, and add_taint(TAINT_LIVEPATCH): tainted-kernels.rst.

    Of a span of a trace, only the flags that it adds are judged: the kernel never clears one.
    """
    tally = Tally()
    excused = any(each.expected for _, each in history.seen.log)
    wrong = alarming([each.text for _, each in history.seen.log])
    for (number, line), is_wrong in zip(history.seen.log, wrong, strict=True):
        if line.expected is None:
            tally.judge(not is_wrong, line.text[:160], number)
    for number, taint in history.seen.taints:
        # A warning that was expected taints the kernel for good: W, by __warn(), kernel/panic.c.
        allowed = _ALLOWED_TAINT | set(history.tainted) | ({"W"} if excused else set())
        tally.judge(not set(taint.flags) - allowed, f"taint {taint.flags or 'none'}", number)
    return tally.finding("the kernel log was not recorded")
