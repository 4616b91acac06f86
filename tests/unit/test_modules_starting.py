# SPDX-License-Identifier: Apache-2.0
"""`klp new`: which functions can be started from, with what prototype, and what is written of one."""

from __future__ import annotations

import struct
import tomllib
from pathlib import Path

import pytest
from elffiles import Part, elf
from kernelfiles import symbol_table

from klp.errors import UsageError
from klp.images.btf import Btf
from klp.images.prototypes import NamedType, Prototype, prototype_of
from klp.model import Kernel
from klp.modules import starting
from klp.modules.replaceable import ReplaceableFunction, replaceable, why_unchangeable
from klp.modules.starting import check_name
from klp.sourcepatch.shipped import ShippedKernel

TEXT, RODATA = 0xFFFFFFFF81000000, 0xFFFFFFFF82000000
FENTRY, INIT = TEXT, TEXT + 0x800
ENDBR = b"\xf3\x0f\x1e\xfa"
INT, POINTER, ARRAY, STRUCT, TYPEDEF, CONST, FUNCTION, PROTOTYPE, TAG = 1, 2, 3, 4, 8, 10, 12, 13, 18


class Types:
    """BTF in the making; a type is known by its number, void is 0."""

    def __init__(self, first: int = 1, strings: bytes = b"\0") -> None:
        self.next, self.types, self.strings, self.before = first, b"", strings, len(strings)

    def named(self, name: str) -> int:
        place = len(self.strings)
        self.strings += name.encode() + b"\0"
        return place if name else 0

    def add(self, kind: int, name: str = "", size: int = 0, entries: bytes = b"", count: int = 0) -> int:
        self.types += struct.pack("<III", self.named(name), kind << 24 | count, size) + entries
        self.next += 1
        return self.next - 1

    def function(self, name: str, returns: int, *parameters: tuple[str, int]) -> int:
        entries = b"".join(struct.pack("<II", self.named(each), kind) for each, kind in parameters)
        prototype = self.add(PROTOTYPE, size=returns, entries=entries, count=len(parameters))
        return self.add(FUNCTION, name, prototype)

    def data(self, own: int = 0) -> bytes:
        strings = self.strings[own:]
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(strings))
        return head + self.types + strings


def made() -> Types:
    types = Types()
    number = types.add(INT, "long unsigned int", 8, bytes(4))
    char = types.add(INT, "char", 1, bytes(4))
    seq = types.add(STRUCT, "seq_file", 8)
    to_seq = types.add(POINTER, size=seq)
    to_text = types.add(POINTER, size=types.add(CONST, size=types.add(TAG, "user", char)))
    fixed = types.add(CONST, size=types.add(POINTER, size=char))
    size = types.add(TYPEDEF, "size_t", number)
    plain = types.add(INT, "int", 4, bytes(4))
    called = types.add(PROTOTYPE, size=plain, entries=struct.pack("<II", 0, to_seq), count=1)
    to_called = types.add(POINTER, size=called)
    row = types.add(ARRAY, entries=struct.pack("<III", plain, number, 4))
    to_row = types.add(POINTER, size=row)
    pair = types.add(STRUCT, "pair", 16)
    types.function("show", plain, ("m", to_seq), ("", size))
    types.function("traced_later", 0)
    types.function("format", number, ("text", to_text), ("", 0))
    types.function("hard", to_seq, ("fixed", fixed), ("fn", to_called), ("rows", to_row), ("both", pair))
    types.function("starts", 0)
    types.function("quiet", 0)
    return types


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("show", "int new(struct seq_file *m, size_t arg2)"),
        ("traced_later", "void new(void)"),
        ("format", "unsigned long new(const char *text, ...)"),
        (
            "hard",
            "struct seq_file *new(char *const fixed, int (*fn)(struct seq_file *), int (*rows)[4], "
            "struct pair both)",
        ),
    ],
)
def test_prototypes_as_c_has_them(name: str, declared: str) -> None:
    found = prototype_of(Btf(made().data()), name)
    assert found
    assert found.declared("new") == declared


def test_what_a_prototype_says_besides() -> None:
    btf = Btf(made().data())
    show, format_, hard = (prototype_of(btf, name) for name in ("show", "format", "hard"))
    assert show
    assert format_
    assert hard
    assert (show.arguments, show.returns, show.variadic) == (("m", "arg2"), True, False)
    assert show.types == (NamedType("struct seq_file", whole=False), NamedType("size_t", whole=True))
    assert (format_.arguments, format_.variadic) == (("text",), True)
    assert hard.types
    assert NamedType("struct pair", whole=True) in hard.types
    assert prototype_of(btf, "absent") is None


def test_a_modules_types_go_on_from_those_of_the_kernel() -> None:
    base = made()
    own = Types(base.next, base.strings)
    own.function("of_module", 11, ("m", 4))
    found = prototype_of(Btf(own.data(own.before), Btf(base.data())), "of_module")
    assert found
    assert found.declared("new") == "int new(struct seq_file *m)"


def call(at: int) -> bytes:
    return b"\xe8" + struct.pack("<i", FENTRY - at - 5)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel of a few functions: of each all that a livepatch has to know."""
    places = {"show": 0x40, "traced_later": 0x60, "format": 0x80, "quiet": 0xC0, "twin": 0xE0}
    nop = b"\x0f\x1f\x44\x00\x00"
    code = bytearray(0x900)
    for name in ("show", "format", "twin"):
        code[places[name] : places[name] + 5] = call(TEXT + places[name])
    code[0x60:0x69] = ENDBR + call(TEXT + 0x64)
    code[0x100:0x109] = ENDBR + nop
    code[0x800:0x805] = call(INIT)
    symbols = [
        (TEXT, "T", "_text"), (FENTRY, "T", "__fentry__"), (TEXT + 0x40, "t", "show"),
        (TEXT + 0x60, "T", "traced_later"), (TEXT + 0x80, "T", "format"),
        (TEXT + 0xA0, "t", "taken.isra.0"), (TEXT + 0xC0, "t", "quiet"),
        (TEXT + 0xE0, "t", "twin"), (TEXT + 0xE0, "t", "twin"),
        (TEXT + 0x100, "t", "noped"),
        (INIT, "T", "_sinittext"), (INIT, "t", "starts"), (TEXT + 0x900, "T", "_einittext"),
        *((TEXT + 0x1000 + each, "d", f"datum_{each}") for each in range(1500)),
    ]  # fmt: skip
    image = tmp_path / "vmlinux"
    image.write_bytes(
        elf([
            Part(".text", bytes(code), TEXT),
            Part(".rodata", symbol_table(symbols, "6.12", RODATA), RODATA),
            Part(".BTF", made().data()),
        ])
    )  # fmt: skip
    headers = tmp_path / "toolchain/usr/src/linux-headers-6.12-common/include/linux"
    headers.mkdir(parents=True)
    (headers / "seq_file.h").write_text("struct seq_file {\n\tint a;\n};\n")
    (headers / "other.h").write_text(
        "struct seq_file;\nstatic inline void *brief(struct seq_file *m)\n{\n}\n"
    )
    (headers / "pair.h").write_text("typedef struct {\n\tint a;\n} pair_t;\ntypedef int (*cmp_t)(int);\n")
    return Kernel(
        name="6.12", release="6.12.0", digest="", image=image, initrd=image, disk=tmp_path / "absent",
        build=Path("/usr/src/linux-headers-6.12"), toolchain=tmp_path / "toolchain", source=None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["show", "traced_later"])
def test_a_function_that_ftrace_can_redirect_is_found(kernel: Kernel, name: str) -> None:
    found = replaceable(kernel, name)
    assert (found.name, found.object) == (name, "vmlinux")


@pytest.mark.parametrize(
    ("name", "says", "way_out"),
    [
        ("shaw", "shaw: no function of vmlinux on 6.12", "did you mean show?"),
        ("taken", "taken: is taken.isra.0 in this kernel", "make a livepatch of a change of the source"),
        (
            "twin",
            "twin: vmlinux has 2 functions of that name",
            "make a livepatch of a change of the source",
        ),
        ("quiet", "quiet: has no call of ftrace", "patch the functions that call it"),
        ("starts", "starts: is __init, and freed once the kernel is up", "no livepatch"),
        ("format", "format: takes any number of arguments", "make a livepatch of a change of the source"),
        ("datum_1", "datum_1: is data, and no function", "patch the functions that use it"),
        ("brief", "brief: is inline, in linux/other.h", "patch the functions that call it"),
    ],
)
def test_what_cannot_be_replaced_is_refused_with_why(
    kernel: Kernel, name: str, says: str, way_out: str
) -> None:
    with pytest.raises(UsageError) as refused:
        replaceable(kernel, name)
    assert refused.value.message.startswith(says)
    assert (refused.value.hint or "").startswith(way_out)


@pytest.mark.parametrize(
    ("name", "position", "says"),
    [
        ("show", 0, ""),
        ("show", 1, ""),
        ("traced_later", 0, ""),
        ("format", 0, ""),
        ("noped", 0, ""),  # as objtool leaves what ftrace calls from, in some builds
        ("twin", 2, ""),
        ("twin", 0, "vmlinux has 2 symbols of that name: .old_sympos says which one is meant"),
        ("twin", 3, ".old_sympos is 3, and vmlinux has 2 symbols of that name"),
        ("show", 2, ".old_sympos is 2, and vmlinux has 1 symbol of that name"),
        ("shaw", 0, "no function of that name is in 6.12.0: renamed, or inlined everywhere; did you"),
        ("shaw", 1, "no function of that name"),
        ("taken", 0, "is taken.isra.0 in this kernel"),
        ("quiet", 0, "has no call of ftrace"),
        ("starts", 0, "is __init, and freed once the kernel is up"),
        ("datum_1", 0, "is data, and no function"),
        ("brief", 0, "is inline, in linux/other.h"),
    ],
)  # fmt: skip
def test_a_function_that_no_livepatch_can_change_is_told_with_why(
    kernel: Kernel, name: str, position: int, says: str
) -> None:
    why = why_unchangeable(kernel, ShippedKernel(kernel).object("vmlinux"), name, position)
    assert why.startswith(says)
    assert bool(why) == bool(says)


@pytest.mark.parametrize(
    ("wanted", "header"),
    [("struct seq_file", "linux/seq_file.h"), ("pair_t", "linux/pair.h"), ("cmp_t", "linux/pair.h"),
     ("struct nothing", "")],
)  # fmt: skip
def test_the_header_is_that_with_the_definition(kernel: Kernel, wanted: str, header: str) -> None:
    assert starting._header(kernel, NamedType(wanted, whole=False)) == header


def test_a_header_that_may_not_be_included_by_itself_is_left_out_where_it_can_be(kernel: Kernel) -> None:
    first, second = starting._declarations(replaceable(kernel, "show"), kernel)
    assert "#include <linux/seq_file.h>\n" in first
    assert "struct seq_file;\n" in second
    assert "#include" not in second


def test_a_type_that_is_in_no_header_is_refused_where_it_is_needed_whole(kernel: Kernel) -> None:
    prototype = prototype_of(Btf(made().data()), "hard")
    assert prototype
    with pytest.raises(UsageError, match="takes struct pair, which no header has"):
        list(starting._declarations(ReplaceableFunction("hard", "vmlinux", prototype), kernel))


def text_of(function: str, kernel: Kernel) -> dict[str, str]:
    found = replaceable(kernel, function)
    declarations = next(starting._declarations(found, kernel))
    return starting._files("my-fix", "my_fix", found, kernel, declarations)


def test_what_is_written(kernel: Kernel) -> None:
    files = text_of("show", kernel)
    assert sorted(files) == ["Kbuild", "my_fix.c", "patch.toml"]
    assert all("SPDX-License-Identifier: GPL-2.0-only" in each.splitlines()[0] for each in files.values())
    source = files["my_fix.c"]
    assert "static int livepatch_show(struct seq_file *m, size_t arg2)\n{\n\treturn static_call" in source
    assert source.count("}, { }\n};") == 2  # the sentinels
    assert "\t\t/* name being NULL means vmlinux */\n" in source
    assert files["Kbuild"].endswith("\nobj-m += my_fix.o\n")


def test_nothing_is_returned_by_what_returns_nothing(kernel: Kernel) -> None:
    assert "(void)\n{\n\tstatic_call(original)();\n}" in text_of("traced_later", kernel)["my_fix.c"]


def test_the_plan_can_be_read_as_it_is_and_with_its_observation_filled_in(kernel: Kernel) -> None:
    plan = text_of("show", kernel)["patch.toml"]
    assert tomllib.loads(plan)["livepatch"] == "my_fix"
    filled = tomllib.loads(plan.replace("# [", "[").replace("# c", "c").replace("# b", "b"))
    assert filled["observe"][0].keys() >= {"command", "before"}
    assert filled["workload"][0].keys() == {"command"}


def test_an_object_that_is_a_module_is_named(kernel: Kernel) -> None:
    prototype = Prototype("void {}(void)", (), returns=False, variadic=False, types=())
    found = ReplaceableFunction("f", "ext4", prototype)
    assert '\t\t.name = "ext4",\n' in starting._files("x", "x", found, kernel, "")["x.c"]


def test_long_prototypes_are_folded_as_the_kernel_does() -> None:
    folded = starting._folded("int livepatch_one(struct first_of_all *first, struct second_of_all *second)")
    assert folded == (
        "int livepatch_one(struct first_of_all *first,\n"
        "\t\t\t struct second_of_all *second)"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["9lives", "a.b", "über", "a b"])
def test_a_name_that_no_module_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a livepatch"):
        check_name(tmp_path / name)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        check_name(tmp_path)
