# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a livepatch that failed, from all that was seen of it, in its author's words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from klp.analysis.deaths import crashed, lost_after, reported
from klp.analysis.evidence import Verdict
from klp.analysis.history import History
from klp.analysis.legs import Leg, LegOutcome
from klp.analysis.refusals import Refusal, failed_pre_patch, follows, refused
from klp.analysis.rules.rule import RuleVerdict
from klp.analysis.shadow import ShadowVariable
from klp.analysis.shadow_leaks import module_of
from klp.analysis.words import stories
from klp.errors import CrashReport
from klp.klog.memory import telling
from klp.trace.events import PATCHED

_HELD_BY = 3
# Rules whose breach has a cause that is told already, in better words: a report in the kernel log, a
# command that did not show what it had to, a leak.
_LOG_RULE, _BEHAVIOUR_RULE, _LEDGER_RULE = "L6", "L5", "S7"
REFUSED, PENDING = "refused", "pending"
# How a reason begins that says who holds a transition.
DOES_NOT_END = "the transition does not end"


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """A command of patch.toml that did not show what it had to.

    Attributes:
        moment: ``before``, ``enabled`` or ``after``; ``refused`` after a load that was refused, ``pending``
            while a transition was held up.
        command, pattern, output: what was run, what must be found in its output, and that.
        said: what the same command said the time before, or None.
        namesakes: in words, the changed functions whose name several functions of the kernel have, and the
            objects that are not patched.
        other: what else its output might have had, if anything.
    """

    moment: str
    command: str
    pattern: str
    output: str
    said: str | None
    namesakes: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that is known of a scenario.

    Attributes:
        livepatch: the module's name.
        history: its trace; None where there is none that can be read.
        verdicts: of the rules.
        log: the kernel log's lines, without stamps.
        reports: warnings and the like in it that nobody expected, each with its lines.
        faults: what the scenario itself calls wrong.
        misbehaved: what did not show.
        refusal: what was refused, if that ended the scenario.
        stuck: whether a transition that outlasted its deadline ended it.
        holders: of the tasks that held it those in the livepatch's own code: pid to function.
        error: what ended it, in the words of klp; empty if nothing did.
        crash: the guest's end, if it was lost and that is known.
        inside: tasks that were in its code just before it was last unloaded, as ``name[pid]``.
        said: what a lost guest's kernel had said of the livepatch, see `klp.analysis.dying`.
        end: how the guest was lost, in words; empty if it was not.
    """

    livepatch: str
    history: History | None = None
    verdicts: tuple[RuleVerdict, ...] = ()
    log: tuple[str, ...] = ()
    reports: tuple[tuple[str, ...], ...] = ()
    faults: tuple[str, ...] = ()
    misbehaved: tuple[Misbehaviour, ...] = ()
    refusal: Refusal | None = None
    stuck: bool = False
    holders: tuple[tuple[int, str], ...] = ()
    error: str = ""
    crash: CrashReport | None = None
    inside: tuple[str, ...] = ()
    said: tuple[tuple[str, ...], ...] = ()
    end: str = ""


def diagnose(seen: Seen) -> tuple[str, ...]:
    """Return what is wrong, a line each, what tells most first; nothing if nothing is."""
    return tuple(dict.fromkeys(_diagnosis(seen)))


def _diagnosis(seen: Seen) -> Iterator[str]:
    if seen.crash is not None:
        yield crashed(seen.crash, seen.livepatch, seen.inside, seen.said)
    else:
        yield from (lost_after(each, seen.livepatch, seen.end) for each in seen.said)
    yield from (misbehaved(each, seen) for each in seen.misbehaved if each.moment == REFUSED)
    if seen.refusal is not None:
        yield refused(seen.refusal, seen.log, seen.history)
    elif seen.stuck:
        yield from stuck(seen)
    # With a crash, all that the error says is that the guest was lost.
    elif seen.error and seen.crash is None:
        yield seen.error
    left = leaked(seen.history, seen.livepatch) if seen.history else ()
    yield from left
    yield from (misbehaved(each, seen) for each in seen.misbehaved if each.moment != REFUSED)
    if seen.crash is None:
        reports = tuple(each for each in seen.reports if not (seen.refusal and follows(seen.refusal, each)))
        yield from (reported(each, seen.livepatch) for each in telling(reports))
    yield from seen.faults
    yield from _broken_rules(seen, told_leak=bool(left))


def _broken_rules(seen: Seen, *, told_leak: bool) -> Iterator[str]:
    said_otherwise = {
        _LOG_RULE: bool(seen.reports) or seen.crash is not None,
        _BEHAVIOUR_RULE: bool(seen.misbehaved),
        _LEDGER_RULE: told_leak,
    }
    for each in seen.verdicts:
        if each.verdict is Verdict.VIOLATED and not said_otherwise.get(each.rule.id, False):
            yield f"rule {each.rule.id} is broken ({each.rule.text}): {each.why}"


def stuck(seen: Seen) -> Iterator[str]:
    """Yield who holds the transition that does not end, and where."""
    legs = seen.history.legs if seen.history else ()
    unfinished = [leg for leg in legs if leg.outcome is LegOutcome.UNFINISHED]
    lines = [line for leg in unfinished[-1:] for line in _holders(leg, dict(seen.holders))]
    yield from lines or (f"{DOES_NOT_END}: {seen.error}",)


def _holders(leg: Leg, own: dict[int, str]) -> Iterator[str]:
    lines = stories(leg, left=True)
    for line in lines[:_HELD_BY]:
        extra = [function for pid, function in own.items() if f"[{pid}] " in line]
        inside = f", in {extra[0]}, its own function" if extra and extra[0] not in line else ""
        yield f"{DOES_NOT_END}: {line}{inside}"
    if len(lines) > _HELD_BY:
        yield f"{len(lines) - _HELD_BY} more tasks hold it up"


def misbehaved(wrong: Misbehaviour, seen: Seen) -> str:
    """Return what was not seen, and what that may mean."""
    wanted = " or ".join(map(repr, (wrong.pattern, *wrong.other)))
    shown = f"{wrong.command} says {_short(wrong.output)}, not {wanted}"
    if wrong.moment == "before":
        return f"before it is loaded, {shown}"
    if wrong.moment == REFUSED:
        return _left_by_refusal(shown, seen)
    if wrong.moment == PENDING:
        return (
            f"while its transition is held up, {shown}: so it stays for as long as anybody sleeps in what "
            "it changes; where that is meant, patch.toml can say so: pending = …"
        )
    which = f"; {'; '.join(wrong.namesakes)}" if wrong.namesakes else ""
    unchanged = wrong.output == wrong.said
    if wrong.moment == "enabled":
        if unchanged and not which:
            return (
                f"nothing changed while it was enabled: {shown}; is the function inlined into its callers?"
            )
        return f"{'nothing changed ' if unchanged else ''}while it is enabled: {shown}{which}"
    why = _undone_too_early(seen) + _replaced(seen)
    return f"{'not restored by' if unchanged else 'after'} disabling: {shown}{why}"


def _left_by_refusal(shown: str, seen: Seen) -> str:
    if failed_pre_patch(seen.log):
        return (
            f"a pre-patch callback that fails has to undo what it did, for no other callback runs: {shown}"
        )
    return f"left behind by a load that was refused: {shown}"


def _undone_too_early(seen: Seen) -> str:
    """Say so where a reversed transition skipped the callback that would have undone something.

    It runs no pre-unpatch (C5): post-patch, its counterpart, has not run yet.
    """
    history, name = seen.history, seen.livepatch
    if history is None:
        return ""
    turned = any(leg.patch == name and leg.outcome is LegOutcome.REVERSED and leg.target == PATCHED
                 for leg in history.legs)  # fmt: skip
    bare = [object_ for patch, object_ in history.callbacks.objects
            if patch == name and history.callbacks.has(patch, object_, "pre_patch")
            and not history.callbacks.has(patch, object_, "post_unpatch")]  # fmt: skip
    if not (turned and bare):
        return ""
    return (
        f"; what pre-patch does for {bare[0]} has to be undone by post-unpatch: a reversed transition runs "
        "no pre-unpatch"
    )


def _replaced(seen: Seen) -> str:
    """Name the livepatches that it took the place of, and whose callbacks that undo something did not run.

    Those of a livepatch that is replaced never do (C7).
    """
    history = seen.history
    if history is None:
        return ""
    gone = dict.fromkeys(each.patch for _, each in history.stack.replaced if each.by == seen.livepatch)
    found = (
        (patch, [kind for kind in ("pre_unpatch", "post_unpatch") if history.callbacks.has(*each, kind)])
        for patch in gone
        for each in history.callbacks.objects
        if each[0] == patch
    )
    return "".join(
        f"; {patch} was replaced, so its {' and '.join(kinds).replace('_', '-')} did not run: whoever "
        "replaces it must undo what it set up"
        for patch, kinds in found
        if kinds
    )


def _short(text: str, most: int = 120) -> str:
    return repr(text if len(text) <= most else f"…{text[-most:]}")


def leaked(history: History, livepatch: str) -> tuple[str, ...]:
    """Return the shadow variables that a livepatch left behind when it was unloaded, by id and maker."""
    if not _unloaded(history, livepatch):
        return ()
    groups: dict[tuple[int, str], list[ShadowVariable]] = {}
    for each in history.ledger.left:
        if module_of(each.caller) == livepatch:
            groups.setdefault((each.id, each.caller.split("+")[0]), []).append(each)
    return tuple(
        f"{len(found)} shadow variable{'s' if len(found) > 1 else ''} of id {id_:#x} left behind when "
        f"{livepatch} was unloaded, made by {caller}"
        for (id_, caller), found in groups.items()
    )


def _unloaded(history: History, livepatch: str) -> bool:
    own = [each.action for _, each in history.seen.steps if each.subject == livepatch and not each.errno]
    return bool(own) and own[-1] == "unload"
