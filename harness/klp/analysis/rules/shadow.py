# SPDX-License-Identifier: Apache-2.0
"""Rules of shadow variables: kernel/livepatch/shadow.c, Documentation/livepatch/shadow-vars.rst.

The ledger (`klp.analysis.shadow`) judges each event as it passes, because there may be millions. What is
here gives each of its findings a rule.
"""

from __future__ import annotations

from dataclasses import replace

from klp.analysis.evidence import KEPT, Finding
from klp.analysis.history import History
from klp.analysis.holes import bare
from klp.analysis.rules.rule import rule

_DOCUMENT = "kernel/livepatch/shadow.c, Documentation/livepatch/shadow-vars.rst"
_PROBE = "klpshadow"
_STACK = "klpstates"
_ALLOC = "klp_shadow_alloc klp_shadow_get_or_alloc"
_FREE = "klp_shadow_free klp_shadow_free_all klp_shadow_free_struct"


def _of(history: History, name: str) -> Finding:
    return history.shadow.findings[name]


@rule(
    "S1",
    "At most one variable per <obj, id>: klp_shadow_alloc of an existing one returns NULL and warns.",
    f"klp_shadow_alloc, {_DOCUMENT}",
    _PROBE,
    f"{_ALLOC} {_FREE}",
)
def one_variable(history: History) -> Finding:
    """Judge klp_shadow_alloc: shadow-vars.rst, *klp_shadow_alloc()*, "WARN and return NULL"."""
    return _of(history, "S1")


@rule(
    "S2",
    "klp_shadow_get returns the allocated pointer until it is freed, and NULL before and after.",
    f"klp_shadow_get, {_DOCUMENT}",
    _PROBE,
    f"klp_shadow_get {_ALLOC} {_FREE}",
)
def get(history: History) -> Finding:
    """Judge klp_shadow_get: shadow-vars.rst, *klp_shadow_get()*; compared in the kernel, call by call."""
    return _of(history, "S2")


@rule(
    "S3",
    "klp_shadow_get_or_alloc returns the existing one, or allocates exactly one; racing callers get the"
    " same pointer.",
    f"klp_shadow_get_or_alloc, {_DOCUMENT}",
    _PROBE,
    f"{_ALLOC} {_FREE}",
)
def get_or_alloc(history: History) -> Finding:
    """Judge klp_shadow_get_or_alloc: shadow-vars.rst, *klp_shadow_get_or_alloc()*."""
    return _of(history, "S3")


@rule(
    "S4",
    "A constructor runs once per allocation, before anyone can get it; if it fails, nothing is registered"
    " and NULL is returned.",
    f"__klp_shadow_get_or_alloc, {_DOCUMENT}",
    _PROBE,
    _ALLOC,
)
def constructor(history: History) -> Finding:
    """Judge the constructor in __klp_shadow_get_or_alloc: shadow-vars.rst, "klp_shadow_ctor_t"."""
    return _of(history, "S4")


@rule(
    "S5",
    "A destructor runs exactly once per freed variable that was freed with one.",
    f"klp_shadow_free_struct, {_DOCUMENT}",
    _PROBE,
    _FREE,
)
def destructor(history: History) -> Finding:
    """Judge the destructor in klp_shadow_free_struct: shadow-vars.rst, "klp_shadow_dtor_t"."""
    return _of(history, "S5")


@rule(
    "S6",
    "klp_shadow_free_all(id) frees every variable of that id and no other.",
    f"klp_shadow_free_all, {_DOCUMENT}",
    _PROBE,
    f"{_ALLOC} {_FREE}",
)
def free_all(history: History) -> Finding:
    """Judge klp_shadow_free_all: shadow-vars.rst, *klp_shadow_free_all()*, "all <*, id>"."""
    return _of(history, "S6")


@rule(
    "S7",
    "Ledger: every variable is freed once, never twice; those alive when their livepatch is removed are"
    " leaks.",
    f"klp_shadow_free, {_DOCUMENT}",
    _PROBE,
    f"{_ALLOC} {_FREE}",
)
def ledger(history: History) -> Finding:
    """Judge klp_shadow_free_struct and klp_module_going: shadow-vars.rst, *Matching parent's lifecycle*."""
    found, shadow = _of(history, "S7"), history.shadow
    if not shadow.ledger.left and not shadow.leaks:
        return replace(found, undecided=shadow.unsettled)
    if unseen := _comings_unseen(history):
        return replace(found, gap=f"variables were left, and {unseen}")
    return replace(
        found,
        observations=found.observations + len(shadow.leaks),
        lacking=(*found.lacking, *shadow.leaks[:KEPT]),
        undecided=shadow.unsettled,
    )


def _comings_unseen(history: History) -> str:
    """Return why it is not known which livepatches were there when a module went; empty if it is."""
    if _STACK not in history.headers:
        return f"{_STACK} was not running, which tells when a livepatch goes"
    symbols = {"", *(bare(each) for each in ("klp_module_going", "klp_enable_patch"))}
    return next(
        (hole.words for hole in history.holes if hole.probe == _STACK and hole.symbol in symbols), ""
    )


@rule(
    "S8",
    "Without a constructor the data is zeroed.",
    f"__klp_shadow_get_or_alloc, {_DOCUMENT}",
    _PROBE,
    _ALLOC,
)
def zeroed(history: History) -> Finding:
    """Judge the kzalloc in __klp_shadow_get_or_alloc: shadow-vars.rst, "initialized with zeros"."""
    return _of(history, "S8")


@rule(
    "S9",
    "Readers take no lock: a klp_shadow_get racing a free returns the variable or NULL.",
    f"klp_shadow_get, {_DOCUMENT}",
    _PROBE,
    f"klp_shadow_get {_ALLOC} {_FREE}",
)
def racing(history: History) -> Finding:
    """Judge klp_shadow_get under RCU beside hash_del_rcu: shadow-vars.rst, *API*, on concurrency."""
    return _of(history, "S9")
