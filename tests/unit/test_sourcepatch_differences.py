# SPDX-License-Identifier: Apache-2.0
"""What tools write of a unit's difference is read, and put right: positions, types, names."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from klp.errors import PatchRefused
from klp.process import Completed
from klp.sourcepatch import klp_diff, kpatch_diff, replaced, tools
from klp.sourcepatch.complaints import complaint_in
from klp.sourcepatch.positions import Positions
from klp.sourcepatch.values import Unit
from tests.unit.objectfiles import Content, Made, made_object, object_bytes

UNIT = Unit("fs/proc/cmdline.c", "vmlinux", "cc -c -o fs/proc/cmdline.o fs/proc/cmdline.c")


@dataclass(frozen=True)
class KernelHas:
    """A symbol of the kernel."""

    name: str
    address: int
    size: int = 0
    kind: str = "FUNC"
    local: bool = True


@dataclass(frozen=True)
class Object:
    """An object of the kernel."""

    symbols: tuple[KernelHas, ...]

    def addresses(self, name: str) -> tuple[int, ...]:
        return tuple(each.address for each in self.symbols if each.name == name)


class Kernel:
    """Objects by name."""

    def __init__(self, **objects: tuple[KernelHas, ...]) -> None:
        self._objects = {name: Object(symbols) for name, symbols in objects.items()}

    def object(self, name: str) -> Object:
        return self._objects[name]


class Places:
    """What part of the kernel says of the unit's own symbols."""

    def __init__(self, **positions: int) -> None:
        self._positions = positions

    def address(self, name: str) -> int | None:
        return 0x1000 if name in self._positions else None

    def position(self, name: str) -> int:
        return self._positions[name]


def positions(kernel: Kernel, **own: int) -> Positions:
    return Positions(UNIT, frozenset(own), Places(**own), kernel)  # type: ignore[arg-type]


def test_a_symbol_of_the_unit_is_where_the_unit_is() -> None:
    kernel = Kernel(vmlinux=(KernelHas("show", 1), KernelHas("show", 2), KernelHas("show", 3)))
    assert positions(kernel, show=3).of("vmlinux", "show") == 3


def test_a_symbol_that_only_the_patched_unit_refers_to_is_one_that_others_can_see() -> None:
    kernel = Kernel(vmlinux=(KernelHas("fresh", 1), KernelHas("fresh", 2, local=False)))
    assert positions(kernel, show=0).of("vmlinux", "fresh") == 2


@pytest.mark.parametrize(
    ("symbols", "position"),
    [
        ((KernelHas("f", 1, local=False),), 0),
        ((KernelHas("f", 1),), 0),
        ((KernelHas("f", 1), KernelHas("f", 2, local=False), KernelHas("f", 3)), 2),
        ((KernelHas("f", 1, local=False), KernelHas("g", 2), KernelHas("f", 3)), 1),
    ],
)
def test_a_symbol_of_others_is_the_one_that_others_can_see(
    symbols: tuple[KernelHas, ...], position: int
) -> None:
    assert positions(Kernel(nf=symbols), f=7).of("nf", "f") == position


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        ((), "f: nf of this kernel has no such symbol"),
        ((KernelHas("f", 1), KernelHas("f", 2)), "f: nf has 2 of that name"),
    ],
)
def test_a_symbol_that_cannot_be_known_is_refused(symbols: tuple[KernelHas, ...], words: str) -> None:
    with pytest.raises(PatchRefused, match=f"^fs/proc/cmdline.c: {words}"):
        positions(Kernel(nf=symbols, vmlinux=())).of("nf", "f")


def test_a_symbol_that_vmlinux_keeps_to_itself_is_told_as_such() -> None:
    with pytest.raises(PatchRefused) as caught:
        positions(Kernel(nf=(), vmlinux=(KernelHas("f", 1),))).of("nf", "f")
    assert caught.value.hint == "vmlinux has f, and exports it to no module: use another"


def test_klp_symbols_get_the_kernels_position() -> None:
    held = made_object(
        {},
        [
            Made(".klp.sym.vmlinux.show,4"),
            Made(".klp.sym.vmlinux.alone.isra.0,0"),
            Made(".klp.sym.nf.other,0"),
            Made("printk"),
        ],
    )
    kernel = Kernel(nf=(KernelHas("other", 1), KernelHas("other", 2, local=False)))
    asked = positions(kernel, **{"show": 3, "alone.isra.0": 0})
    assert dict(klp_diff.renamed_symbols(held.symbols, asked)) == {
        ".klp.sym.vmlinux.show,4": ".klp.sym.vmlinux.show,3",
        ".klp.sym.nf.other,0": ".klp.sym.nf.other,2",
    }


def test_functions_are_read_out_of_objtools_table() -> None:
    entries = struct.pack("<QQQQQQ", 0, 0, 9, 0, 0, 0)
    held = made_object(
        {
            ".init.klp_funcs": Content(
                entries,
                relocations=[(0, "text", 1), (8, "show", 0), (24, "text", 6), (32, "other", 0)],
            ),
            ".rodata.klp.str1.1": Content(b"\0show\0other.isra.0\0"),
            ".text.show": Content(bytes(32)),
        },
        [
            Made("text", ".rodata.klp.str1.1", kind="SECTION", local=True),
            Made("show", ".text.show", size=16, kind="FUNC", local=True),
            Made("other", ".text.show", 16, 16, "FUNC"),
        ],
    )
    found = list(klp_diff.listed_by_objtool(held, positions(Kernel(), **{"show": 3, "other.isra.0": 0})))
    assert [(each.old, each.position, each.new.name) for each in found] == [
        ("show", 3, "show"),
        ("other.isra.0", 0, "other"),
    ]


def test_undefined_symbols_get_their_type_from_the_module(tmp_path: Path) -> None:
    file = tmp_path / "unit.o"
    file.write_bytes(object_bytes({}, [Made("a_key", kind="FUNC"), Made("a_function"), Made("printk")]))
    module = Object((KernelHas("a_key", 1, kind="OBJECT"), KernelHas("a_function", 2)))
    tools.write_fields(file, dict(klp_diff.typed(tools.ObjectFile.of(file), module)))  # type: ignore[arg-type]
    assert [(each.name, each.kind, each.local) for each in tools.ObjectFile.of(file).symbols[1:]] == [
        ("a_key", "OBJECT", False),
        ("a_function", "FUNC", False),
        ("printk", "NOTYPE", False),
    ]


def test_names_that_count_are_settled_by_their_order() -> None:
    def names(first: int, second: int) -> dict[str, str]:
        ids = [f"__BTF_ID__struct__sock__{first}", f"__BTF_ID__struct__sock__{second}", "__BTF_ID__x"]
        return dict(klp_diff.stable_names(made_object({}, [Made(each) for each in ids])))

    before, after = names(110, 212), names(115, 217)
    assert list(before.values()) == list(after.values())
    assert len(set(before.values())) == 2


def kpatch_object() -> bytes:
    functions = struct.pack("<7Q", 0, 0, 0, 0, 5, 0, 0)
    symbols = struct.pack("<5Q", 0, 1, 0, 0, 0) + struct.pack("<5Q", 0, 0, 0, 0, 0)
    strings = b"show\0vmlinux\0data\0nf\0other\0"
    held = {
        ".kpatch.funcs": Content(functions, relocations=[(0, "code", 0), (40, "s", 0), (48, "s", 5)]),
        ".kpatch.symbols": Content(
            symbols, relocations=[(24, "s", 13), (32, "s", 5), (64, "s", 21), (72, "s", 18)]
        ),
        ".kpatch.strings": Content(strings),
        ".text.show": Content(bytes(16)),
    }
    return object_bytes(
        held,
        [
            Made("s", ".kpatch.strings", kind="SECTION", local=True),
            Made("code", ".text.show", kind="SECTION", local=True),
            Made("show", ".text.show", size=16, kind="FUNC", local=True),
        ],
    )


def test_functions_and_positions_of_create_diff_object(tmp_path: Path) -> None:
    file = tmp_path / "difference.o"
    file.write_bytes(kpatch_object())
    kernel = Kernel(nf=(KernelHas("other", 1), KernelHas("other", 2, local=False)))
    asked = positions(kernel, show=17, data=0)
    held = tools.ObjectFile.of(file)
    [found] = kpatch_diff.listed_by_kpatch(held, asked)
    assert (found.old, found.position, found.new.name) == ("show", 17, "show")
    tools.write_fields(file, dict(kpatch_diff.corrections(held, asked)))
    changed = tools.ObjectFile.of(file)
    contents = {each.name: changed.content(each.index) for each in changed.sections}
    assert struct.unpack("<7Q", contents[".kpatch.funcs"])[4] == 17
    assert struct.unpack("<10Q", contents[".kpatch.symbols"])[1::5] == (0, 2)


def test_the_symbol_table_has_the_units_own_symbols_first() -> None:
    before = made_object(
        {".text.show": Content(bytes(16))},
        [
            Made("show", ".text.show", size=16, kind="FUNC", local=True),
            Made("gone", ".text.show", size=4, kind="OBJECT", local=True),
            Made("seen", ".text.show", kind="FUNC"),
        ],
    )
    shipped = Object(
        (
            KernelHas("show", 0x500, 8),
            KernelHas("show", 0x1000, 16),
            KernelHas("seen", 0x2000, 4, local=False),
        )
    )
    table = kpatch_diff.symbol_table(UNIT, before, Places(show=2), shipped)  # type: ignore[arg-type]
    head, *rows = table.splitlines()
    assert head == "Symbol table '.symtab' contains 6 entries:"
    assert [row.split()[1:] for row in rows] == [
        ["0" * 16, "0", "FILE", "LOCAL", "DEFAULT", "ABS", "cmdline.c"],
        [f"{0x1000:016x}", "16", "FUNC", "LOCAL", "DEFAULT", "1", "show"],
        ["0" * 16, "4", "OBJECT", "LOCAL", "DEFAULT", "1", "gone"],
        ["0" * 16, "0", "FILE", "LOCAL", "DEFAULT", "ABS", "others.c"],
        [f"{0x500:016x}", "8", "FUNC", "LOCAL", "DEFAULT", "1", "show"],
        [f"{0x2000:016x}", "4", "FUNC", "GLOBAL", "DEFAULT", "1", "seen"],
    ]


def test_a_local_function_gets_its_units_name_with_its_cold_part_and_padding() -> None:
    held = made_object(
        {".text": Content(bytes(64))},
        [
            Made("show", ".text", 16, 16, "FUNC", local=True),
            Made("__pfx_show", ".text", 0, 16, "FUNC", local=True),
            Made("show.cold", ".text", 32, 16, "FUNC", local=True),
            Made("show.coldest", ".text", 32, 16, "FUNC", local=True),
            Made("seen", ".text", 48, 16, "FUNC"),
        ],
    )
    local, seen = held.symbols[1], held.symbols[5]
    assert dict(replaced.renamed_with(local, held, UNIT)) == {
        "show": "show.fs_proc_cmdline",
        "show.cold": "show.fs_proc_cmdline.cold",
        "__pfx_show": "__pfx_show.fs_proc_cmdline",
    }
    assert not dict(replaced.renamed_with(seen, held, UNIT))
    assert replaced.new_name(seen, UNIT) == "seen"


def test_what_a_difference_adds() -> None:
    text = {".text": Content(bytes(64)), ".data.x": Content(bytes(8)), "__bug_table": Content(bytes(8))}
    before = made_object(text, [Made("old", ".text", size=8, kind="FUNC"), Made("seen.12", ".data.x")])
    held = made_object(
        text,
        [
            Made("__bug_table_3", "__bug_table", size=8, kind="OBJECT", local=True),
            Made("fresh", ".text", 8, 8, "FUNC"),
            Made("old", ".text", size=8, kind="FUNC"),
            Made("seen.13", ".data.x", size=4, kind="OBJECT"),
            Made("count.1", ".data.x", size=4, kind="OBJECT"),
        ],
    )
    assert list(replaced.added_symbols(before, held)) == ["fresh", "count.1"]


def test_a_failed_program_is_told_by_its_error() -> None:
    output = (
        "a.o: f()+0x3: warning: odd\nERROR: a.o: f: unsupported key\ncreate-diff-object: unreconcilable\n"
    )
    error = tools.failed("fs/a.c", "create-diff-object", Completed(("x",), 1, "", output))
    assert error.message == "fs/a.c: create-diff-object: ERROR: a.o: f: unsupported key"
    assert error.output == output.strip()
    unclear = tools.failed("fs/a.c", "ld", Completed(("x",), 1, "", "linking\ncannot go on\n"))
    assert unclear.message == "fs/a.c: ld: cannot go on"
    silent = tools.failed("fs/a.c", "ld", Completed(("x",), 1, "", ""))
    assert silent.message == "fs/a.c: ld: it said nothing"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a.o: Found a jump label at f.isra.0()+0x81, using key k.3, which is defined.\n"
         "create-diff-object: ERROR: a.o: x: 2683: Found 7 unsupported jump label(s)",
         "f.isra.0: tests the static key k.3,"),
        ("a.o: Found a jump label at f()+0x81, using key k.  Jump labels", "f: tests the static key k,"),
        ("error: objtool: f+0x8: unsupported static branch key k.  Use x", "f: tests the static key k,"),
        ("error: objtool: f()+0x8: unsupported static call key c.  Use x", "f: makes the static call c,"),
        ("a.o: Found a static call at f()+0x1, using key c, which is", "f: makes the static call c,"),
        ("ERROR: a.o: symbol changed sections: users\nunreconcilable", "users: it would lie in"),
        ("a.o: changed section .rodata.params not selected\nERROR: a.o: 1", "params: its initial value"),
        ("error: objtool: changed data: params", "params: its initial value"),
        ("a.o: changed section .init.text not selected", "code in .init.text changes"),
        ("a.o: changed section .sched.text not selected", "code in .sched.text changes"),
        ("a.o: changed section .export_symbol not selected", "it exports other symbols"),
        ("a.o: function f has no fentry/mcount call, unable to patch", "f: ftrace cannot reach it"),
        ("a.o: changed section .altinstr_aux not selected", "section .altinstr_aux changes"),
    ],
)  # fmt: skip
def test_what_programs_complain_of_is_put_into_words(said: str, reason: str) -> None:
    error = tools.failed("fs/a.c", "objtool", Completed(("x",), 1, "", said))
    assert error.message.startswith(f"fs/a.c: {reason}")
    assert error.output == said


def test_a_static_keys_way_out_names_it() -> None:
    known = complaint_in("error: objtool: f+0x8: unsupported static branch key k.  Use x")
    assert known is not None
    assert "static_key_enabled(&k) in f" in known.hint
    assert complaint_in("all is well") is None
