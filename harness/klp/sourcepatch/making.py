# SPDX-License-Identifier: Apache-2.0
"""All stages from source patches to a folder that Kbuild builds, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp import arch
from klp.errors import PatchRefused
from klp.progress import Progress
from klp.sourcepatch.applying import PatchedFile, apply
from klp.sourcepatch.changes import Changes, changes_of
from klp.sourcepatch.engine import difference
from klp.sourcepatch.gates import obstacles, text_obstacles, unit_obstacles
from klp.sourcepatch.includes import index_of
from klp.sourcepatch.keys import cautions
from klp.sourcepatch.layers import Layer
from klp.sourcepatch.layouts import layout_obstacles
from klp.sourcepatch.linking import write_folder
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.proof import code_differences
from klp.sourcepatch.report import ChangedObject, Made, ReplacedFunction
from klp.sourcepatch.runtime_constants import constant_obstacles, placeholders, read_from_variables
from klp.sourcepatch.shipped import ShippedKernel
from klp.sourcepatch.units import compile_again, compile_unit, units_of
from klp.sourcepatch.values import (
    CompiledUnit,
    Obstacle,
    PreparedTree,
    Unit,
    UnitDifference,
)

_NO_CODE = "changes no code"
_NO_CODE_HINT = "comments, unused definitions and what this configuration leaves out are no code"


@dataclass(frozen=True, slots=True)
class MadeUnit:
    """What came of one unit.

    Attributes:
        difference: None where no code of it changed, or something stands in the way.
        obstacles: what stands in the way.
        warnings: what will not work as it did before.
    """

    changes: Changes
    difference: UnitDifference | None
    obstacles: tuple[Obstacle, ...]
    warnings: tuple[str, ...] = ()


def make(
    layer: Layer, tree: PreparedTree, into: Path, scratch: Path, progress: Progress, *, header_limit: int
) -> Made:
    """Make the sources of a livepatch in the folder `into`, for Kbuild.

    Args:
        scratch: an empty folder for what is needed meanwhile.
        header_limit: of a changed header, how many units may include it.

    Raises:
        PatchRefused: a livepatch cannot do what the patches do; its output has every reason.
        BuildFailed: the compiler refused the patched source.
    """
    files = apply(layer.patches, tree)
    _refuse(layer, text_obstacles(files))
    units = units_of(files, tree, header_limit=header_limit, index=lambda: _includes(tree))
    _refuse(layer, unit_obstacles(units))
    shipped = ShippedKernel(tree.kernel)
    made: list[MadeUnit] = []
    for unit in units:
        with progress.step(f"compiling {unit.source}"):
            compiled = compile_unit(unit, files, tree, _folder(scratch, unit))
        with progress.step(f"comparing {unit.stem}.o"):
            made.append(_made(compiled, files, tree, shipped, _folder(scratch, unit)))
    _refuse(layer, [each for one in made for each in one.obstacles])
    differences = [one.difference for one in made if one.difference]
    if not differences:
        raise PatchRefused(f"{_named(layer)}: {_NO_CODE}", output="", hint=_NO_CODE_HINT)
    write_folder(
        layer.file, differences, tree, into, replace=layer.replace, callbacks=layer.callbacks,
        states=tuple((each.id, each.version) for each in layer.states),
    )  # fmt: skip
    return _report(layer, tree, units, made)


def _includes(tree: PreparedTree) -> dict[str, list[str]]:
    if tree.includes is None:
        return index_of(tree.tree, arch.of(tree.kernel.architecture).kernel)
    return msgspec.json.decode(tree.includes.read_bytes(), type=dict[str, list[str]])


def _folder(scratch: Path, unit: Unit) -> Path:
    folder = scratch / unit.stem.replace("/", "-")
    folder.mkdir(exist_ok=True)
    return folder


def _made(
    compiled: CompiledUnit,
    files: Sequence[PatchedFile],
    tree: PreparedTree,
    shipped: ShippedKernel,
    scratch: Path,
) -> MadeUnit:
    texts = _texts(compiled.unit, files, tree)
    changes = changes_of(compiled, *texts)
    constants = placeholders(ObjectFile.of(compiled.after), changes)
    if constants:
        own = scratch / "constants"
        own.mkdir()
        compiled = compile_again(compiled, files, tree, own, read_from_variables(tree))
        changes = changes_of(compiled, *texts)
    if changes.nothing:
        return MadeUnit(changes, None, ())
    plain, held = ObjectFile.of(compiled.plain), shipped.object(compiled.unit.object)
    places = UnitPlaces.of(plain, held)
    found = [*obstacles(compiled, changes, tree, code_differences(plain, held, places))]
    found += layout_obstacles(compiled, tree)
    found += constant_obstacles(compiled.unit, constants, ObjectFile.of(compiled.after), held)
    if found:
        return MadeUnit(changes, None, tuple(found))
    new = difference(compiled, tree, shipped, places, scratch)
    return MadeUnit(changes, new, (), cautions(compiled, changes, tree, held))


def _texts(unit: Unit, files: Sequence[PatchedFile], tree: PreparedTree) -> tuple[bytes, bytes]:
    """Return a unit's C file before and after; where only a header of it changes, they are equal."""
    for each in files:
        if each.path == unit.source:
            return each.before or b"", each.after or b""
    text = (tree.tree / unit.source).read_bytes()
    return text, text


def _refuse(layer: Layer, found: Sequence[Obstacle]) -> None:
    if found:
        first, *more = found
        and_more = f" (and {len(more)} more)" if more else ""
        output = "\n".join(f"{each.words}\n  {each.way_out}" for each in found) if more else ""
        raise PatchRefused(f"{_named(layer)}: {first.words}{and_more}", output=output, hint=first.way_out)


def _named(layer: Layer) -> str:
    return layer.patches[-1].name


def _report(layer: Layer, tree: PreparedTree, units: Sequence[Unit], made: Sequence[MadeUnit]) -> Made:
    names = dict.fromkeys(
        each.object for one in made if one.difference for each in one.difference.functions
    )
    return Made(
        livepatch=layer.module, file=f"{layer.file}.ko", kernel=tree.kernel.name,
        release=tree.kernel.release, patches=tuple(each.name for each in layer.patches),
        units=tuple(each.source for each in units),
        objects=tuple(_object(name, made) for name in names),
        warnings=tuple(dict.fromkeys(words for one in made for words in one.warnings)),
        replace=layer.replace,
    )  # fmt: skip


def _object(name: str, made: Sequence[MadeUnit]) -> ChangedObject:
    functions: list[ReplacedFunction] = []
    added: dict[str, None] = {}
    for one in made:
        own = [each for each in one.difference.functions if each.object == name] if one.difference else []
        why = {each.name: each.why for each in one.changes.along}
        functions += [
            ReplacedFunction(name=each.name, position=each.position, along=why.get(each.name, ""))
            for each in own
        ]
        added |= dict.fromkeys(one.difference.added if own and one.difference else ())
    return ChangedObject(name=name, functions=tuple(functions), added=tuple(added))
