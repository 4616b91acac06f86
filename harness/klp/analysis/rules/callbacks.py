# SPDX-License-Identifier: Apache-2.0
"""Rules of callbacks: kernel/livepatch/core.h and core.c, Documentation/livepatch/callbacks.rst.

Callbacks are optional. That one did not run proves something only where it is known to exist: an object is
told with its callbacks when it is patched. In traces recorded before that was told, it must have run at
another time.
"""

from __future__ import annotations

from itertools import pairwise

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History, spans
from klp.analysis.legs import Leg, LegOutcome
from klp.analysis.numbered import between
from klp.analysis.rules.callback_order import Call, callback_words, callbacks_within
from klp.analysis.rules.rule import rule
from klp.errors import errno_name
from klp.trace import events as ev

_DOCUMENT = "Documentation/livepatch/callbacks.rst, 3. How it works"
_PROBES = "klpcallbacks klptransition klpstates"
_ENDS = "klp_init_transition klp_start_transition klp_complete_transition"
_MODULES = "klp_module_coming klp_module_going"
_KINDS = "pre_patch post_patch pre_unpatch post_unpatch"


@rule(
    "C2",
    "Symmetry: post-unpatch only if pre-patch succeeded; pre-unpatch only if post-patch ran.",
    f"klp_post_unpatch_callback, kernel/livepatch/core.h; {_DOCUMENT}",
    _PROBES,
    f"{_ENDS} klp_patch_object {_KINDS}",
)
def symmetry(history: History) -> Finding:
    """Judge klp_pre_patch_callback's post_unpatch_enabled: callbacks.rst, 3, "symmetry".

    Each callback of an object is judged by the one before it. The first of a trace is not: what ran before
    the trace began is not known.
    """
    tally = Tally()
    for patch, name in history.callbacks.objects:
        calls = history.callbacks.of(patch, name)
        for before, call in pairwise(calls):
            if before[1].also or call[1].also:
                continue  # one function serves as several of them: which ran is not known
            if history.callbacks.build(patch, before[1].ts_ns) != history.callbacks.build(
                patch, call[1].ts_ns
            ):
                continue  # of another build
            # Nothing in the kernel remembers that post-patch ran: pre-unpatch is left out only by a
            # reversal, so its rule is judged by what ran before. For post-unpatch there is
            # klp_callbacks.post_unpatch_enabled.
            if call[1].kind == "post_unpatch":
                _judge_post_unpatch(tally, history, before, call)
            elif call[1].kind == "pre_unpatch" and history.callbacks.has(
                patch, name, "post_patch", before[1].ts_ns
            ):
                good = before[1].kind == "post_patch"
                words = f"{callback_words(call)} after {callback_words(before)}"
                tally.judge(good, words, before[0], call[0], sure=False)
    return tally.finding("no object was unpatched after it was patched")


def _judge_post_unpatch(tally: Tally, history: History, before: Call, call: Call) -> None:
    previous = before[1]
    words = f"{callback_words(call)} after {callback_words(before)}"
    # klp_pre_patch_callback() allows post-unpatch even where there is no pre-patch callback (core.h):
    # then one post-unpatch may follow another.
    has_pre = history.callbacks.has(previous.patch, previous.object, "pre_patch", previous.ts_ns)
    twice = previous.kind == "post_unpatch" and has_pre
    failed = previous.kind == "pre_patch" and bool(previous.result)
    tally.judge(not twice and not failed, words, before[0], call[0], sure=False)


@rule(
    "C3",
    "Only for loaded objects; a module target's run when the module comes or goes while the livepatch is"
    " enabled.",
    f"klp_is_object_loaded, klp_module_coming, klp_module_going; {_DOCUMENT}",
    _PROBES,
    f"{_MODULES} {_KINDS}",
)
def loaded_only(history: History) -> Finding:
    """Judge klp_is_object_loaded in klp_complete_transition, klp_module_coming: callbacks.rst, 3.

    A module that comes was not there before; one that has gone is not there until it comes again.
    """
    tally = Tally()
    for call in history.callbacks.calls:
        number, event = call
        if event.object != "vmlinux":
            absent = _absent(history, event.object, event.ts_ns)
            words = f"{callback_words(call)}, {'not loaded' if absent else 'loaded'}"
            tally.judge(not absent, words, number, *([absent[0]] if absent else []), sure=False)
    for number, notice in history.modules:
        for each in history.objects_between(notice.ts_ns, notice.ts_ns + notice.duration_ns):
            if each.event.object == notice.module:
                _judge_notice(tally, history, number, notice, each.event)
    return tally.finding("no callback of a module ran")


def _absent(history: History, module: str, ts_ns: int) -> tuple[int, ev.ModuleNotice] | None:
    """Return the notice that shows that a module was not loaded at a moment, if one does."""
    # Within a notice it counts as loaded: klp_module_coming() and klp_module_going() run its callbacks.
    if before := history.notice_before(ts_ns, module):
        last = before[1]
        gone = last.action == "going" or last.errno != 0
        return before if gone and not spans(last, ts_ns) else None
    # That it comes shows that it was away until then. Of a module that goes first, nothing is shown.
    own = history.notices_of(module)
    return own[0] if own and own[0][1].action == "coming" else None


def _judge_notice(
    tally: Tally, history: History, number: int, notice: ev.ModuleNotice, done: ev.Object
) -> None:
    """An object that was patched as its module came must have had its pre-patch callback, if it has one."""
    kind = "pre_patch" if notice.action == "coming" else "post_unpatch"
    if notice.errno or not history.callbacks.has(done.patch, done.object, kind, done.ts_ns):
        return
    ran = [
        n
        for n, each in history.callbacks.between(notice.ts_ns, notice.ts_ns + notice.duration_ns + 1)
        if (each.patch, each.object, each.kind) == (done.patch, done.object, kind)
    ]
    words = f"{done.object} {notice.action}: {len(ran)} {kind.replace('_', '-')} of {done.patch} for it"
    if ran:
        tally.judge(True, words, number, *ran)
    else:
        tally.lacking(words, number)


@rule(
    "C4",
    "A failing pre-patch refuses the livepatch or the module with its errno, and no further callback of"
    " that object runs.",
    f"__klp_enable_patch, klp_module_coming, kernel/livepatch/core.c; {_DOCUMENT}",
    _PROBES,
    f"klp_enable_patch klp_cancel_transition {_MODULES} {_KINDS}",
)
def refusal(history: History) -> Finding:
    """Judge the error paths of __klp_enable_patch and klp_module_coming: callbacks.rst, 3."""
    tally = Tally()
    for call in history.callbacks.calls:
        number, event = call
        if event.kind != "pre_patch" or not event.result or event.also:
            continue
        ended = _refused(history, event)
        if ended is None:
            tally.gap = "the end of an enabling was not told"
        else:
            end = f"refused with {errno_name(ended[1])}" if ended[1] else "not refused"
            words = f"{callback_words(call)}: {end}"
            tally.judge(ended[1] == event.result, words, number, ended[0])
        build = history.callbacks.build(event.patch, event.ts_ns)
        after = history.callbacks.following(event)
        # A further pre-patch is that of the next try to load the livepatch or the module.
        same = after and history.callbacks.build(event.patch, after[1].ts_ns) == build
        if after and same and after[1].kind != "pre_patch":
            words = f"{callback_words(call)}, and then {callback_words(after)}"
            tally.lacking(words, number, after[0])
    return tally.finding("no pre-patch callback failed")


def _refused(history: History, event: ev.Callback) -> tuple[int, int] | None:
    """Return the number of the event of the call that ran a callback, and the errno that call returned."""
    notice = history.notice_at(event.ts_ns, event.object)
    if notice:
        return notice[0], notice[1].errno
    enable = history.stack.enabling(event.patch, event.ts_ns)
    return (enable[0], enable[1].errno) if enable else None


@rule(
    "C5",
    "A reversed transition runs no pre-unpatch.",
    f"klp_reverse_transition, kernel/livepatch/transition.c; {_DOCUMENT}",
    _PROBES,
    f"{_ENDS} klp_reverse_transition {_KINDS}",
)
def no_pre_unpatch(history: History) -> Finding:
    """Judge klp_reverse_transition, which calls no callback: callbacks.rst, 3, "reversed"."""
    tally = Tally()
    for leg in history.legs:
        if not leg.reversal:
            continue
        # Of a disabling that is reversed pre-unpatch has run already: that was in the leg before.
        calls = list(callbacks_within(history, leg))
        wrong = [each for each in calls if each[1].kinds == ("pre_unpatch",)]
        for each in wrong:
            tally.lacking(f"{leg.told()} by reversal: {callback_words(each)}", leg.begun[0], each[0])
        if calls and not wrong and leg.completed:
            words = f"{leg.told()} by reversal: " + ", ".join(callback_words(each) for each in calls)
            tally.judge(True, words, leg.begun[0], *(each[0] for each in calls))
    return tally.finding("no reversed transition ran a callback")


@rule(
    "C6",
    "An object patched in a transition that never started gets post-unpatch alone.",
    f"klp_cancel_transition, kernel/livepatch/transition.c; {_DOCUMENT}",
    _PROBES,
    f"{_ENDS} klp_cancel_transition klp_patch_object {_KINDS}",
)
def post_unpatch_alone(history: History) -> Finding:
    """Judge klp_complete_transition, called by klp_cancel_transition: callbacks.rst, 3, "never started"."""
    tally = Tally()
    for leg in history.legs:
        if not leg.cancelled or leg.started:
            continue
        # Pre-patch has run before: it is what failed, or of an object that was patched before the one that
        # failed.
        calls = [each for each in callbacks_within(history, leg) if "pre_patch" not in each[1].kinds]
        for each in calls:
            words = f"{leg.told()} was never started: {callback_words(each)}"
            good = "post_unpatch" in each[1].kinds
            tally.judge(good, words, leg.cancelled[0], each[0], sure=False)
        ran = {each[1].object for each in calls}
        for each_object in _patched(leg):
            has = history.callbacks.has(leg.patch, each_object, "post_unpatch", leg.begun_ns)
            if has and each_object not in ran and leg.completed:
                words = f"{leg.told()} was never started: no post-unpatch of {each_object}"
                tally.lacking(words, leg.cancelled[0])
    return tally.finding("no object with callbacks was patched in a transition that never started")


def _patched(leg: Leg) -> list[str]:
    good = [each.event for each in leg.objects if each.event.action == "patch" and not each.event.errno]
    return [each.object for each in good if each.patch == leg.patch]


@rule(
    "C7",
    "In an atomic replace only the new livepatch's callbacks run.",
    "klp_unpatch_replaced_patches, kernel/livepatch/core.c; "
    "Documentation/livepatch/cumulative-patches.rst, Limitations",
    _PROBES,
    f"{_ENDS} klp_unpatch_replaced_patches {_KINDS}",
)
def only_the_new(history: History) -> Finding:
    """Judge klp_unpatch_replaced_patches, which calls no callback: cumulative-patches.rst."""
    tally = Tally()
    for leg in history.legs:
        if not leg.replace or leg.target != ev.PATCHED or leg.outcome is not LegOutcome.COMPLETE:
            continue
        old = {each.patch for _, each in history.replaced_in(leg)}
        if not old:
            continue
        for each in callbacks_within(history, leg):
            words = f"{leg.patch} replaces {', '.join(sorted(old))}: {callback_words(each)}"
            tally.judge(each[1].patch == leg.patch, words, leg.begun[0], each[0], sure=False)
    return tally.finding("no replacement ran a callback")


@rule(
    "C8",
    "Disable and enable again runs callbacks but not the module's init or exit.",
    "enabled_store, kernel/livepatch/core.c; " + _DOCUMENT,
    _PROBES,
    f"{_ENDS} klp_reverse_transition {_MODULES} {_KINDS}",
)
def enabled_again(history: History) -> Finding:
    """Judge enabled_store, which reverses a disabling in transition: callbacks.rst, 3.

    Since 5.1 a livepatch that was disabled to the end is not enabled again, only while it is in
    transition: then its post-patch callbacks run again at the completion.
    """
    tally = Tally()
    for before, leg in pairwise(history.legs):
        back = leg.reversal and leg.target == ev.PATCHED and before.patch == leg.patch
        if not back or leg.completed is None:
            continue
        # No event tells of a module's init and exit. But load_module() has klp_module_coming() called
        # before the one, and delete_module() klp_module_going() after the other (kernel/module/main.c).
        notices = between(history.notices_of(leg.patch), before.begun_ns, leg.completed[1].ts_ns + 1)
        moved = [number for number, _ in notices]
        calls = [each for each in callbacks_within(history, leg) if each[1].patch == leg.patch]
        words = f"{leg.patch} disabled and enabled again: {len(calls)} callbacks at its completion"
        if moved:
            # With losses its disabling may have completed, and all that a new life begins with be lost.
            tally.lacking(f"{words}, and its module came or went", leg.begun[0], *moved)
        elif calls:
            tally.judge(True, words, leg.begun[0], *(each[0] for each in calls))
        elif any(
            history.callbacks.has(leg.patch, name, "post_patch", leg.begun_ns)
            for name in _objects_of(history, leg)
        ):
            tally.lacking(words, leg.begun[0])
    return tally.finding("no livepatch was enabled again before it was disabled to the end")


def _objects_of(history: History, leg: Leg) -> list[str]:
    """Return the objects that are patched as a leg ends: those whose module is there, and vmlinux."""
    patched: dict[str, bool] = {}
    for each in history.objects_between(0, leg.last_ns):
        event = each.event
        if event.patch == leg.patch and not event.nops_only and not event.errno:
            patched[event.object] = event.action == "patch"
    return [name for name, there in patched.items() if there]
