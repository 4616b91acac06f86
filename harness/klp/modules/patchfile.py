# SPDX-License-Identifier: Apache-2.0
"""A source patch as something to make livepatches of, and the TOML file that may stand beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp.errors import UnknownName, UsageError
from klp.sourcepatch.layers import Layer, MakeTable, module_file
from klp.toml import read_toml

PATCH_SUFFIXES = (".patch", ".diff")
_MAKE = "[make]\n"
_SPDX = "# SPDX-License-Identifier: GPL-2.0-only\n"


@dataclass(frozen=True, slots=True)
class SourcePatch:
    """A change of the kernel's source, of which a livepatch is made for each kernel.

    Attributes:
        name, word, digest: see `klp.modules.sources.SourceFolder`; of all files that take part.
        layers: the livepatches that are made, in the order in which they are loaded; the last is its own.
        companion: the TOML file beside it; None without.
    """

    name: str
    word: str
    digest: str
    layers: tuple[Layer, ...]
    companion: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that take part."""
        return files_of(self.layers, self.companion)


class _MakePart(msgspec.Struct, frozen=True):
    """The one table of a companion that is of interest here; `klp.modules.plan` knows all others."""

    make: MakeTable = MakeTable()


def is_patch(path: Path) -> bool:
    """Whether a file is called as source patches are."""
    return path.suffix in PATCH_SUFFIXES


def layers_of(patch: Path) -> tuple[tuple[Layer, ...], Path | None]:
    """Return the livepatches that a patch stands for, and the TOML file beside it.

    Raises:
        UsageError: a file that is named beside it is not there.
        SettingsError: the TOML file is broken.
    """
    companion = patch.with_suffix(".toml")
    table = read_toml(companion, _MakePart).make if companion.is_file() else MakeTable()
    earlier = [_beside(patch, each, companion) for each in table.replaces]
    layers: list[Layer] = []
    before: tuple[Path, ...] = ()
    for each in earlier:
        own, _ = layers_of(each)
        layer = own[-1]
        before = (*before, *(one for one in layer.patches if one not in before))
        layers.append(Layer(layer.file, before, layer.callbacks, layer.states, bool(layers)))
    first = tuple(_beside(patch, each, companion) for each in table.first)
    callbacks = _beside(patch, table.callbacks, companion) if table.callbacks else None
    layers.append(
        Layer(module_file(patch), (*before, *first, patch), callbacks, table.state, bool(earlier))
    )
    return tuple(layers), companion if companion.is_file() else None


def patch_series(patches: Sequence[Path], *, cumulative: bool) -> SourcePatch:
    """Return what several patches of a command line stand for, in their order.

    Args:
        cumulative: whether each is a livepatch of its own, which replaces those before, and not all of
            them together one.

    Raises:
        UsageError: one is no patch, or the file beside one says itself what comes before it.
    """
    for each in patches:
        if each.is_dir():
            word = shlex.quote(str(each))
            hint = (
                f"source patches are files: fix.patch; klp check {word} and klp build {word} take folders"
            )
            raise UsageError(f"{each}: is a folder", hint=hint)
        if not each.is_file():
            beside = [str(one) for one in each.parent.glob("*") if is_patch(one)]
            hint = f"looked for {each.absolute()}"
            raise UnknownName(f"{each}: no such file", str(each), beside, hint=hint)
        if not is_patch(each):
            raise UsageError(f"{each}: not called as a source patch is", hint="name it .patch or .diff")
    names = [each.name for each in patches]
    if twice := next((each for each in names if names.count(each) > 1), ""):
        raise UsageError(f"{twice}: two patches have that name", hint="rename one")
    *before, last = patches
    for each in patches if before else ():
        _says_nothing_of_others(each)
    layers, companion = layers_of(last)
    if before and cumulative:
        own = [layers_of(each)[0][-1] for each in patches]
        layers = tuple(
            dataclasses.replace(
                each, patches=tuple(one for layer in own[: number + 1] for one in layer.patches),
                replace=number > 0,
            )
            for number, each in enumerate(own)
        )  # fmt: skip
    elif before:
        layers = (dataclasses.replace(layers[-1], patches=(*before, *layers[-1].patches)),)
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in patches)).hexdigest()
    return SourcePatch(last.name, str(last), digest, layers, companion)


def _says_nothing_of_others(patch: Path) -> None:
    companion = patch.with_suffix(".toml")
    if not companion.is_file():
        return
    table = read_toml(companion, _MakePart).make
    if table.first or table.replaces:
        raise UsageError(
            f"{companion}: says what comes before {patch.name}", hint=f"name {patch.name} alone"
        )
    if table != MakeTable() and _MAKE not in companion.read_text(encoding="utf-8"):
        raise UsageError(f"{companion}: [make] is not on a line of its own", hint="write it so")


def write_inputs(source: SourcePatch, folder: Path) -> Path:
    """Copy what a source patch is made of into a folder, so that its patch there stands for the same.

    Returns:
        The patch there.
    """
    for file in source.files:
        shutil.copyfile(file, folder / file.name)
    own = source.layers[-1].patches[-1]
    before = source.layers[-1].patches[:-1]
    beside = folder / own.with_suffix(".toml").name
    text = beside.read_text(encoding="utf-8") if beside.exists() else _SPDX
    if before and not {"first", "replaces"} & set(tomllib.loads(text).get("make", {})):
        key = "replaces" if len(source.layers) > 1 else "first"
        names = ", ".join(f'"{each.name}"' for each in before)
        line = f"{_MAKE}{key} = [{names}]\n"
        text = text.replace(_MAKE, line) if _MAKE in text else f"{text}\n{line}"
        beside.write_text(text, encoding="utf-8")
    return folder / own.name


def _beside(patch: Path, name: str, companion: Path) -> Path:
    file = patch.parent / name
    if not file.is_file():
        raise UsageError(f"{companion}: {name}: no such file beside it")
    return file


def files_of(layers: Sequence[Layer], companion: Path | None) -> tuple[Path, ...]:
    """Return all files that layers are made of, and the companion."""
    found = [each for layer in layers for each in (*layer.patches, layer.callbacks) if each]
    return tuple(dict.fromkeys([*found, *([companion] if companion else [])]))
