# SPDX-License-Identifier: Apache-2.0
"""The cases of a selftest script: from its text which there are, from its output how each ended.

The format is that of ``start_test``, ``check_result``, ``skip`` and ``die`` in
tools/testing/selftests/livepatch/functions.sh; it is the same from 6.1 to 7.2.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from klp.analysis.selftests import CaseResult, Status

# kselftest's exit status for "cannot be tested here" (ksft_skip in functions.sh).
SKIP_CODE = 4

_CALL = re.compile(r"^(\s*)start_test\s+(.+)$")
_VARIABLE = re.compile(r"\$\{\w+\}|\$\w+")
_BEGIN = re.compile(r"^TEST: (.*?) \.\.\. ", re.MULTILINE)
# functions.sh writes "TEST: name ... " without a newline, and "ok" behind it; but what a command writes in
# between ends in a newline, and then "ok" begins a line. Hence `search`, in the text behind the dots.
_RESULT = re.compile(r"^(ok|not ok)$", re.MULTILINE)
# functions.sh writes this to the kernel log as each case begins, besides what it writes to its output.
_LOGGED = re.compile(r"===== TEST: (.*?) =====\r?$", re.MULTILINE)
_COMPLAINT = re.compile(r"(?:ERROR|SKIP): (.*)|(skip all tests: .*)")


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """A ``start_test`` call in a script's text.

    Attributes:
        name: its argument; variables of the shell are left as they are.
        conditional: it is indented, so the script may pass over it and still be right.
    """

    name: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class RanCase:
    """A case in a script's output; `begun` and `ended` are positions in it."""

    name: str
    status: Status
    begun: int
    ended: int
    detail: str


def planned_cases(script: str) -> tuple[PlannedCase, ...]:
    """Return the cases that a script's text has, in its order."""
    calls = (_CALL.match(line) for line in script.splitlines())
    return tuple(PlannedCase(_argument(call[2]), conditional=bool(call[1])) for call in calls if call)


def _argument(words: str) -> str:
    try:
        return shlex.split(words, comments=True)[0]
    except (ValueError, IndexError):
        return words.strip()


def logged_cases(log: str) -> tuple[str, ...]:
    """Return the cases that began by a kernel log's, or a console's, account."""
    return tuple(each.strip() for each in _LOGGED.findall(log))


def ran_cases(output: str, logged: Sequence[str] = ()) -> tuple[RanCase, ...]:
    """Return the cases that began in a script's output; one without a result `died`.

    Args:
        logged: see `logged_cases`. A guest that panics takes the last of a script's output along, which was
            on its way over the network, but not what its console has said.
    """
    begins = list(_BEGIN.finditer(output))
    ends = [begin.start() for begin in begins[1:]] + [len(output)]
    ran = tuple(_ran(output, begin, end) for begin, end in zip(begins, ends, strict=True))
    end = len(output)
    return (*ran, *(RanCase(name, Status.DIED, end, end, "") for name in logged[len(ran) :]))


def _ran(output: str, begin: re.Match[str], end: int) -> RanCase:
    text = output[begin.end() : end]
    found = _RESULT.search(text)
    if found is None:
        return RanCase(begin[1], Status.DIED, begin.start(), end, text.strip())
    ended = begin.end() + found.end()
    if found[1] == "ok":
        return RanCase(begin[1], Status.OK, begin.start(), ended, text[: found.start()].strip())
    detail = text[: found.start()] + text[found.end() :]
    return RanCase(begin[1], Status.FAILED, begin.start(), ended, detail.strip())


def last_words(output: str) -> str:
    """Return what a script said last through ``die`` or ``skip``; empty if it said nothing."""
    said = [found[1] or found[2] for found in _COMPLAINT.finditer(output)]
    return said[-1] if said else ""


def case_results(
    planned: Sequence[PlannedCase],
    output: str,
    exit_status: int | None,
    seconds_at: Callable[[int], float],
    logged: Sequence[str] = (),
) -> tuple[CaseResult, ...]:
    """Return how each case ended: those that ran, and those that should have.

    Args:
        exit_status: of the script; null if it did not come to its end.
        seconds_at: tells when a position of the output was reached.
        logged: see `ran_cases`.
    """
    skipped = exit_status == SKIP_CODE
    ran = [_result(each, skipped, seconds_at) for each in ran_cases(output, logged)]
    results: list[CaseResult] = []
    for case in planned:
        place = next((n for n, each in enumerate(ran) if _named(case, each.name)), None)
        if place is None:
            results.append(_not_run(case, exit_status, last_words(output)))
        else:
            results += ran[: place + 1]
            del ran[: place + 1]
    return (*results, *ran)


def _named(case: PlannedCase, name: str) -> bool:
    """Whether `name` is what the shell made of the planned case's."""
    pattern = ".*".join(re.escape(part) for part in _VARIABLE.split(case.name))
    return re.fullmatch(pattern, name) is not None


def _result(ran: RanCase, skipped: bool, seconds_at: Callable[[int], float]) -> CaseResult:
    status = Status.SKIPPED if skipped and ran.status is Status.DIED else ran.status
    seconds = seconds_at(ran.ended) - seconds_at(ran.begun)
    return CaseResult(name=ran.name, status=status, seconds=round(seconds, 3), detail=ran.detail)


def _not_run(case: PlannedCase, exit_status: int | None, why: str) -> CaseResult:
    """Return the result of a case that did not run: only what is conditional may be left out."""
    if exit_status == SKIP_CODE:
        return CaseResult(name=case.name, status=Status.SKIPPED, seconds=None, detail=why)
    if exit_status == 0 and case.conditional:
        detail = "its condition does not hold on this kernel"
        return CaseResult(name=case.name, status=Status.SKIPPED, seconds=None, detail=detail)
    detail = "the script ended before it" if exit_status != 0 else "the script passed over it"
    return CaseResult(name=case.name, status=Status.NOT_RUN, seconds=None, detail=detail)


def script_outcome(cases: Iterable[CaseResult], output: str, exit_status: int | None) -> tuple[Status, str]:
    """Return how a script that came to its end ended, and why in a line.

    An exit status of 0 alone is not enough: every case must have run, and none may have failed.
    """
    bad = next((each for each in cases if each.status in (Status.FAILED, Status.DIED)), None)
    left_out = next((each for each in cases if each.status is Status.NOT_RUN), None)
    said = last_words(output)
    if exit_status == SKIP_CODE and (bad is None):
        return Status.SKIPPED, said or f"it exited {SKIP_CODE}"
    if bad is not None:
        how = "failed" if bad.status is Status.FAILED else f"has no result ({_end(exit_status)})"
        return Status.FAILED, f"case {bad.name!r} {how}" + (f": {said}" if said else "")
    if exit_status:
        return Status.FAILED, f"{_end(exit_status)} after its last result" + (f": {said}" if said else "")
    if left_out is not None:
        return Status.FAILED, f"case {left_out.name!r} never ran, though the script exited 0"
    return Status.OK, ""


def _end(exit_status: int | None) -> str:
    if exit_status is None:
        return "the script did not end"
    if exit_status > 128:
        return f"the script was killed by signal {exit_status - 128}"
    return f"the script exited {exit_status}"


def open_case(output: str, logged: Sequence[str] = ()) -> str:
    """Return the name of the case a script is in: begun, and without a result; empty if in none."""
    ran = ran_cases(output, logged)
    return ran[-1].name if ran and ran[-1].status is Status.DIED else ""
