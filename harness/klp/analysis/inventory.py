# SPDX-License-Identifier: Apache-2.0
"""What a system has, before a livepatch was loaded and after it was unloaded: compared, and put in words.

An inventory is a table of sections, each of keys with a value: ``sysctl`` has ``/proc/sys/kernel/panic``
with ``0``, ``kthreads`` has ``kswapd0`` with how many there are. Two inventories of an idle system differ,
too: what varies by itself is learned from lives of a livepatch that does nothing. Pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

NAMES, SYSCTL, LINKS, MODULES = "names", "sysctl", "links", "modules"
KTHREADS, VMALLOC, FTRACE = "kthreads", "vmalloc", "ftrace"
TIMERS, WORKS, NOTIFIERS, OPEN_FILES = "timers", "works", "notifiers", "open files"
# Functions of modules that were there before are called by them as they please: the journal's commit timer
# comes and goes with what is written.
_CALLED = frozenset({TIMERS, WORKS})
# How much of a list of paths is told.
_PLACES = 3

# The order in which differences are told: first what names a thing of the livepatch's best.
_NOUNS = {
    SYSCTL: "", MODULES: "module", KTHREADS: "kthread", TIMERS: "timer of", WORKS: "work item of",
    NOTIFIERS: "notifier", "kprobes": "kprobe", FTRACE: "ftrace user of",
    "cpu-states": "CPU hotplug state", "mounts": "mount", LINKS: "", "addresses": "address",
    "routes": "route", "registered": "", "interrupts": "interrupt", NAMES: "", VMALLOC: "vmalloc area of",
    OPEN_FILES: "open file of",
}  # fmt: skip
# Their values count alike things.
_COUNTED = frozenset({KTHREADS, TIMERS, WORKS, NOTIFIERS, "kprobes", VMALLOC, OPEN_FILES})
_ORDER = tuple(_NOUNS)
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_SLAB = "/sys/kernel/slab/"
_LIVEPATCHES = "/sys/kernel/livepatch/"


class Inventory(msgspec.Struct, frozen=True):
    """What a system has at one moment.

    Attributes:
        sections: by name; each key has a value, which is empty where the key tells all.
        modules: where each module's code and data lie: begin and end.
        unread: the sections that could not be read.
    """

    sections: dict[str, dict[str, str]]
    modules: dict[str, tuple[int, int]] = {}
    unread: tuple[str, ...] = ()


class Alteration(msgspec.Struct, frozen=True, order=True):
    """One key whose value is not what it was; None where there was none, or is none."""

    section: str
    key: str
    was: str | None
    now: str | None

    @property
    def pattern(self) -> str:
        """The key by which a variation knows it: numbers are masked, for those of a pid or a slot vary."""
        return f"{self.section} {_NUMBER.sub('#', self.key)}"


class Variation(msgspec.Struct, frozen=True):
    """What changes by itself: patterns of keys, as `Alteration.pattern` has them."""

    patterns: frozenset[str] = frozenset()

    def __or__(self, other: Variation) -> Variation:
        """Return what either knows."""
        return Variation(self.patterns | other.patterns)

    def __contains__(self, difference: Alteration) -> bool:
        """Whether it was seen to change by itself."""
        return difference.pattern in self.patterns


def differences(before: Inventory, after: Inventory) -> tuple[Alteration, ...]:
    """Return what `after` has, lacks or has otherwise than `before`, in the order in which it is told.

    Only of sections that both have.
    """
    names = sorted(before.sections.keys() & after.sections.keys(), key=_place)
    found = (
        Alteration(name, key, was, now)
        for name in names
        for key, was, now in _changed(before.sections[name], after.sections[name])
    )
    return tuple(each for each in found if _counts(each, before))


def _place(section: str) -> tuple[int, str]:
    kind = _kind(section)
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), section)


def _kind(section: str) -> str:
    return "registered" if section.startswith("registered ") else section


def _changed(
    before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[tuple[str, str | None, str | None]]:
    for key in sorted({*before, *after}):
        was, now = before.get(key), after.get(key)
        if was != now:
            yield key, was, now


def _counts(difference: Alteration, before: Inventory) -> bool:
    section, key, was, now = difference.section, difference.key, difference.was, difference.now
    if section in (SYSCTL, LINKS):  # what came or went is among the names
        return was is not None and now is not None
    if section in _CALLED:
        owner = re.search(r"\[([^]]+)\]\Z", key)
        return now is not None and not (owner and owner[1] in before.modules)
    # A cumulative livepatch takes the place of those below it: they leave sysfs and ftrace, and their
    # modules lose a reference. The rules judge that.
    if section == NAMES:
        return not key.startswith(_LIVEPATCHES)
    if section == MODULES:
        return was is None or now is None or _LIVEPATCHES + key not in before.sections.get(NAMES, {})
    if section == FTRACE:
        return _users(now) > _users(was)
    return True


def _users(flags: str | None) -> int:
    """Return how many use ftrace on a function: ``(2) R I``."""
    found = re.search(r"\((\d+)\)", flags or "")
    return int(found[1]) if found else 0


def put_back(found: Iterable[Alteration], first: Inventory) -> tuple[Alteration, ...]:
    """Return the alterations but those to what was at first, before livepatches below were loaded.

    What those have changed, a cumulative livepatch in their place may change back when it is disabled.
    """
    return tuple(each for each in found if first.sections.get(each.section, {}).get(each.key) != each.now)


def learned(before: Inventory, after: Inventory, first: Inventory | None = None) -> Variation:
    """Return what changed by itself: between two inventories around a control life.

    Args:
        first: what was there before something was left behind: that it goes after all, or is put back, says
            nothing of what varies by itself.
    """
    found = differences(before, after)
    return Variation(frozenset(each.pattern for each in (put_back(found, first) if first else found)))


def unexplained(found: Iterable[Alteration], variation: Variation) -> tuple[Alteration, ...]:
    """Return the differences that were never seen to come about by themselves."""
    return tuple(each for each in found if each not in variation)


def confirmed(left: Iterable[Alteration], later: Iterable[Alteration]) -> tuple[Alteration, ...]:
    """Return those of `left` that are among `later` as well, after another module was loaded.

    But timers, work items and notifiers are kept: they are read in memory of a module that is gone, and
    which that other module may have had since.
    """
    known = {(each.section, each.key) for each in later}
    return tuple(
        each for each in left
        if (each.section, each.key) in known or each.section in (*_CALLED, NOTIFIERS)
    )  # fmt: skip


def lasting(earlier: Iterable[Alteration], later: Iterable[Alteration]) -> tuple[Alteration, ...]:
    """Return those of `later` that `earlier` has as well, whatever their values: the others come and go."""
    known = {(each.section, each.key) for each in earlier}
    return tuple(each for each in later if (each.section, each.key) in known)


def in_words(found: Iterable[Alteration]) -> tuple[str, ...]:
    """Say in a line each what was left changed or behind, or is gone; paths below one path in its line."""
    rest: list[Alteration] = []
    came: list[str] = []
    went: list[str] = []
    for each in found:
        if each.section != NAMES:
            rest.append(each)
        else:
            (came if each.was is None else went).append(each.key)
    lines = [_line(each) for each in rest if each.section not in (VMALLOC, OPEN_FILES)]
    last = [_line(each) for each in rest if each.section in (VMALLOC, OPEN_FILES)]
    return (*lines, *grouped("left behind", came), *grouped("gone", went), *last)


def _line(difference: Alteration) -> str:
    kind = _kind(difference.section)
    noun = _NOUNS.get(kind, kind)
    thing = f"{noun} {difference.key}".strip()
    if kind == "registered":
        thing = f"{difference.key} in /proc/{difference.section.removeprefix('registered ')}"
    was, now = difference.was, difference.now
    if kind in _COUNTED:
        return _counted(kind, thing, int(was or 0), int(now or 0))
    if was is None:
        return f"left behind: {thing}"
    if now is None:
        return f"gone: {thing}"
    if kind == MODULES:
        return f"left changed: the reference count of {thing} is {now}, was {was}"
    return f"left changed: {thing} is {now!r}, was {was!r}"


def _counted(kind: str, thing: str, was: int, now: int) -> str:
    if kind not in (VMALLOC, OPEN_FILES):
        several = f" ({now - was} of them)" if now - was > 1 else ""
        return f"left behind: {thing}{several}" if now > was else f"gone: {thing}"
    number, sort = abs(now - was), "more" if now > was else "fewer"
    head, _, owner = thing.partition(" of ")
    return f"{'one' if number == 1 else number} {sort} {head}{'' if number == 1 else 's'} of {owner}"


def grouped(what: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield a line for each path that has no other above it, and for all of one last name only one.

    One device shows in several folders of /sys and /proc, and in each with dozens of names below it.
    """
    below = _below(paths)
    alike: dict[str, list[str]] = defaultdict(list)
    for path in below:
        alike[path.rpartition("/")[2]].append(path)
    for same in alike.values():
        first, *others = sorted(same, key=lambda path: (-below[path], path))
        shown = f"slab cache {first.removeprefix(_SLAB)}" if first.startswith(_SLAB) else first
        number = below[first]
        more = f" and {number} name{'' if number == 1 else 's'} below it" if number else ""
        yield f"{what}: {shown}{more}{_elsewhere(others)}"


def _below(paths: Iterable[str]) -> dict[str, int]:
    """Return the paths without one above them, each with how many it has below."""
    found: dict[str, int] = {}
    for path in sorted(paths):  # what is above comes first
        top = next((each for each in _above(path) if each in found), None)
        if top is None:
            found[path] = 0
        else:
            found[top] += 1
    return found


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _elsewhere(others: list[str]) -> str:
    if not others:
        return ""
    folders = [path.rpartition("/")[0] for path in others]
    more = f" and {len(folders) - _PLACES} more" if len(folders) > _PLACES else ""
    return f" (also in {', '.join(folders[:_PLACES])}{more})"
