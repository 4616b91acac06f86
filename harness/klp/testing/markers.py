# SPDX-License-Identifier: Apache-2.0
"""The plugin's markers: what they say of a test, and what is wrong with one that was written badly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from klp.kernels import series

if TYPE_CHECKING:
    import pytest

MARKERS = (
    "klp_kernels(*names, min=None, max=None, reason=...): the kernels that a test is for; "
    "it is skipped on others",
    "klp_rules(*ids): the rules that a test observes, such as 'T1': its trace must hold each",
    "klp_breaks(*ids, reason=...): the rules that its trace must show broken",
    "klp_expects(pattern, reason=...): the kernel log must hold this, and it is no fault",
)
_RULE = re.compile(r"[A-Z][0-9]+")
_SERIES = re.compile(r"(\d+)\.(\d+)")


def complaint(item: pytest.Item) -> str:
    """Return what is wrong with an item's markers; an empty string if nothing is."""
    for name, check in _CHECKS:
        for mark in item.iter_markers(name):
            wrong = check(*mark.args, **mark.kwargs)
            if wrong:
                return f"{name}: {wrong}"
    return ""


def _unknown(given: dict[str, Any]) -> str:
    return f"no such argument: {', '.join(given)}" if given else ""


def _kernels(*names: object, min: str = "", max: str = "", reason: str = "", **more: Any) -> str:
    # Whatever leaves out a test, or excuses what it finds, must have a reason: the report says it in place
    # of a result.
    bounds = [*names, *(each for each in (min, max) if each)]
    wrong = [each for each in bounds if not (isinstance(each, str) and _SERIES.fullmatch(each))]
    if wrong:
        return f"{wrong[0]!r} is no kernel; write '6.12'"
    if not bounds:
        return "names no kernel"
    return _unknown(more) or ("" if reason else "has no reason=; say why other kernels are left out")


def _rules(*ids: object, **more: Any) -> str:
    wrong = [each for each in ids if not (isinstance(each, str) and _RULE.fullmatch(each))]
    if wrong:
        return f"{wrong[0]!r} is no rule; write 'T1'"
    return _unknown(more) or ("" if ids else "names no rule")


def _breaks(*ids: object, reason: str = "", **more: Any) -> str:
    return _rules(*ids, **more) or ("" if reason else "has no reason=; say what breaks it here")


def _expects(*patterns: object, reason: str = "", **more: Any) -> str:
    if len(patterns) != 1 or not isinstance(patterns[0], str) or not patterns[0]:
        return "takes one regular expression"
    try:
        re.compile(patterns[0])
    except re.error as error:
        return f"{patterns[0]!r} is no regular expression: {error}"
    return _unknown(more) or ("" if reason else "has no reason=; say why the kernel may report this")


_CHECKS = (
    ("klp_kernels", _kernels),
    ("klp_rules", _rules),
    ("klp_breaks", _breaks),
    ("klp_expects", _expects),
)


def not_for(item: pytest.Item, own: tuple[int, ...]) -> str:
    """Return why an item is not for kernels of a series; an empty string if it is, or that is unknown."""
    for mark in item.iter_markers("klp_kernels"):
        low, high = (series(mark.kwargs.get(bound) or "") for bound in ("min", "max"))
        named = {series(name) for name in mark.args}
        inside = (not named or own in named) and (not low or own >= low) and own <= (high or own)
        if own and not inside:
            return f"not for this kernel: {mark.kwargs['reason']}"
    return ""


def rules_of(item: pytest.Item) -> list[str]:
    """Return the rules that an item observes, each once."""
    return list(dict.fromkeys(rule for mark in item.iter_markers("klp_rules") for rule in mark.args))


def breaks_of(item: pytest.Item) -> list[str]:
    """Return the rules that an item says its trace breaks, each once."""
    return list(dict.fromkeys(rule for mark in item.iter_markers("klp_breaks") for rule in mark.args))


def expects_of(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Yield pattern and reason of each line that an item expects in the kernel log."""
    return ((mark.args[0], mark.kwargs["reason"]) for mark in item.iter_markers("klp_expects"))
