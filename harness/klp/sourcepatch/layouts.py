# SPDX-License-Identifier: Apache-2.0
"""Which structures a patch lays out in another way: what the running kernel holds has the old layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from klp.errors import HostLacks
from klp.images.btf import Btf, Layout, Member
from klp.images.sandbox import inside
from klp.process import run
from klp.sourcepatch.values import CompiledUnit, Obstacle, PreparedTree

_DEBUG = "-g"
_SHADOW = "keep the structure as it is, and hold what is new in a shadow variable (klp_shadow_alloc)"
_ENUM = "give new values numbers after the old ones"
_SHOWN = 3


def changed_layouts(compiled: CompiledUnit, tree: PreparedTree) -> tuple[str, ...]:
    """Return the structures, unions and enumerations that differ before and after, in words.

    Raises:
        HostLacks: the unit was compiled without debug information, or the root folder has no pahole.
    """
    before, after = (_types(each, tree) for each in (compiled.before, compiled.after))
    return tuple(f"{name}: {how}" for name, how in differing_layouts(before.layouts(), after.layouts()))


def layout_obstacles(compiled: CompiledUnit, tree: PreparedTree) -> tuple[Obstacle, ...]:
    """Return the changed layouts as what stands in a livepatch's way.

    Raises:
        HostLacks: see `changed_layouts`.
    """
    source = compiled.unit.source
    return tuple(
        Obstacle(
            source, "", f"changes the layout of {each}", _ENUM if each.startswith("enum ") else _SHADOW
        )
        for each in changed_layouts(compiled, tree)
    )


def _types(made: Path, tree: PreparedTree) -> Btf:
    with TemporaryDirectory(prefix="klp-") as folder:
        found = Path(folder) / "types.btf"
        argv = ["pahole", f"--btf_encode_detached={found}", str(made)]
        run(
            inside(tree.root, argv, cwd=made.parent, readable=[made.parent], writable=[Path(folder)]),
            check=False,
        )
        if not found.is_file():
            raise HostLacks(
                f"{made.name}: no types could be read from it",
                hint=f"compile it with debug information ({_DEBUG}); pahole must be in the root folder",
            )
        return Btf(found.read_bytes())


def differing_layouts(
    before: Mapping[str, frozenset[Layout]], after: Mapping[str, frozenset[Layout]]
) -> Iterator[tuple[str, str]]:
    """Yield which types of both are laid out in another way, and how."""
    for name in sorted(before.keys() & after.keys()):
        gone, come = before[name] - after[name], after[name] - before[name]
        # More than one type may have a name; one that is only in use now, or no more, is no change of it.
        for old, new in zip(sorted(gone, key=repr), sorted(come, key=repr), strict=False):
            words = _values(old, new) if name.startswith("enum ") else _difference(old, new)
            if words:
                yield name, "; ".join(words)


def _difference(old: Layout, new: Layout) -> list[str]:
    was, becomes = ({each.name: each for each in layout.members} for layout in (old, new))
    found = [f"{abs(new.size - old.size)} bytes {'longer' if new.size > old.size else 'shorter'}"]
    parts = [f"member {n} new at offset {_offset(becomes[n])}" for n in becomes if n not in was]
    parts += [f"member {name} gone" for name in was if name not in becomes]
    both = [(name, was[name], becomes[name]) for name in was if name in becomes]
    parts += [f"member {n} is {b.kind}, was {a.kind}" for n, a, b in both if a.kind != b.kind]
    parts += [
        f"member {n} moved from {_offset(a)} to {_offset(b)}"
        for n, a, b in both
        if (a.bits, a.width) != (b.bits, b.width)
    ]
    return _some([*(found if old.size != new.size else []), *parts])


def _values(old: Layout, new: Layout) -> list[str]:
    was, becomes = ({each.name: each.bits for each in layout.members} for layout in (old, new))
    # A value that is new at the end changes nothing for who does not know it.
    return _some([
        f"{name} is {becomes[name]}, was {was[name]}"
        for name in was
        if name in becomes and was[name] != becomes[name]
    ])  # fmt: skip


def _offset(member: Member) -> str:
    bit = member.bits % 8 if member.width else 0
    return f"{member.bits // 8}" + (f" bit {bit}" if member.width else "")


def _some(words: list[str]) -> list[str]:
    more = len(words) - _SHOWN
    return [*words[:_SHOWN], f"and {more} more"] if more > 0 else words
