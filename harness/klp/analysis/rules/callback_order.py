# SPDX-License-Identifier: Apache-2.0
"""Where in a transition each callback runs, and that it runs (C1): core.c, callbacks.rst."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History
from klp.analysis.legs import Leg, LegOutcome, ObjectSeen
from klp.analysis.rules.rule import rule
from klp.errors import errno_name
from klp.trace import events as ev

_DOCUMENT = "Documentation/livepatch/callbacks.rst, 3. How it works"
_PROBES = "klpcallbacks klptransition klpstates"
_ENDS = "klp_init_transition klp_start_transition klp_complete_transition"
_MODULES = "klp_module_coming klp_module_going"
_KINDS = "pre_patch post_patch pre_unpatch post_unpatch"

Call = tuple[int, ev.Callback]


def callback_words(call: Call) -> str:
    """Return a call in words."""
    event = call[1]
    # What is not negative is no error number, though the kernel takes it for a failure as well.
    number = errno_name(event.result) if event.result and event.result < 0 else event.result
    result = f" returned {number}" if number else ""
    return f"{event.kind.replace('_', '-')} of {event.patch}, {event.object}{result}"


def callbacks_within(history: History, leg: Leg) -> Iterator[Call]:
    """Yield the callbacks that ran in a leg, but for those of modules that came or went meanwhile."""
    after = history.leg_after(leg.begun_ns)
    for number, each in history.callbacks.between(leg.begun_ns, after.begun_ns if after else None):
        if not leg.over_at(each.ts_ns) and history.notice_at(each.ts_ns, each.object) is None:
            yield number, each


@rule(
    "C1",
    "Order: pre-patch before the object's transition, post-patch after completion; pre-unpatch before,"
    " post-unpatch after.",
    f"__klp_enable_patch, __klp_disable_patch, klp_complete_transition; {_DOCUMENT}",
    _PROBES,
    f"{_ENDS} klp_patch_object klp_unpatch_object {_MODULES} {_KINDS}",
)
def callback_order(history: History) -> Finding:
    """Judge __klp_enable_patch, __klp_disable_patch, klp_complete_transition: callbacks.rst, 2.

    The callbacks of a module that comes or goes run within klp_module_coming and klp_module_going, on
    either side of the object's patching.
    """
    tally = Tally()
    for call in history.callbacks.calls:
        number, event = call
        leg = history.leg_at(event.ts_ns)
        notice = history.notice_at(event.ts_ns, event.object)
        if notice is not None:
            good = any(_beside_object(history, each, notice[1]) for each in _readings(event))
            where = f"as {event.object} {notice[1].action}"
        elif leg is None:
            continue  # of a transition that began before the trace
        else:
            where = _place(leg, event.ts_ns)
            good = any(_beside_transition(leg, each) for each in _readings(event))
        # Not sure: to which leg or notice a call belongs is told by events that may be lost.
        tally.judge(good, f"{callback_words(call)} {where}", number, sure=False)
    for leg in history.legs:
        _judge_missing(tally, history, leg)
    return tally.finding("no callback ran")


def _readings(event: ev.Callback) -> Iterator[ev.Callback]:
    """Yield all that a call may have been, where one function serves as several callbacks."""
    for kind in event.kinds:
        yield msgspec.structs.replace(event, kind=kind, also=())


def _judge_missing(tally: Tally, history: History, leg: Leg) -> None:
    """Each callback that an object has must run in a transition of the object that went to its end."""
    if leg.outcome is not LegOutcome.COMPLETE:
        return
    ran = {(each.object, kind) for _, each in callbacks_within(history, leg) for kind in each.kinds}
    for each in leg.objects:
        event = each.event
        moved = event.patch == leg.patch and not event.errno and not event.nops_only
        if not moved or event.callbacks is None or history.notice_at(event.ts_ns, event.object):
            continue
        # By reversal an object is patched or unpatched without what runs before (C5).
        after = "post_patch" if event.action == "patch" else "post_unpatch"
        before = "pre_patch" if event.action == "patch" else "pre_unpatch"
        wanted = []
        if not leg.reversal and not _moved(leg, each, before=True):
            wanted.append(before)
        if not _moved(leg, each, before=False):
            wanted.append(after)
        for kind in wanted:
            if kind in event.callbacks and (event.object, kind) not in ran:
                words = f"{leg.told()}: {kind.replace('_', '-')} of {event.object} did not run"
                tally.lacking(words, each.number)


def _moved(leg: Leg, seen: ObjectSeen, *, before: bool) -> bool:
    """Whether an object's module came or went in the same transition, before an event of it or after."""
    return any(
        (each.event.ts_ns < seen.event.ts_ns) if before else (each.event.ts_ns > seen.event.ts_ns)
        for each in leg.objects
        if (each.event.patch, each.event.object) == (seen.event.patch, seen.event.object)
    )


def _beside_object(history: History, event: ev.Callback, notice: ev.ModuleNotice) -> bool:
    """Before or after the patching of its object, within the notice of its module."""
    moments = [
        each.event.ts_ns
        for each in history.objects_between(notice.ts_ns, notice.ts_ns + notice.duration_ns)
        if (each.event.patch, each.event.object) == (event.patch, event.object)
        and each.event.action == ("patch" if event.kind.endswith("_patch") else "unpatch")
    ]
    before = event.kind.startswith("pre_")
    return not moments or (event.ts_ns <= max(moments) if before else event.ts_ns >= min(moments))


def _reached(leg: Leg, ts_ns: int) -> tuple[bool, bool]:
    """Return whether a leg was started, and whether it was completed, at a moment."""
    started = leg.started is not None and ts_ns >= leg.started[1].ts_ns
    return started, leg.completed is not None and ts_ns >= leg.completed[1].ts_ns


def _place(leg: Leg, ts_ns: int) -> str:
    started, ended = _reached(leg, ts_ns)
    where = "after completion" if ended else "after the start" if started else "before the start"
    return f"{'outside of a transition' if leg.over_at(ts_ns) else where} of {leg.told()}"


def _beside_transition(leg: Leg, event: ev.Callback) -> bool:
    ts_ns, mine = event.ts_ns, leg.patch == event.patch
    started, ended = _reached(leg, ts_ns)
    # Not the leg's target: klp_cancel_transition() sets 0 before it calls klp_complete_transition().
    target = leg.completed[1].target if leg.completed else leg.target
    fitting = {
        "pre_patch": not started and not ended and leg.target == ev.PATCHED,
        "post_patch": ended and target == ev.PATCHED,
        "pre_unpatch": not started and not ended and leg.target == ev.UNPATCHED,
        "post_unpatch": ended and target == ev.UNPATCHED,
    }[event.kind]
    # __klp_enable_patch() goes object by object, callback before patching: other objects may be patched by
    # now, its own may not.
    if event.kind == "pre_patch" and fitting:
        fitting = not any(
            each.event.object == event.object and each.event.action == "patch" and each.event.ts_ns < ts_ns
            for each in leg.objects
        )
    return mine and fitting and not leg.over_at(ts_ns)
