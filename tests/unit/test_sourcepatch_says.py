# SPDX-License-Identifier: Apache-2.0
"""What changed from object to object: parts compared by name, and why the compiler changed more of them."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from klp.images.btf import Layout, Member
from klp.sourcepatch.changes import Changes, changes_of
from klp.sourcepatch.declared import declared_functions
from klp.sourcepatch.layouts import differing_layouts
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.parts import Parts, is_numbered, owner, stable
from klp.sourcepatch.touched import touched_functions
from klp.sourcepatch.values import CompiledUnit, Unit
from klp.sourcepatch.variables import changed_variables
from tests.unit.elffiles import ABS32S, ALLOC, EXEC, MERGED_STRINGS, PC32
from tests.unit.madeelf import Made, data, made_object, text

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host")
CALL = b"\xe8\0\0\0\0\xc3"


def parts(sections: dict[str, Made]) -> Parts:
    return Parts(ObjectFile(made_object(sections)))


@pytest.mark.parametrize(
    ("name", "of", "known_as", "numbered"),
    [
        ("f", "f", "f", False),
        ("f.part.0", "f", "f.part.0", False),
        ("f.isra.0.cold", "f", "f.isra.0.cold", False),
        ("f.constprop.1", "f", "f.constprop.1", False),
        ("__func__.34", "__func__.34", "__func__", True),
        ("__UNIQUE_ID_ddebug593.12", "__UNIQUE_ID_ddebug593.12", "__UNIQUE_ID_ddebug", True),
        ("__BTF_ID__struct__sock__7", "__BTF_ID__struct__sock__7", "__BTF_ID__struct__sock", False),
    ],
)
def test_names_without_what_compilers_number(name: str, of: str, known_as: str, numbered: bool):
    assert (owner(name), stable(name), is_numbered(name)) == (of, known_as, numbered)


def test_a_string_stands_for_itself_wherever_it_lies():
    def unit(strings: bytes, at: int) -> Parts:
        code = b"\x48\xc7\xc7\0\0\0\0\xc3"
        return parts({
            ".text.f": text("f", code, (3, ABS32S, "=.rodata.str1.1", at)),
            ".rodata.str1.1": Made(strings, ALLOC | MERGED_STRINGS),
        })  # fmt: skip

    before = unit(b"one\0", 0).functions["f"]
    assert [each.target for each in before.references] == ["'one'"]
    assert before.same_as(unit(b"new\0one\0", 4).functions["f"])
    assert not before.same_as(unit(b"new\0one\0", 0).functions["f"])


def test_calls_within_a_section_are_references_though_nothing_relocates_them():
    def unit(gap: int) -> Parts:
        code = b"\xe8" + struct.pack("<i", 1 + gap) + b"\xc3" + b"\x90" * gap + b"\xc3"
        symbols = {"f": (0, 6, "FUNC"), "g": (6 + gap, 1, "FUNC")}
        return parts({".sched.text": Made(code, ALLOC | EXEC, symbols)})

    near, far = (unit(gap).functions["f"] for gap in (0, 5))
    assert near.same_as(far)
    assert [(each.target, each.calls) for each in near.references] == [("g", True)]


def test_what_tables_say_of_code_is_compared():
    def unit(flags: int, key: str) -> Parts:
        bug = struct.pack("<iiHH", 0, 0, 77, flags)
        return parts({
            ".text.f": text("f", b"\x0f\x0b\x0f\x1f\x44\x00\x00\xc3"),
            "__bug_table": Made(bug, relocations=[(0, PC32, "f", 0), (4, PC32, "name", 0)]),
            "__jump_table": Made(bytes(16), relocations=[
                (0, PC32, "f", 2), (4, PC32, "f", 7), (8, 24, key, 2)]),
        })  # fmt: skip

    one = unit(1, "key").functions["f"]
    assert one.same_as(unit(1, "key").functions["f"])
    assert not one.same_as(unit(3, "key").functions["f"])
    assert not one.same_as(unit(1, "other").functions["f"])
    assert [(each.name, each.offset, each.defined) for each in one.keys] == [("key", 2, False)]


def test_strings_of_tables_are_read_where_they_begin_and_places_in_tables_do_not_count():
    def unit(place: int) -> Parts:
        return parts({
            ".text.f": text("f", b"\x48\x8d\x3d\0\0\0\0\xc3", (3, PC32, "=__bug_table", place - 4)),
            "__bug_table": Made(bytes(24), relocations=[
                (0, PC32, "f", 0), (4, PC32, "=.rodata.str1.1", 4), (12, PC32, "other", 0)]),
            ".text.other": text("other", b"\xc3"),
            ".rodata.str1.1": Made(b"one\0two\0", ALLOC | MERGED_STRINGS),
        })  # fmt: skip

    one = unit(0).functions["f"]
    assert one.tables == ((0, "__bug_table 0000 'two'"),)
    assert one.same_as(unit(12).functions["f"])


def test_exports_in_both_forms_and_functions_that_ftrace_knows():
    made = parts({
        ".text": Made(bytes(32), ALLOC | EXEC, {"f": (0, 16, "FUNC"), "g": (16, 16, "FUNC")}),
        "__mcount_loc": Made(bytes(8), relocations=[(0, 1, "=.text", 20)]),
        ".export_symbol": Made(bytes(8), symbols={"__export_symbol_f": (0, 0, "NOTYPE")}),
        "___ksymtab+g": Made(bytes(8), symbols={"__ksymtab_g": (0, 0, "OBJECT")}),
    })  # fmt: skip
    assert made.exports == {"f", "g"}
    assert (made.traced("f"), made.traced("g")) == (False, True)


def test_variables_that_differ_are_named_and_those_of_macros_are_not():
    def unit(**variables: bytes) -> Parts:
        return parts(
            {f".data.{name}": data(name.replace("__N", "."), each) for name, each in variables.items()}
        )

    before = unit(table=b"1234", kept=b"1", gone__N1=b"5", __already_done__N4=b"\0", longer=b"1")
    after = unit(
        table=b"1235", kept=b"1", new__N1=b"5", __already_done__N5=b"\1", _rs__N1=b"1", longer=b"12"
    )
    found = {each.name: each for each in changed_variables(before, after)}
    assert sorted(found) == ["gone", "longer", "new", "table"]
    assert found["table"].how == "it has another initial value"
    assert found["longer"].how == "it was 1 bytes long, and would be 2"
    assert found["gone"].after is None
    assert found["gone"].is_static_local
    assert found["new"].before is None
    assert not found["table"].is_static_local


def test_of_two_like_variables_one_may_go():
    def unit(*names: str) -> Parts:
        return parts({f".data.{name}": data(name, b"7") for name in names})

    [found] = changed_variables(unit("count.1", "count.2"), unit("count.5"))
    assert (found.name, found.after) == ("count", None)


def test_a_variable_that_points_elsewhere_and_who_uses_it():
    def unit(target: str) -> Parts:
        return parts({
            ".data.ops": data("ops", bytes(8), (0, 1, target, 0)),
            ".text.f": text("f", b"\x48\x8b\x05\0\0\0\0\xc3", (3, PC32, "ops", -4)),
        })  # fmt: skip

    [found] = changed_variables(unit("old"), unit("new"))
    assert (found.how, found.users) == ("it would point to something else", ("f",))


TEXT = """\
#define LIMIT 3
static int table[4];

static int twice(int value)
{
	return value * 2;
}

MAKER(read,
      write)

int limited(int value)
{
	if (value > LIMIT)
		return LIMIT;
	return value;
}
"""
PLACES = {"twice": 4, "read_show": 9, "limited": 12}


@pytest.mark.parametrize(
    ("old", "new", "functions", "outside"),
    [
        ("return value * 2;", "return value * 3;", {"twice"}, set()),
        ("return value * 2;", "return value * 2; /* why */", set(), set()),
        ("return value * 2;", "/* why,\n * at length */\n\treturn value * 2;", set(), set()),
        ("return value * 2;", "return value\t* 2;", set(), set()),
        ("      write)", "      rewrite)", {"read_show"}, set()),
        ("#define LIMIT 3", "#define LIMIT 4", set(), {"LIMIT"}),
        ("int table[4]", "int table[5]", set(), {"table"}),
        ("MAKER", "static int fresh(int odd)\n{\n\treturn odd;\n}\n\nMAKER", set(), set()),
        ("\tif (value", "\tvalue++;\n\tif (value", {"limited"}, set()),
        ("int limited(int value)", "int limited(long value)", {"limited"}, set()),
    ],
)
def test_which_functions_a_patch_touches(old: str, new: str, functions: set[str], outside: set[str]):
    assert TEXT.count(old) == 1
    found = touched_functions(TEXT, TEXT.replace(old, new), PLACES)
    assert (found.functions, found.outside) == (functions, outside)
    assert "LIMIT" in found.mentions["limited"]
    assert "LIMIT" not in found.mentions["twice"]


def compiled(tmp_path: Path, before: str, after: str) -> CompiledUnit:
    made = {}
    for name, source in (("before", before), ("after", after)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "unit.c").write_text(source)
        words = [
            "-O2",
            "-g",
            "-ffunction-sections",
            "-fdata-sections",
            "-fcf-protection=none",
            "-c",
            "unit.c",
        ]
        subprocess.run(["gcc", *words], cwd=folder, check=True)
        made[name] = folder / "unit.o"
    return CompiledUnit(Unit("unit.c", "vmlinux", "gcc"), made["before"], made["before"], made["after"])


def changes(tmp_path: Path, before: str, after: str) -> Changes:
    return changes_of(compiled(tmp_path, before, after), before.encode(), after.encode())


C = """\
int outer(int);
static inline __attribute__((always_inline)) int small(int value)
{
	return value * 5;
}

int first(int value)
{
	return outer(small(value));
}

int second(int value)
{
	return outer(value) - 1;
}
"""


@needs_gcc
def test_the_line_of_a_function_and_what_it_inlines(tmp_path: Path):
    unit = compiled(tmp_path, C, C)
    found = declared_functions(unit.before, "unit.c", {"first"})
    assert {name: found[name].line for name in ("small", "first", "second")} == {
        "small": 2, "first": 7, "second": 12,
    }  # fmt: skip
    assert found["first"].inlines == {"small"}
    assert found["second"].inlines == frozenset()


@needs_gcc
def test_a_function_changed_for_what_it_inlines_is_told_from_one_that_the_patch_changes(tmp_path: Path):
    after = C.replace("value * 5", "value * 7").replace("outer(value) - 1", "outer(value) - 2")
    found = changes(tmp_path, C, after)
    assert found.functions == ("second",)
    assert [each.words for each in found.along] == ["first: inlines small"]
    assert found.replaced == ("first", "second")
    assert sorted(found.new_code) == ["first", "second"]


@needs_gcc
@pytest.mark.parametrize("edit", ["/* why */ return value * 5;", "return 5 * value;"])
def test_what_changes_no_code(tmp_path: Path, edit: str):
    assert changes(tmp_path, C, C.replace("return value * 5;", edit)).nothing


@needs_gcc
def test_a_macro_changes_the_functions_that_mention_it(tmp_path: Path):
    before = "#define BY 5\n" + C.replace("outer(value) - 1", "outer(value) - BY")
    found = changes(tmp_path, before, before.replace("BY 5", "BY 6"))
    assert (found.functions, found.along) == (("second",), ())


@needs_gcc
def test_one_that_mentions_the_macro_changed_for_it_whatever_it_calls(tmp_path: Path):
    before = (
        "#define BY 5\n"
        + C.replace("outer(value) - 1", "outer(value) - BY").replace(
            "int second", "__attribute__((noinline)) int second"
        )
        + "\nint third(int value)\n{\n\treturn second(value) * BY;\n}\n"
    )
    found = changes(tmp_path, before, before.replace("BY 5", "BY 6"))
    assert (found.functions, found.along) == (("second", "third"), ())


@needs_gcc
def test_a_function_of_a_header_has_no_line_in_the_unit(tmp_path: Path):
    (tmp_path / "small.h").write_text("\n".join(C.splitlines()[1:5]) + "\n")
    first = "int first(int value)\n{\n\treturn outer(small(value));\n}\n"
    source = f'#include "../small.h"\nint outer(int);\n{first}'
    found = declared_functions(compiled(tmp_path, source, source).before, "unit.c", ())
    assert (found["small"].line, found["first"].line) == (0, 3)


@needs_gcc
def test_new_functions_and_a_new_variable_with_what_it_means(tmp_path: Path):
    after = C.replace("return outer(value) - 1;", "return outer(fresh(++calls));")
    after = after.replace("int first", "static int calls;\n\nint first")
    new = "__attribute__((noinline)) static int fresh(int value)\n{\n\treturn outer(value) + 3;\n}\n\n"
    found = changes(tmp_path, C, after.replace("int first", new + "int first"))
    assert found.functions == ("second",)
    assert found.added == ("fresh", "calls")
    [warning] = found.warnings
    assert warning.startswith("second: the variable calls is new: it begins at its initial value")
    assert not found.nothing


def test_layouts_in_words():
    def layout(size: int, *members: tuple[str, int, str]) -> frozenset[Layout]:
        return frozenset({Layout(size, tuple(Member(name, bits, 0, kind) for name, bits, kind in members))})

    old = {
        "struct kept": layout(4, ("a", 0, "int")),
        "struct grown": layout(16, ("a", 0, "int"), ("b", 64, "long"), ("c", 32, "int")),
        "enum e": layout(4, ("A", 0, ""), ("B", 1, "")),
        "enum added": layout(4, ("A", 0, "")),
        "struct old": layout(1),
    }
    new = {
        "struct kept": layout(4, ("a", 0, "int")),
        "struct grown": layout(24, ("a", 0, "u8"), ("x", 64, "long"), ("b", 128, "long")),
        "enum e": layout(4, ("A", 0, ""), ("X", 1, ""), ("B", 2, "")),
        "enum added": layout(4, ("A", 0, ""), ("B", 1, "")),
        "struct new": layout(1),
    }
    enumeration, structure = differing_layouts(old, new)
    assert enumeration == ("enum e", "B is 2, was 1")
    assert structure == (
        "struct grown", "8 bytes longer; member x new at offset 8; member c gone; and 2 more"
    )  # fmt: skip


def test_a_type_that_is_in_use_now_beside_another_of_its_name_is_no_change():
    one, two = (Layout(size, (Member(name, 0, 0, "int"),)) for size, name in ((8, "b"), (4, "a")))
    assert (
        list(differing_layouts({"struct s": frozenset({one})}, {"struct s": frozenset({one, two})})) == []
    )
