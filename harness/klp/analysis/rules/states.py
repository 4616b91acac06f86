# SPDX-License-Identifier: Apache-2.0
"""Rules of system states: kernel/livepatch/state.c, Documentation/livepatch/system-state.rst."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History
from klp.analysis.rules.rule import rule
from klp.errors import errno_name
from klp.trace import events as ev

_CHECK = "klp_is_state_compatible, kernel/livepatch/state.c"
_DOCUMENT = "Documentation/livepatch/system-state.rst, 2. Livepatch compatibility"
_PROBE = "klpstates"
_SYMBOL = "klp_is_patch_compatible"
_EINVAL = -22
_CUT = "there were more livepatches or states than klpstates tells (16 livepatches, 16 states of each)"
_TOLD = 16


def _pairs(decision: ev.Compatible) -> Iterator[tuple[ev.State, ev.State | None]]:
    """Yield each installed state with the livepatch's own state of that id, if it has one."""
    own = _first_of_each(decision.states)
    for installed in decision.installed:
        yield from ((state, own.get(state.id)) for state in installed.states)


def _first_of_each(states: Iterable[ev.State]) -> dict[int, ev.State]:
    """Return the states by id: klp_get_state() takes the first where a livepatch lists one id twice."""
    found: dict[int, ev.State] = {}
    for each in states:
        found.setdefault(each.id, each)
    return found


def _whole(history: History, tally: Tally) -> Iterator[tuple[int, ev.Compatible]]:
    """Yield the decisions of which all livepatches and states were told."""
    for number, each in history.states.decisions:
        if each.cut:
            tally.gap = _CUT
        else:
            yield number, each


def _expected(decision: ev.Compatible) -> bool:
    """Decide as system-state.rst says."""
    return all(
        (mine.version >= state.version) if mine else not decision.replace
        for state, mine in _pairs(decision)
    )


def _untouched(decision: ev.Compatible) -> list[ev.State]:
    touched = {state.id for state, _ in _pairs(decision)}
    return [each for each in decision.states if each.id not in touched]


def _told(decision: ev.Compatible) -> str:
    own = ", ".join(f"{each.id} v{each.version}" for each in decision.states) or "no states"
    others = ", ".join(f"{state.id} v{state.version}" for state, _ in _pairs(decision)) or "none"
    kind = "cumulative " if decision.replace else ""
    end = "allowed" if decision.compatible else "refused"
    return f"{kind}{decision.patch} with {own}, over {others}: {end}"


@rule(
    "V1",
    "A state nobody has touched is always allowed.",
    f"{_CHECK}; {_DOCUMENT}",
    _PROBE,
    _SYMBOL,
)
def new_state(history: History) -> Finding:
    """Judge klp_is_patch_compatible, which asks only for installed states: system-state.rst, 2."""
    tally = Tally()
    for number, each in _whole(history, tally):
        # klp_is_patch_compatible() gives one answer for all states: refused for another's sake says nothing
        # here.
        if _untouched(each) and _expected(each):
            tally.judge(each.compatible, _told(each), number)
    return tally.finding("no livepatch brought a new state")


@rule(
    "V2",
    "The same or a higher version of an installed state is allowed; a lower one is refused with -EINVAL.",
    f"{_CHECK}; {_DOCUMENT}",
    _PROBE,
    f"{_SYMBOL} klp_enable_patch",
)
def versions(history: History) -> Finding:
    """Judge klp_is_state_compatible's comparison, klp_enable_patch's -EINVAL: system-state.rst, 2."""
    tally = Tally()
    for number, each in _whole(history, tally):
        shared = [(state, mine) for state, mine in _pairs(each) if mine]
        if any(mine.version < state.version for state, mine in shared):
            _judge_refused(tally, history, number, each)
        elif shared and _expected(each):
            tally.judge(each.compatible, _told(each), number)
    return tally.finding("no livepatch brought a state that was installed")


def _judge_refused(tally: Tally, history: History, number: int, decision: ev.Compatible) -> None:
    tally.judge(not decision.compatible, _told(decision), number)
    enable = history.stack.enabling(decision.patch, decision.ts_ns)
    # The decision is a bool: klp_enable_patch() makes -EINVAL of it, the same as of other faults.
    if enable and not decision.compatible:
        words = f"{_told(decision)}, and klp_enable_patch returned {errno_name(enable[1].errno)}"
        tally.judge(enable[1].errno == _EINVAL, words, number, enable[0])


@rule(
    "V3",
    "A cumulative (replace) livepatch must carry every installed state, else it is refused.",
    f"{_CHECK}; {_DOCUMENT}",
    _PROBE,
    f"{_SYMBOL} klp_enable_patch",
)
def cumulative(history: History) -> Finding:
    """Judge klp_is_state_compatible's `return !patch->replace`: system-state.rst, 2."""
    tally = Tally()
    for number, each in _whole(history, tally):
        pairs = list(_pairs(each))
        if not each.replace or not pairs:
            continue
        if any(mine is None for _, mine in pairs):
            _judge_refused(tally, history, number, each)
        elif _expected(each):
            tally.judge(each.compatible, _told(each), number)
    return tally.finding("no cumulative livepatch met installed states")


@rule(
    "V4",
    "A non-cumulative livepatch may touch states already modified.",
    f"{_CHECK}; {_DOCUMENT}",
    _PROBE,
    _SYMBOL,
)
def not_cumulative(history: History) -> Finding:
    """Judge klp_is_patch_compatible for a livepatch without replace: system-state.rst, 2."""
    tally = Tally()
    for number, each in _whole(history, tally):
        if not each.replace and any(True for _ in _pairs(each)) and _expected(each):
            tally.judge(each.compatible, _told(each), number)
    return tally.finding("no livepatch without replace met installed states")


@rule(
    "V5",
    "klp_get_state finds the state of the given livepatch; klp_get_prev_state that of the installed ones"
    " while a replacement is under way.",
    "klp_get_state, klp_get_prev_state, kernel/livepatch/state.c; "
    "Documentation/livepatch/system-state.rst, 1. Livepatch system state API",
    "klpstates klptransition",
    f"{_SYMBOL} klp_get_state klp_get_prev_state klp_init_transition klp_complete_transition",
)
def lookups(history: History) -> Finding:
    """Judge klp_get_state and klp_get_prev_state: system-state.rst, 1.

    Which states a livepatch carries is known from the decision on it (klp_is_patch_compatible), which also
    names those installed, lowest first. klp_get_prev_state answers with the highest of them that has the
    state. A look-up in a livepatch of which no decision was seen is no observation.
    """
    tally = Tally()
    decisions = iter([*history.states.decisions, None])
    decision = next(decisions)
    known: dict[str | None, _States | None] = {}
    for number, each in history.states.gets:
        # What each livepatch was last said to carry.
        while decision is not None and decision[1].ts_ns <= each.ts_ns:
            known |= _carried(decision[1])
            decision = next(decisions)
        below = [each.patch] if each.call == "get" else _below(history, each.ts_ns)
        carried = [known[one] for one in below or () if one in known]
        if below is None or len(carried) < len(below):
            continue
        if any(states is None for states in carried):
            tally.gap = _CUT
        else:
            _judge_found(tally, number, each, [states for states in carried if states is not None])
    return tally.finding("no state was looked up")


_States = tuple[ev.State, ...]


def _carried(decision: ev.Compatible) -> dict[str | None, _States | None]:
    """Return what a decision says that each livepatch carries; None where not all was told."""
    carried: dict[str | None, _States] = {one.patch: one.states for one in decision.installed}
    carried[decision.patch] = decision.states
    return {
        patch: None if decision.cut and len(states) >= _TOLD else states
        for patch, states in carried.items()
    }


def _below(history: History, ts_ns: int) -> tuple[str, ...] | None:
    """Return the livepatches below the one in transition, lowest first; None if that is not known."""
    leg = history.leg_at(ts_ns)
    stack = history.stack.before(ts_ns)
    # Outside of a transition klp_get_prev_state() warns and finds nothing, whatever is installed.
    if leg is None or stack is None or leg.over_at(ts_ns):
        return None
    # klp_enable_patch() puts it on top, but tells the stack only when it returns.
    return stack[: stack.index(leg.patch)] if leg.patch in stack else stack


def _judge_found(tally: Tally, number: int, get: ev.StateGet, carried: list[_States]) -> None:
    # Of several livepatches, that of the newest: each answer takes the place of the one before it.
    fitting = [state for states in carried if (state := _first_of_each(states).get(get.id))]
    expected = fitting[-1] if fitting else None
    whose = f" of {get.patch}" if get.patch else ""
    words = f"klp_{get.call}_state({get.id}){whose} found {_version(get.found)}"
    good = get.found == expected
    tally.judge(good, words if good else f"{words}, not {_version(expected)}", number, sure=False)


def _version(state: ev.State | None) -> str:
    return f"version {state.version}" if state else "none"


@rule(
    "V6",
    "Five life-cycle cases leave the system as documented: first modification, take-over, restore at"
    " disable, restore at reversal, clean-up when enabling fails.",
    "the callbacks of a livepatch; Documentation/livepatch/system-state.rst, 3. Supported scenarios",
    "klp",
)
def life_cycles(history: History) -> Finding:
    """Judge by the commands that show the system's state in each case: system-state.rst, 3."""
    return observed(history, "V6")


def observed(history: History, name: str) -> Finding:
    """Return what the commands showed by which a livepatch's author wants to prove a rule."""
    tally = Tally()
    for number, each in history.seen.behaviours:
        if name in each.rules:
            shown = each.output.splitlines()[-1][:80] if each.output else "nothing"
            words = f"{each.patch}, {each.moment}: {each.command}: {shown!r}, for {each.pattern!r}"
            tally.judge(each.held, words, number)
    return tally.finding("no observation was made for it")
