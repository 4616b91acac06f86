# SPDX-License-Identifier: Apache-2.0
"""A kernel's own symbols, where a unit is among them, and whether the unit is the kernel's code."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from klp.arch import AMD64
from klp.errors import PatchRefused, UsageError
from klp.images import kmods
from klp.model import Kernel
from klp.process import run
from klp.sourcepatch.kallsyms import kernel_symbols
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.proof import code_differences
from klp.sourcepatch.shipped import ShippedKernel, ShippedObject, kernel_object, module_object
from tests.unit.elffiles import ALLOC, NOBITS, PC32, WRITE, Named, Part, elf
from tests.unit.kernelfiles import symbol_table

TEXT, RODATA, DATA = 0xFFFFFFFF81000000, 0xFFFFFFFF82000000, 0xFFFFFFFF83000000
LAYOUTS = ("6.1", "6.12", "7.2")
# Enough of them for several markers.
OTHERS = [(DATA + 0x1000 + each, "d", f"other_{each}") for each in range(1500)]
# Two units: each with a function show() and a static flag of a name that many units have.
OURS = TEXT + 0x100
SYMBOLS = [
    (TEXT, "T", "_text"),
    (TEXT, "t", "show"),
    (TEXT + 0x10, "t", "first_only"),
    (TEXT + 0x80, "t", "notify"),
    (OURS, "t", "show"),
    (OURS + 0x10, "t", "second_only"),
    (OURS + 0x40, "T", "notify"),
    (OURS + 0x60, "T", "weak_one"),
    (DATA, "d", "flag.0"),
    (DATA + 8, "b", "flag.0"),
    (DATA + 0x20, "D", "name_of_" + "x" * 300),
]
# Each function of 16 bytes; the second unit's show() refers to its flag.0.
FIELD = 4
TO_FLAG = struct.pack("<i", DATA + 8 - 4 - (OURS + FIELD))
SHOW = b"\x90" * FIELD + TO_FLAG + bytes(range(8))
SECOND_ONLY = bytes(range(16, 32))


def symbols_of(layout: str) -> list[tuple[int, str, str]]:
    """In 6.1 and 6.12 variables of each CPU are at addresses from 0 on."""
    of_each_cpu = [] if layout == "7.2" else [(0, "A", "__per_cpu_start"), (0x40, "a", "runqueues")]
    return [*of_each_cpu, *SYMBOLS, *OTHERS]


def table_of(layout: str) -> bytes:
    # Not at the beginning of read-only data, and not at its end.
    return b"read only data.." + symbol_table(symbols_of(layout), layout, RODATA + 16) + bytes(64)


def shipped_kernel(layout: str = "6.12", text: bytes = b"") -> ShippedObject:
    own = text or bytes(0x100) + SHOW + SECOND_ONLY
    parts = [
        Part(".text", own, TEXT),
        Part(".rodata", table_of(layout), RODATA),
        Part(".data", bytes(0x40), DATA, ALLOC | WRITE),
        Part(".bss", bytes(0x40), DATA + 0x40, ALLOC | WRITE, NOBITS),
        Part(".comment", b"a compiler's words", 0, 0),
    ]
    return kernel_object(elf(parts), AMD64)


# The second unit as it is compiled: 1 is its text, 2 holds its flag alone.
UNIT_SYMBOLS = (
    Named("show", 1),
    Named("second_only", 1, 0x10),
    Named("flag.0", 2, size=1, kind="OBJECT"),
    Named("notify", 0, kind="NOTYPE", local=False),
)
TO_ITS_FLAG = ((FIELD, PC32, 3, -4),)


def unit(
    text: bytes = SHOW + SECOND_ONLY,
    symbols: tuple[Named, ...] = UNIT_SYMBOLS,
    relocations: tuple[tuple[int, int, int, int], ...] = TO_ITS_FLAG,
) -> ObjectFile:
    flag = Part(".data..once", bytes(1), 0, ALLOC | WRITE)
    return ObjectFile(elf([Part(".text", text, relocations=relocations), flag], symbols))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_table_is_read_as_each_kernel_has_it(layout: str) -> None:
    assert [tuple(each) for each in kernel_symbols(table_of(layout), RODATA, TEXT)] == symbols_of(layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_without_variables_of_each_cpu_is_read(layout: str) -> None:
    symbols = [*SYMBOLS, *OTHERS]
    table = symbol_table(symbols, layout, RODATA)
    assert [tuple(each) for each in kernel_symbols(table, RODATA, TEXT)] == symbols


def second_marker(layout: str) -> int:
    """Where the 257th name is: all are short but one of the first, whose length takes two bytes."""
    return sum(len(name) + 2 for _, _, name in symbols_of(layout)[:256]) + 1


def place_of(part: str, layout: str) -> tuple[bytes, int]:
    """Return bytes that are in a table once, and how far from them a part of it is."""
    count = len(symbols_of(layout))
    return {
        "length of a name": (b"dother_300", -1),
        "token": (b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0", 3),
        "offset of a token": (struct.pack("<3H", 0, 9, 18), 2),
        "marker": (struct.pack("<2I", 0, second_marker(layout)), 4),
        "count": (struct.pack("<I", count) + (b"" if layout == "7.2" else bytes(4)), 0),
        "name of the beginning": (b"T_text", 2),
    }[part]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "part",
    ["length of a name", "token", "offset of a token", "marker", "count", "name of the beginning"],
)
def test_a_table_that_contradicts_itself_is_refused(layout: str, part: str) -> None:
    table = table_of(layout)
    what, distance = place_of(part, layout)
    assert table.count(what) == 1
    place = table.index(what) + distance
    damaged = table[:place] + bytes([table[place] ^ 4]) + table[place + 1 :]
    with pytest.raises(UsageError, match="no table of its symbols that agrees with itself"):
        kernel_symbols(damaged, RODATA, TEXT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_addresses_must_agree_with_where_the_text_is(layout: str) -> None:
    with pytest.raises(UsageError):
        kernel_symbols(table_of(layout), RODATA, TEXT + 0x1000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_addresses_must_ascend(layout: str) -> None:
    symbols = [*SYMBOLS, *OTHERS]
    symbols[5], symbols[6] = symbols[6], symbols[5]
    with pytest.raises(UsageError):
        kernel_symbols(symbol_table(symbols, layout, RODATA), RODATA, TEXT)


def test_a_kernel_without_a_table_is_refused() -> None:
    with pytest.raises(UsageError):
        kernel_symbols(bytes(1 << 16), RODATA, TEXT)
    with pytest.raises(UsageError, match=r"no \.text or no \.rodata"):
        kernel_object(elf([Part(".text", bytes(16), TEXT)]), AMD64)


def test_letters_say_what_a_symbol_is() -> None:
    shipped = shipped_kernel()
    [first, second] = shipped.named("flag.0")
    assert (first.kind, first.local, second.local) == ("OBJECT", True, True)
    assert [(each.kind, each.local) for each in shipped.named("notify")] == [
        ("FUNC", True),
        ("FUNC", False),
    ]
    assert shipped.named("no such name") == ()


def test_the_kernels_code_is_read_by_address() -> None:
    shipped = shipped_kernel()
    assert shipped.code(OURS, 16) == SHOW
    assert shipped.code(OURS + 16, 17) == b"", "more than the section has"
    assert shipped.code(DATA + 0x40, 8) == b"", "the file holds no .bss"
    assert shipped.code(0, 8) == b"", "what is not loaded has no address"
    assert shipped.relocated(OURS, 16) == frozenset()


def test_namesakes_are_told_apart_by_what_is_beside_them() -> None:
    places = UnitPlaces.of(unit(), shipped_kernel())
    assert places.address("show") == OURS
    assert places.position("show") == 2
    assert places.position("second_only") == 0


def test_namesakes_that_stand_alone_are_told_apart_by_what_code_refers_to() -> None:
    assert UnitPlaces.of(unit(), shipped_kernel()).position("flag.0") == 2
    unknown = UnitPlaces.of(unit(relocations=()), shipped_kernel())
    assert unknown.address("flag.0") is None
    with pytest.raises(PatchRefused, match=r"flag\.0: vmlinux has 2 of that name; which is"):
        unknown.position("flag.0")


def test_what_other_units_see_is_the_one_that_they_see() -> None:
    assert UnitPlaces.of(unit(), shipped_kernel()).position("notify") == 2
    local = (*UNIT_SYMBOLS[:3], replace(UNIT_SYMBOLS[3], section=2, value=5, local=True))
    with pytest.raises(PatchRefused, match="notify"):
        UnitPlaces.of(unit(symbols=local), shipped_kernel()).position("notify")


def test_what_the_kernel_does_not_have_has_no_position() -> None:
    with pytest.raises(PatchRefused, match="vmlinux of this kernel has no such symbol"):
        UnitPlaces.of(unit(), shipped_kernel()).position("brand_new")


def test_a_tie_is_not_a_place() -> None:
    places = UnitPlaces.of(unit(symbols=(UNIT_SYMBOLS[0],), relocations=()), shipped_kernel())
    assert places.address("show") is None
    with pytest.raises(PatchRefused):
        places.position("show")


def found(one: ObjectFile, shipped: ShippedObject) -> dict[str, str]:
    return code_differences(one, shipped, UnitPlaces.of(one, shipped))


def test_the_kernels_own_code_is_proved() -> None:
    assert found(unit(), shipped_kernel()) == {}


def test_what_linking_fills_in_may_differ() -> None:
    assert found(unit(SHOW[:FIELD] + bytes(4) + SHOW[FIELD + 4 :] + SECOND_ONLY), shipped_kernel()) == {}


def test_what_linking_filled_in_must_lead_to_the_same_name() -> None:
    elsewhere = struct.pack("<i", DATA + 0x20 - 4 - (OURS + FIELD))
    text = bytes(0x100) + SHOW[:FIELD] + elsewhere + SHOW[FIELD + 4 :] + SECOND_ONLY
    why = "compiled here it refers to flag.0 at 0x4, in vmlinux not"
    assert found(unit(), shipped_kernel(text=text)) == {"show": why}
    unnamed = replace(UNIT_SYMBOLS[2], name="without_name_there")
    symbols = (*UNIT_SYMBOLS[:2], unnamed, *UNIT_SYMBOLS[3:])
    assert found(unit(symbols=symbols), shipped_kernel()) == {}, "what has no name cannot be compared"


@pytest.mark.parametrize("place", [FIELD - 1, FIELD + 4, 15])
def test_other_code_is_not(place: int) -> None:
    other = SHOW[:place] + b"\xcc" + SHOW[place + 1 :] + SECOND_ONLY
    assert found(unit(other), shipped_kernel()) == {
        "show": f"1 of 16 bytes differ, the first at {place:#x}"
    }


def test_code_that_the_file_does_not_hold_is_not_proved() -> None:
    short = shipped_kernel(text=bytes(0x100) + SHOW[:8])
    assert set(found(unit(), short).values()) == {"vmlinux holds no code of it"}


def test_a_field_that_no_relocation_is_for_must_be_equal() -> None:
    text = SHOW[:FIELD] + bytes(4) + SHOW[FIELD + 4 :] + SECOND_ONLY
    assert "show" in found(unit(text, relocations=()), shipped_kernel())


def test_what_another_unit_overrides_is_not_the_kernels() -> None:
    weak = Named("weak_one", 1, 0x20, local=False)
    text = SHOW + SECOND_ONLY + bytes(16)
    assert (
        "another unit's overrides it"
        in found(unit(text, (*UNIT_SYMBOLS, weak)), shipped_kernel())["weak_one"]
    )
    moved = replace(weak, name="first_only", local=True)
    why = found(unit(text, (*UNIT_SYMBOLS, moved)), shipped_kernel())["first_only"]
    assert "code in front of it differs" in why
    gone = replace(weak, name="gone")
    why = found(unit(text, (*UNIT_SYMBOLS, gone)), shipped_kernel())["gone"]
    assert why == "vmlinux has no function of that name"


# A module of two units, stripped of nothing: what relocations fill in is empty still.
EMPTY_SHOW = SHOW[:FIELD] + bytes(4) + SHOW[FIELD + 4 :]
MODULE_SYMBOLS = (
    Named("show", 1, 0x40),
    Named("show", 1, 0),
    Named("second_only", 1, 0x50),
    Named("flag.0", 2, 0, 1, "OBJECT"),
    Named("flag.0", 2, 1, 1, "OBJECT"),
    Named("notify", 0, kind="NOTYPE", local=False),
)


def module(at: int = 1, size: int = 16, kind: int = PC32) -> ShippedObject:
    symbols = (replace(MODULE_SYMBOLS[0], size=size), *MODULE_SYMBOLS[1:])
    text = bytes(0x40) + EMPTY_SHOW + SECOND_ONLY
    data = Part(".data..once", bytes(2), 0, ALLOC | WRITE)
    relocation = (0x40 + FIELD, kind, 4, at - 4)
    return module_object("some", elf([Part(".text", text, relocations=[relocation]), data], symbols), AMD64)


def test_a_modules_symbols_are_counted_in_its_files_order() -> None:
    shipped = module()
    assert len(shipped.addresses("show")) == 2
    assert shipped.addresses("notify") == (), "it only refers to it"
    assert UnitPlaces.of(unit(EMPTY_SHOW + SECOND_ONLY), shipped).position("show") == 1


@pytest.mark.parametrize(("at", "position"), [(0, 1), (1, 2)])
def test_a_modules_relocations_tell_what_its_code_refers_to(at: int, position: int) -> None:
    assert UnitPlaces.of(unit(EMPTY_SHOW + SECOND_ONLY), module(at)).position("flag.0") == position


@pytest.mark.parametrize(
    ("section", "position"),
    [(".init.text", None), (".modinfo", None), ("not_loaded", None), (".exit.text", 2)],
)
def test_positions_hold_before_and_after_a_module_is_initialised(
    section: str, position: int | None
) -> None:
    flags = 0 if section == "not_loaded" else ALLOC
    parts = [Part(section, bytes(16), flags=flags), Part(".text", EMPTY_SHOW + SECOND_ONLY)]
    symbols = [Named("show", 1), Named("show", 2), Named("second_only", 2, 0x10)]
    places = UnitPlaces.of(
        unit(EMPTY_SHOW + SECOND_ONLY), module_object("some", elf(parts, symbols), AMD64)
    )
    if position is not None:
        assert places.position("show") == position
        return
    with pytest.raises(PatchRefused, match="which of 2 it is changes as soon as some has been initialised"):
        places.position("show")


def test_another_kind_of_reference_tells_nothing() -> None:
    absolute = 10
    places = UnitPlaces.of(unit(EMPTY_SHOW + SECOND_ONLY), module(kind=absolute))
    with pytest.raises(PatchRefused, match=r"flag\.0: some has 2"):
        places.position("flag.0")


def test_a_modules_code_is_proved() -> None:
    assert found(unit(EMPTY_SHOW + SECOND_ONLY), module()) == {}
    assert found(unit(SHOW + SECOND_ONLY), module()) == {}, "the field is to be filled in"
    differing = found(unit(EMPTY_SHOW + SECOND_ONLY[:15] + b"\xcc"), module())
    assert differing == {"second_only": "1 of 16 bytes differ, the first at 0xf"}
    assert "some has 12 bytes of it" in found(unit(EMPTY_SHOW + SECOND_ONLY), module(size=12))["show"]


@pytest.mark.parametrize(("name", "same"), [("notify", True), ("other", False)])
def test_a_module_must_refer_to_the_same_name_elsewhere(name: str, same: bool) -> None:
    outside = replace(MODULE_SYMBOLS[5], name=name)
    text = Part(".text", EMPTY_SHOW, relocations=[(FIELD, PC32, 2, -4)])
    shipped = module_object("some", elf([text], [MODULE_SYMBOLS[1], outside]), AMD64)
    one = unit(EMPTY_SHOW + SECOND_ONLY, (UNIT_SYMBOLS[0], UNIT_SYMBOLS[3]), ((FIELD, PC32, 2, -4),))
    assert (found(one, shipped) == {}) is same


def test_relocated_bytes_are_counted_from_the_beginning_that_is_asked_for() -> None:
    shipped = module()
    [_, first] = shipped.addresses("show")
    assert shipped.relocated(first, 0x80) == frozenset(range(0x44, 0x48))
    assert shipped.relocated(first + 0x46, 16) == frozenset({0, 1})
    assert shipped.relocated(first + 0x48, 16) == frozenset()
    assert shipped.code(0, 4) == shipped.code(0x7F << 32, 4) == b"", "there is no such section"


def test_modules_are_read_from_a_kernels_disk(tmp_path: Path, tool: Callable[[str], str]) -> None:
    for each in ("mke2fs", "debugfs"):
        tool(each)
    content = elf([Part(".text", EMPTY_SHOW)], [Named("show", 1)])
    folder = tmp_path / "tree/modules/6.12.1/kernel"
    folder.mkdir(parents=True)
    (folder / "some-one.ko.xz").write_bytes(lzma.compress(content))
    (folder.parent / "modules.dep").write_text("kernel/some-one.ko.xz:\nkernel/lost.ko:\n")
    disk = tmp_path / "disk"
    run(["mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", disk, "4M"])
    image = tmp_path / "vmlinux"
    image.write_bytes(elf([Part(".text", SHOW, TEXT), Part(".rodata", table_of("7.2"), RODATA)]))
    here = cast("Path", None)
    kernel = Kernel("6.12", "6.12.1", "", image, here, disk, here, here, None)
    assert kmods.module_on_disk(kernel, "some_one") == content
    for name, why in (("other", "has no module other"), ("lost", "listed, and not there")):
        with pytest.raises(UsageError, match=why):
            kmods.module_on_disk(kernel, name)
    shipped = ShippedKernel(kernel)
    assert shipped.object("some_one").addresses("show") == (1 << 32,)
    assert shipped.object("some_one") is shipped.object("some_one")
    assert shipped.object("vmlinux").addresses("second_only") == (OURS + 0x10,)
