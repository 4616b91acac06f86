# SPDX-License-Identifier: Apache-2.0
"""A livepatch's own structures, read from its file as the kernel will see them."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import cast

import pytest
from elffiles import ALLOC, LIVEPATCH, NOBITS, RELA, WRITE, Named, Part, elf

from klp.images.btf import Btf
from klp.model import Module
from klp.modules.modinfo import read_module
from klp.modules.tables import (
    FunctionEntry,
    KlpSymbol,
    LivepatchTables,
    ObjectEntry,
    klp_symbols,
    tables_in,
)
from klp.sourcepatch.objects import ObjectFile

MODULES = Path(__file__).parents[1] / "data" / "modules"
CALLBACKS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
# As on 6.1, 6.12 and 7.2 of Debian, for x86-64.
SIZES = {"klp_patch": 200, "klp_object": 168, "klp_func": 152}
OFFSETS = {
    "klp_patch": {"mod": 0, "objs": 8},
    "klp_object": {"name": 0, "funcs": 8, "callbacks": 16},
    "klp_func": {"old_name": 0, "new_func": 8, "old_sympos": 16},
    "klp_callbacks": {name: 8 * number for number, name in enumerate(CALLBACKS)},
}
DATA, STRINGS, CODE, ITSELF = 1, 2, 3, 4
ADDRESS = 1  # R_X86_64_64


class Sizes:
    """In place of a kernel's BTF."""

    def size(self, name: str) -> int:
        return SIZES[name]

    def offset(self, name: str, member: str) -> int:
        return OFFSETS[name][member]


TYPES = cast("Btf", Sizes())


class Written:
    """The data of a livepatch in the making: variables behind one another, pointers as relocations."""

    def __init__(self) -> None:
        self.data, self.strings = bytearray(), bytearray(b"\0")
        self.relocations: list[tuple[int, int, int, int]] = []
        self.variables: list[Named] = []

    def array(self, name: str, kind: str, entries: list[dict[str, str | int]], *, end: bool = True) -> int:
        """Add a variable that is an array of a structure; return where it begins."""
        begin = len(self.data)
        for number, entry in enumerate(entries):
            for member, value in entry.items():
                at = begin + number * SIZES[kind] + self._offset(kind, member)
                self._point(at, value)
        size = SIZES[kind] * (len(entries) + end)
        self.data += bytes(size)
        for number, entry in enumerate(entries):
            if "old_sympos" in entry:
                at = begin + number * SIZES[kind] + self._offset(kind, "old_sympos")
                self.data[at : at + 8] = struct.pack("<Q", entry["old_sympos"])
        self.variables.append(Named(name, DATA, begin, size, "OBJECT"))
        return begin

    def _offset(self, kind: str, member: str) -> int:
        if member in CALLBACKS:
            return OFFSETS[kind]["callbacks"] + OFFSETS["klp_callbacks"][member]
        return OFFSETS[kind][member]

    def _point(self, at: int, value: str | int) -> None:
        if value == "THIS_MODULE":
            self.relocations.append((at, ADDRESS, ITSELF, 0))
        elif value == "new":
            self.relocations.append((at, ADDRESS, CODE, 0))
        elif isinstance(value, str):
            self.relocations.append((at, ADDRESS, STRINGS, len(self.strings)))
            self.strings += value.encode() + b"\0"
        elif value >= 0x100:  # where an array begins; positions are small
            self.relocations.append((at, ADDRESS, DATA, value - 0x100))

    def file(self, *more: Part) -> ObjectFile:
        sections = [Named("", number, 0, 0, "SECTION") for number in (DATA, STRINGS, CODE, ITSELF)]
        parts = [
            Part(".data", bytes(self.data), flags=3, relocations=self.relocations),
            Part(".rodata.str1.1", bytes(self.strings)),
            Part(".text", bytes(16), flags=6),
            Part(".gnu.linkonce.this_module", bytes(64), flags=3),
            *more,
        ]
        return ObjectFile(elf(parts, [*sections, Named("new", CODE), *self.variables]))


def at(offset: int) -> int:
    """Return a pointer to an array, as `Written.array` takes it."""
    return 0x100 + offset


def written(
    functions: list[dict[str, str | int]], *, end: bool = True, objects_end: bool = True
) -> ObjectFile:
    made = Written()
    first = made.array("funcs", "klp_func", functions, end=end)
    made.array("next", "klp_func", [{"old_name": "stray", "new_func": "new"}])
    objects = made.array("objs", "klp_object", [{"funcs": at(first)}], end=objects_end)
    made.array("patch", "klp_patch", [{"mod": "THIS_MODULE", "objs": at(objects)}], end=False)
    return made.file()


SHOW = {"old_name": "show", "new_func": "new"}


def functions_of(file: ObjectFile) -> tuple[tuple[FunctionEntry, ...] | None, bool]:
    [table] = tables_in(file, TYPES)
    assert table.objects
    return table.objects[0].functions, table.objects[0].ended


def test_the_structures_of_a_real_module() -> None:
    [table] = tables_in(ObjectFile.of(MODULES / "klp_pair_fix.ko"), TYPES)
    seal = FunctionEntry("klp_pair_seal", "livepatch_pair_seal", 0)
    open_ = FunctionEntry("klp_pair_open", "livepatch_pair_open", 0)
    entry = ObjectEntry("klp_pair", (seal, open_), ended=True, callbacks=())
    assert table == LivepatchTables("patch", module=True, objects=(entry,), ended=True)


def test_callbacks_and_empty_arrays_of_a_real_module() -> None:
    [table] = tables_in(ObjectFile.of(MODULES / "livepatch-callbacks-demo.ko"), TYPES)
    assert table.objects
    assert [(each.shown, each.functions and len(each.functions)) for each in table.objects] == [
        ("vmlinux", ()), ("livepatch_callbacks_mod", ()), ("livepatch_callbacks_busymod", 1),
    ]  # fmt: skip
    assert {each.callbacks for each in table.objects} == {CALLBACKS}
    assert all(each.ended for each in table.objects)


def test_an_array_ends_where_the_kernel_ends_it() -> None:
    two = [SHOW, {"old_name": "other", "new_func": "new", "old_sympos": 2}]
    entries = (FunctionEntry("show", "new", 0), FunctionEntry("other", "new", 2))
    assert functions_of(written(two)) == (entries, True)
    # An empty entry in the midst is the end: what follows is never seen.
    assert functions_of(written([SHOW, {}, two[1]])) == (entries[:1], True)
    # And one that has a position only is not.
    assert functions_of(written([{"old_sympos": 1}])) == ((FunctionEntry(None, None, 1),), True)


@pytest.mark.parametrize("number", [1, 2])
def test_an_array_without_an_end_is_read_as_far_as_its_variable(number: int) -> None:
    functions, ended = functions_of(written([SHOW] * number, end=False))
    assert functions == (FunctionEntry("show", "new", 0),) * number
    assert not ended


def test_objects_without_an_end() -> None:
    [table] = tables_in(written([SHOW], objects_end=False), TYPES)
    assert table.objects
    assert (len(table.objects), table.ended) == (1, False)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"old_name": "show"}, FunctionEntry("show", None, 0)),
        ({"new_func": "new"}, FunctionEntry(None, "new", 0)),
        ({"old_name": "", "new_func": "new"}, FunctionEntry("", "new", 0)),
    ],
)
def test_what_is_null_is_told(entry: dict[str, str | int], expected: FunctionEntry) -> None:
    assert functions_of(written([entry])) == ((expected,), True)


def test_callbacks_of_the_entry_that_ends_the_objects_are_told() -> None:
    made = Written()
    objects = made.array("objs", "klp_object", [{"pre_patch": "new", "post_unpatch": "new"}])
    made.array("patch", "klp_patch", [{"mod": "THIS_MODULE", "objs": at(objects)}], end=False)
    [table] = tables_in(made.file(), TYPES)
    assert (table.objects, table.ended, table.unseen) == ((), True, ("pre_patch", "post_unpatch"))


def test_one_without_module_or_objects() -> None:
    made = Written()
    objects = made.array("objs", "klp_object", [{"name": "loop", "funcs": at(0)}])
    made.array("patch", "klp_patch", [{"objs": at(objects)}], end=False)
    made.array("empty", "klp_patch", [{"mod": "THIS_MODULE"}], end=False)
    first, second = tables_in(made.file(), TYPES)
    assert (first.module, second.module, second.objects) == (False, True, None)


def test_arrays_that_are_filled_at_loading_are_not_known() -> None:
    made = Written()
    made.variables.append(Named("objs", 5, 0, 336, "OBJECT"))
    made.array("patch", "klp_patch", [{"mod": "THIS_MODULE"}], end=False)
    made.relocations.append((8, ADDRESS, 6, 0))  # its objs: the symbol above
    bss = Part(".bss", bytes(336), flags=WRITE | ALLOC, kind=NOBITS)
    assert tables_in(made.file(bss), TYPES) == ()


def record(part: str, words: list[str | int]) -> ObjectFile:
    """Return a livepatch with one record of a section of its own: strings, functions, numbers."""
    made = Written()
    relocations, content = [], bytearray()
    for number, word in enumerate(words):
        content += struct.pack("<Q", word if isinstance(word, int) else 0)
        if word == "new":
            relocations.append((8 * number, ADDRESS, CODE, 0))
        elif isinstance(word, str):
            relocations.append((8 * number, ADDRESS, STRINGS, len(made.strings)))
            made.strings += word.encode() + b"\0"
    return made.file(Part(part, bytes(content), flags=3, relocations=relocations))


@pytest.mark.parametrize(("owner", "name"), [("vmlinux", None), ("loop", "loop")])
def test_what_kpatch_build_makes(owner: str, name: str | None) -> None:
    [table] = tables_in(record(".kpatch.funcs", ["new", 16, 0, 16, 3, "show", owner]), TYPES)
    entry = ObjectEntry(name, (FunctionEntry("show", "new", 3),), ended=True, callbacks=())
    assert table.objects == (entry,)


def test_what_klp_build_makes() -> None:
    made = Written()
    made.strings += b"loop\0show\0"
    functions = Part(
        ".init.klp_funcs", struct.pack("<QQQ", 0, 0, 2), flags=3,
        relocations=[(0, ADDRESS, STRINGS, 6), (8, ADDRESS, CODE, 0)],
    )  # fmt: skip
    objects = Part(
        ".init.klp_objects", struct.pack("<QQQQQQII", 0, 0, 0, 0, 0, 0, 1, 0), flags=3,
        relocations=[(0, ADDRESS, STRINGS, 1), (8, ADDRESS, 6, 0), (16, ADDRESS, CODE, 0)],
    )  # fmt: skip
    made.variables.insert(0, Named("funcs", 5, 0, 24, "OBJECT"))
    [table] = tables_in(made.file(functions, objects), TYPES)
    entry = ObjectEntry("loop", (FunctionEntry("show", "new", 2),), ended=True, callbacks=("pre_patch",))
    assert table.objects == (entry,)


def test_symbols_of_klp_relocations(tmp_path: Path) -> None:
    symbols = [Named(".klp.sym.loop.lo_open,2", LIVEPATCH, 0, 0, "NOTYPE"), Named("own", 1)]
    rela = b"".join(
        struct.pack("<QQq", at, number << 32 | 2, 0) for at, number in ((0, 1), (8, 2), (16, 1))
    )
    parts = [Part(".text", bytes(32), flags=6), Part(".klp.rela.loop..text.new", rela, kind=RELA)]
    file = tmp_path / "fix.ko"
    file.write_bytes(elf(parts, symbols))
    module = dataclasses.replace(read_module(MODULES / "klp_pair_fix.ko"), file=file)
    assert klp_symbols(cast("Module", module)) == (
        KlpSymbol("loop", ".text.new", "lo_open", 2), KlpSymbol("loop", ".text.new", "", 0),
    )  # fmt: skip
