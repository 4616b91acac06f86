# SPDX-License-Identifier: Apache-2.0
"""What is said of livepatches that fail: from logs as real kernels wrote them, and traces as probes do."""

from __future__ import annotations

import pytest

from klp.analysis.diagnosis import PENDING, REFUSED, Misbehaviour, Seen, diagnose
from klp.analysis.history import history
from klp.analysis.refusals import Refusal, meaning
from klp.analysis.result import PatchedFunctions
from klp.analysis.rules.registry import judge_all
from klp.check.changed import namesakes, unpatched
from klp.errors import Category
from klp.guest.livepatch import LivepatchState, PatchedObject
from klp.klog import crash
from klp.trace import events as ev
from tests.unit.traces import Trace, task

FIX = "klp_fix"
GONE = f"""\
BUG: unable to handle page fault for address: ffffffffc03ba080
#PF: supervisor instruction fetch in kernel mode
#PF: error_code(0x0010) - not-present page
RIP: 0010:klp_target_init+0x70/0xff0 [klp_target]
Call Trace:
 <TASK>
 ? release_nodes+0x35/0xb0
 ? devres_release_all+0x90/0xe0
 </TASK>
Modules linked in: klp_target(OE-) [last unloaded: {FIX}(OEK)]
---[ end trace 0000000000000000 ]---"""
SECOND_CALL = f"""\
BUG: kernel NULL pointer dereference, address: 0000000000000000
Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
RIP: 0010:livepatch_show+0x10/0x30 [{FIX}]
Call Trace:
 <TASK>
 seq_read_iter+0x123/0x460
 </TASK>
Modules linked in: {FIX}(OEK)"""
TIMER = f"""\
BUG: unable to handle page fault for address: ffffffffc03b68c8
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
RIP: 0010:__run_timers+0xd7/0x280
Call Trace:
 <TASK>
 run_timer_softirq+0x8c/0xf0
 </TASK>
Modules linked in: ext4 virtio_blk [last unloaded: {FIX}(OEK)]"""
TWICE = f"""\
------------[ cut here ]------------
Trying to vfree() nonexistent vm area (00000000f1c1a4b1)
WARNING: CPU: 1 PID: 300 at mm/vmalloc.c:3426 vfree.part.0+0x10f/0x250
Call Trace:
 <TASK>
 ? vfree.part.0+0x10f/0x250
 history_dtor+0x12/0x20 [{FIX}]
 klp_shadow_free_struct+0x20/0x40
 </TASK>
---[ end trace 0000000000000000 ]---"""


def died(text: str, *inside: str) -> str:
    report = crash.parse_report(Category.OOPS, text.splitlines(), emulated=False)
    return diagnose(Seen(FIX, crash=report, error="the guest is lost", inside=inside))[0]


def test_an_oops_is_put_down_to_function_and_module() -> None:
    assert died(SECOND_CALL).startswith(
        f"the kernel died: oops in livepatch_show of {FIX}: BUG: kernel NULL"
    )


def test_code_that_ran_after_the_module_was_gone() -> None:
    told = died(GONE)
    assert told.startswith(f"code of {FIX} ran after the module was gone: a kthread, a timer,")
    assert "called by release_nodes" in told
    assert "klp_fixer[77] ran it before it was unloaded" in died(GONE, "klp_fixer[77]")
    assert "after the module was gone" not in died(GONE.replace(f"{FIX}(OEK)", "other"))
    elsewhere = SECOND_CALL.replace("in: klp_fix(OEK)", "in: klp_other(OEK) [last unloaded: klp_fix(OEK)]")
    assert "after the module was gone" not in died(elsewhere)


def test_memory_that_was_used_after_the_module_was_gone() -> None:
    gone = f"memory of {FIX} was used after the module was gone, by __run_timers: a timer, a work item"
    assert died(TIMER).startswith(gone)
    unmapped = "the kernel died: oops in __run_timers"
    assert died(TIMER.replace("last unloaded: klp_fix", "last unloaded: other")).startswith(unmapped)
    assert died(TIMER.replace("ffffffffc03b68c8", "ffff88803d623940")).startswith(unmapped)


def test_memory_freed_twice_names_who_did() -> None:
    [told] = diagnose(Seen(FIX, reports=(tuple(TWICE.splitlines()),)))
    assert told.startswith(f"memory was freed twice, or was never allocated, by history_dtor of {FIX}")
    tail_call = TWICE.replace(" history_dtor+0x12/0x20", " ? livepatch_show+0x20/0x20")
    [guess] = diagnose(Seen(FIX, reports=(tuple(tail_call.splitlines()),)))
    assert "by a shadow variable's destructor (kernel log: " in guess
    [other] = diagnose(
        Seen(FIX, reports=(("WARNING: CPU: 0 PID: 1 at kernel/livepatch/shadow.c:99 f+0x1/0x2",),))
    )
    assert other.startswith("the kernel log has a report: WARNING: ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("livepatch: symbol 'proc_show' not found in symbol table", "no function proc_show in this"),
        ("livepatch: unresolvable ambiguity for symbol 'twin' in object 'klp_m'",
         "several functions are called twin in klp_m; .old_sympos"),
        ("livepatch: symbol position 3 for symbol 'twin' in object 'klp_m' not found",
         "fewer than 3 functions called twin in klp_m"),
        ("livepatch: module klp_fix is not marked as a livepatch module", "MODULE_INFO"),
        ("klp_fix: version magic '6.1.0 SMP' should be '6.12.0 SMP'", "built for another kernel: 6.1.0"),
        ("klp_fix: Unknown symbol klp_enable_patch (err -2)", "GPL-compatible modules only"),
        ("klp_fix: Unknown symbol not_there (err -2)", "not_there is not exported"),
        ("livepatch: pre-patch callback failed for object 'vmlinux'", "pre-patch callback for vmlinux"),
        ("livepatch: failed to register ftrace handler for function 'f' (-16)", "changes where f goes"),
        ("rmmod: ERROR: Module klp_fix is in use", "klp_fix is in use: something took a reference"),
        ("klp_fix: hello", ""),
    ],
)  # fmt: skip
def test_the_kernels_words_and_what_they_mean(line: str, words: str) -> None:
    told = meaning(("livepatch: enabling patch 'klp_fix'", line, "klp_fix: goodbye"))
    assert words in told if words else not told
    assert not words or line in told


def test_a_refusal_says_what_it_means() -> None:
    refusal = Refusal("load", FIX, "EINVAL", "insmod: ERROR: Invalid parameters")
    [told] = diagnose(
        Seen(FIX, refusal=refusal, error="x", log=("livepatch: symbol 'f' not found in symbol table",))
    )
    assert told.startswith(f"load of {FIX} was refused with EINVAL: no function f in this kernel")
    [bare] = diagnose(Seen(FIX, refusal=refusal, error="x"))
    assert bare.endswith("insmod: ERROR: Invalid parameters")


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ((), "does not carry state 0x10, which klp_below has installed in version 2"),
        (
            (ev.State(id=16, version=1),),
            "carries state 0x10 in version 1, and klp_below has installed version 2",
        ),
    ],
)
def test_a_refusal_for_states_says_which(states: tuple[ev.State, ...], words: str) -> None:
    trace = Trace()
    below = ev.Installed(patch="klp_below", states=(ev.State(id=16, version=2),))
    trace.put(ev.Compatible, patch=FIX, replace=True, states=states, installed=(below,), compatible=False)
    seen = Seen(FIX, history(trace.numbered()), refusal=Refusal("load", FIX, "EINVAL", "no"))
    assert words in diagnose(seen)[0]


def test_a_failed_pre_patch_has_to_undo_what_it_did() -> None:
    wrong = Misbehaviour(REFUSED, "cat x", "^65534$", "1234", "65534")
    log = ("livepatch: pre-patch callback failed for object 'vmlinux'",)
    refusal = Refusal("load", FIX, "ENODEV", "no")
    first, second = diagnose(Seen(FIX, misbehaved=(wrong,), refusal=refusal, log=log))
    assert first == (
        "a pre-patch callback that fails has to undo what it did, for no other callback runs: cat x says "
        "'1234', not '^65534$'"
    )
    assert "its pre-patch callback for vmlinux returned the error" in second


@pytest.mark.parametrize(
    ("moment", "output", "said", "words"),
    [
        ("before", "b", None, "before it is loaded, cat x says 'b'"),
        (
            "enabled",
            "a",
            "a",
            "nothing changed while it was enabled: cat x says 'a', not '^c$'; is the function",
        ),
        ("enabled", "b", "a", "while it is enabled: cat x says 'b'"),
        ("after", "c", "c", "not restored by disabling: cat x says 'c'"),
        ("after", "b", "c", "after disabling: cat x says 'b'"),
    ],
)
def test_behaviour_that_is_not_what_was_promised(
    moment: str, output: str, said: str | None, words: str
) -> None:
    [told] = diagnose(Seen(FIX, misbehaved=(Misbehaviour(moment, "cat x", "^c$", output, said),)))
    assert told.startswith(words)


def test_functions_of_one_name_are_counted_by_object() -> None:
    listed = "0 t twin\t[klp_m]\n0 t twin\t[klp_m]\n0 T twin\n0 t once\t[klp_m]\n"
    objects = (
        PatchedFunctions(object="klp_m", functions=("twin,2", "once,1")),
        PatchedFunctions(object="vmlinux", functions=("twin,1",)),
    )
    [told] = namesakes(listed, objects)
    assert told.startswith("twin exists 2 times in klp_m, and .old_sympos = 2 was patched")
    wrong = Misbehaviour("enabled", "cat x", "^c$", "b", "a", (told,))
    assert told in diagnose(Seen(FIX, misbehaved=(wrong,)))[0]


def test_shadow_variables_left_behind_are_counted_by_id_and_maker() -> None:
    trace = Trace()
    for variable in ("0x10", "0x20"):
        trace.put(
            ev.ShadowAlloc, call="alloc", obj=variable, id=0x77, size=8, flags=0, ctor=False, ctor_calls=0,
            ctor_result=None, result="made", variable=variable, zeroed=True, caller=f"make_it+0x1 [{FIX}]",
            stack=None, duration_ns=100, task=task(7),
        )  # fmt: skip
        trace.wait(5)
    loaded = history(trace.numbered())
    assert not diagnose(Seen(FIX, loaded))
    trace.step("unload", FIX)
    trace.module(FIX, "going", livepatch=True)
    gone = history(trace.numbered())
    [told] = diagnose(Seen(FIX, gone, judge_all(gone)))
    assert told == f"2 shadow variables of id 0x77 left behind when {FIX} was unloaded, made by make_it"


def stuck_trace(target: int) -> Trace:
    trace = Trace()
    if target:
        trace.begin_enabling(FIX)
    else:
        trace.enable(FIX)
        trace.begin_disabling(FIX)
    trace.wait(1000)
    trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    trace.wait(11_300)
    trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    return trace


def test_a_transition_that_does_not_end_names_who_holds_it() -> None:
    [patching] = diagnose(Seen(FIX, history(stuck_trace(1).numbered()), stuck=True, error="x"))
    assert patching.startswith("the transition does not end: ")
    assert (
        "held up 12.3 s by task3[3] sleeping in cmdline_proc_show, which this livepatch changes" in patching
    )
    seen = Seen(
        FIX, history(stuck_trace(0).numbered()), stuck=True, error="x", holders=((3, "livepatch_show"),)
    )
    [unpatching] = diagnose(seen)
    assert "sleeping in cmdline_proc_show, the livepatch's version of it" in unpatching
    assert unpatching.endswith(", in livepatch_show, its own function")
    assert diagnose(Seen(FIX, history(Trace().numbered()), stuck=True, error="held by x")) == (
        "the transition does not end: held by x",
    )


def turned_round(*, reversed_: bool = True, post_unpatch: bool = False) -> Trace:
    """An enabling that somebody holds up, and that is turned round; or one that merely ends there."""
    trace = Trace()
    trace.begin_enabling(FIX)
    trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    if reversed_:
        trace.put(ev.Reverse, patch=FIX, target=0, core=trace.core)
        trace.set_core(target_state=0, enabled=False)
        trace.start()
    with trace.try_all(), trace.completing():
        if post_unpatch:
            trace.callback(FIX, "post_unpatch")
    return trace


def test_what_a_reversal_leaves_is_put_down_to_the_callback_it_skips() -> None:
    wrong = Misbehaviour("after", "cat x", "^65534$", "1234", "1234")
    [told] = diagnose(Seen(FIX, history(turned_round().numbered()), misbehaved=(wrong,)))
    assert told.startswith("not restored by disabling: cat x says '1234'")
    assert "what pre-patch does for vmlinux has to be undone by post-unpatch" in told
    [other] = diagnose(Seen(FIX, history(turned_round(post_unpatch=True).numbered()), misbehaved=(wrong,)))
    assert "post-unpatch" not in other
    [straight] = diagnose(Seen(FIX, history(turned_round(reversed_=False).numbered()), misbehaved=(wrong,)))
    assert "post-unpatch" not in straight


def test_a_broken_rule_is_told_once_and_in_better_words_where_there_are_any() -> None:
    trace = Trace()
    trace.put(ev.LoggedLine, text="WARNING: CPU: 0", expected=None)
    verdicts = judge_all(history(trace.numbered()))
    assert any("rule L6 is broken" in line for line in diagnose(Seen(FIX, verdicts=verdicts)))
    [told] = diagnose(Seen(FIX, verdicts=verdicts, reports=(("WARNING: CPU: 0",),)))
    assert told.startswith("the kernel log has a report")


def test_what_is_good_is_not_talked_about() -> None:
    assert diagnose(Seen(FIX, history(Trace().numbered()))) == ()


def state(*objects: PatchedObject) -> LivepatchState:
    return LivepatchState(FIX, True, False, None, None, objects)


def test_an_object_that_is_not_patched_is_named() -> None:
    vmlinux, absent = PatchedObject("vmlinux", ("f,1",), True), PatchedObject("a-b", ("g,1",), False)
    assert unpatched(state(vmlinux, PatchedObject("old", (), None))) == ()
    assert unpatched(state(vmlinux, absent)) == (
        "its object a-b is not patched: no module of that name is loaded (a module's name has underscores: "
        "a_b?)",
    )


def test_a_livepatch_whose_objects_the_kernel_does_not_see() -> None:
    assert unpatched(state()) == (
        "sysfs shows no object of it: an object with neither .name nor .funcs ends the array",
    )


def test_a_module_without_an_exit_function_is_told_from_one_in_use() -> None:
    said = "rmmod: ERROR: could not remove module klp_fix: Device or resource busy"
    [told] = diagnose(Seen(FIX, refusal=Refusal("unload", FIX, "EBUSY", said, no_exit=True)))
    assert told.startswith(f"unload of {FIX} was refused with EBUSY: it has no module_exit()")
    [other] = diagnose(Seen(FIX, refusal=Refusal("unload", FIX, "EBUSY", said)))
    assert other == f"unload of {FIX} was refused with EBUSY: {said}"


def test_what_is_neither_old_nor_new_while_it_is_held_up() -> None:
    wrong = Misbehaviour(PENDING, "show", "^old$", "none", None, other=("^new$",))
    [told] = diagnose(Seen(FIX, misbehaved=(wrong,)))
    assert told.startswith("while its transition is held up, show says 'none', not '^old$' or '^new$'")
    assert told.endswith("patch.toml can say so: pending = …")


@pytest.mark.parametrize("callback", ["pre_patch", "post_unpatch"])
def test_whose_callback_would_have_undone_it(callback: str) -> None:
    trace = Trace()
    trace.enable("klp_first")
    trace.callback("klp_first", callback)
    trace.put(ev.Replaced, patch="klp_first", by=FIX)
    wrong = Misbehaviour("after", "show", "^old$", "new", "new")
    [told] = diagnose(Seen(FIX, history=history(trace.numbered()), misbehaved=(wrong,)))
    said = "klp_first was replaced, so its post-unpatch did not run: whoever replaces it must undo"
    assert (said in told) is (callback == "post_unpatch")
    [other] = diagnose(Seen("klp_other", history=history(trace.numbered()), misbehaved=(wrong,)))
    assert "replaced" not in other
