# SPDX-License-Identifier: Apache-2.0
"""What no livepatch can do is refused with file, function, reason and way out; what it can do is not."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from klp.sourcepatch.changes import Changes, changes_of
from klp.sourcepatch.gates import obstacles, text_obstacles, unit_obstacles
from klp.sourcepatch.keys import cautions
from klp.sourcepatch.values import CompiledUnit, Obstacle, PreparedTree, Unit, Way
from tests.unit.elffiles import ALLOC, PC32, WRITE
from tests.unit.madeelf import Made, data, made_object, text

COMMAND = "gcc -pg -mfentry -fcf-protection=branch -c -o a/unit.o a/unit.c"
OLD, NEW = b"\x31\xc0\xc3", b"\xb0\x01\xc3"


@dataclass(frozen=True)
class File:
    path: str
    before: bytes | None = b"old"
    after: bytes | None = b"new"


@dataclass(frozen=True)
class Kernel:
    """A kernel in which f is at 64 and the table of removed ENDBRs at 128 names it."""

    sealed: bool = True

    def addresses(self, name: str) -> tuple[int, ...]:
        ends = 132 if self.sealed else 128
        return {"f": (64,), "__ibt_endbr_seal": (128,), "__ibt_endbr_seal_end": (ends,)}.get(name, ())

    def code(self, address: int, size: int) -> bytes:
        return struct.pack("<i", 64 - address) if size else b""


@dataclass(frozen=True)
class Case:
    """A unit of a kernel, before and after."""

    folder: Path
    before: dict[str, Made]
    after: dict[str, Made]
    plain: dict[str, Made]
    object: str = "vmlinux"
    way: Way = Way.OBJTOOL_KLP

    def tree(self) -> PreparedTree:
        (self.folder / "Module.symvers").write_text(
            "0x1\tkernel_key\tvmlinux\tEXPORT_SYMBOL\t\n0x2\tother_key\tnet/a-b\tEXPORT_SYMBOL_GPL\t\n"
        )
        none = Path("none")
        return PreparedTree(None, self.way, none, self.folder, (), none)  # type: ignore[arg-type]

    def unit(self) -> CompiledUnit:
        files = {}
        for name in ("plain", "before", "after"):
            files[name] = self.folder / f"{name}.o"
            files[name].write_bytes(made_object(getattr(self, name)))
        return CompiledUnit(Unit("a/unit.c", self.object, COMMAND), **files)

    def changes(self) -> Changes:
        return changes_of(self.unit(), b"", b"")

    def obstacles(self, differences: dict[str, str] | None = None) -> tuple[Obstacle, ...]:
        return obstacles(self.unit(), self.changes(), self.tree(), differences or {})

    def cautions(self, kernel: Kernel = Kernel()) -> tuple[str, ...]:
        return cautions(self.unit(), self.changes(), self.tree(), kernel)


def traced(name: str) -> Made:
    return Made(bytes(8), relocations=[(0, 1, name, 0)])


def case(folder: Path, section: str = ".text", name: str = "f", mcount: bool = True) -> Case:
    """A function that changes; `section` is that of the kernel."""
    own = section if section != ".text" else f".text.{name}"
    plain = {section: text(name, OLD)} | ({"__mcount_loc": traced(name)} if mcount else {})
    return Case(folder, {own: text(name, OLD)}, {own: text(name, NEW)}, plain)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("net/Kconfig", "changes how the kernel is configured"),
        ("net/netfilter/Makefile", "changes how the kernel is built"),
        ("arch/x86/Kbuild", "changes how the kernel is built"),
        ("arch/x86/entry/entry_64.S", "is assembler, which ftrace cannot redirect"),
        ("arch/x86/kernel/vmlinux.lds.S", "is a linker script, which places the whole kernel"),
        ("arch/x86/entry/vdso/vclock_gettime.c", "is of the vDSO, which runs in user space"),
        ("lib/vdso/gettimeofday.c", "is of the vDSO, which runs in user space"),
        ("rust/kernel/lib.rs", "is Rust, of which no livepatch can be made"),
        ("arch/x86/boot/main.c", "is no part of the running kernel: it runs before, or beside, the kernel"),
    ],
)
def test_files_that_cannot_be_patched(path: str, reason: str):
    [found] = text_obstacles([File("fs/proc/cmdline.c"), File(path)])
    assert (found.file, found.function, found.reason) == (path, "", reason)
    assert found.way_out
    assert found.words == f"{path}: {reason}"


def test_files_that_come_and_go():
    new, gone = text_obstacles([File("fs/new.c", before=None), File("fs/old.c", after=None)])
    assert new.words == "fs/new.c: is a new file, which no unit of the kernel is made of"
    assert gone.words == "fs/old.c: is removed or renamed: the running kernel keeps its code"


@pytest.mark.parametrize(
    "path", ["Documentation/a.rst", "tools/testing/a.c", "MAINTAINERS", "samples/Makefile"]
)
def test_files_without_code_stand_in_nobodys_way_but_make_no_livepatch_alone(path: str):
    assert text_obstacles([File("fs/proc/cmdline.c"), File(path)]) == ()
    [found] = text_obstacles([File(path)])
    assert found.words == f"changes no code of the kernel: it is of {path}"


@pytest.mark.parametrize("path", ["fs/proc/cmdline.c", "include/linux/fs.h", "lib/string.c"])
def test_files_that_can_be_patched(path: str):
    assert text_obstacles([File(path)]) == ()


def test_a_unit_without_ftrace_is_known_by_its_command():
    unit = Unit("lib/string.c", "vmlinux", COMMAND)
    assert unit_obstacles([unit]) == ()
    [found] = unit_obstacles(
        [replace(unit, command="gcc -O2 -fpatchable-function-entry=16,16 -c -o lib/string.o lib/string.c")]
    )
    assert found.words.startswith("lib/string.c: is built without calls of ftrace")


def test_a_function_that_can_be_replaced(tmp_path: Path):
    one = case(tmp_path)
    assert one.changes().functions == ("f",)
    assert one.obstacles() == ()
    assert one.cautions() == ()


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (".init.text", "lies in .init.text, which is freed"),
        (".exit.text", "lies in .exit.text, which is freed"),
        (".noinstr.text", "lies in .noinstr.text, which ftrace never touches"),
        (".entry.text", "lies in .entry.text, which ftrace never touches"),
    ],
)
def test_sections_in_which_nothing_can_be_replaced(tmp_path: Path, section: str, reason: str):
    for way in Way:
        [found] = replace(case(tmp_path, section), way=way).obstacles()
        assert (found.file, found.function) == ("a/unit.c", "f")
        assert found.reason.startswith(reason)


def test_sched_functions_are_for_objtool_only(tmp_path: Path):
    one = case(tmp_path, ".sched.text")
    assert one.obstacles() == ()
    [found] = replace(one, way=Way.CREATE_DIFF_OBJECT).obstacles()
    assert found.reason.startswith("lies in .sched.text with others")
    assert "create-diff-object" in found.reason


def test_a_function_that_ftrace_does_not_know(tmp_path: Path):
    [found] = case(tmp_path, mcount=False).obstacles()
    assert found.reason.startswith("has no call of ftrace")
    assert "functions that call it" in found.way_out


def test_the_body_of_a_system_call_names_its_wrapper(tmp_path: Path):
    [found] = case(tmp_path, name="__do_sys_brk", mcount=False).obstacles()
    assert found.function == "SYSCALL_DEFINE of brk, __do_sys_brk"
    assert "__x64_sys_brk" in found.reason
    assert "patch the functions that it calls" in found.way_out
    assert case(tmp_path, name="__do_sys_brk").obstacles() == ()


def test_code_that_is_not_the_kernels(tmp_path: Path):
    [found] = case(tmp_path).obstacles({"f": "vmlinux has it elsewhere", "g": "not changed"})
    assert found.words == "a/unit.c: f: is not what this kernel runs: vmlinux has it elsewhere"
    assert "__weak" in found.way_out


def with_data(one: Case, before: dict[str, Made], after: dict[str, Made]) -> Case:
    return replace(one, before=one.before | before, after=one.after | after)


def test_changed_data_is_named(tmp_path: Path):
    one = with_data(
        case(tmp_path), {".data.users": data("users", b"0")}, {".data.users": data("users", b"1")}
    )
    [found] = one.obstacles()
    assert found.words.startswith("a/unit.c: users: changes data: it has another initial value")
    assert "callback" in found.way_out


def test_data_for_boot_says_so(tmp_path: Path):
    before, after = ({".init.data": data("at_boot", each)} for each in (b"0", b"1"))
    [found] = with_data(case(tmp_path), before, after).obstacles()
    assert "read at boot only" in found.reason


def test_what_macros_bring_along_and_new_data_are_no_change_of_data(tmp_path: Path):
    before = {".data.once.a": data("__already_done.3", b"\0")}
    after = {
        ".data.once.a": data("__already_done.4", b"\0"), ".data.once.b": data("__already_done.3", b"\1"),
        ".rodata.__func__.9": data("__func__.9", b"f\0", writable=False), ".data.own": data("own", b"1"),
    }  # fmt: skip
    one = with_data(case(tmp_path), before, after)
    assert one.obstacles() == ()
    assert one.changes().added == ("own",)


@pytest.mark.parametrize(("writable", "refused"), [(True, True), (False, False)])
def test_a_static_variable_that_is_gone(tmp_path: Path, writable: bool, refused: bool):
    one = case(tmp_path)
    uses = text("f", b"\x48\x8b\x05\0\0\0\0\xc3", (3, PC32, "count.1", -4))
    before = {".text.f": uses, ".data.count.1": data("count.1", b"7", writable=writable)}
    found = replace(one, before=before).obstacles()
    assert [each.function for each in found] == (["count"] if refused else [])
    if refused:
        assert found[0].reason.startswith("is a static variable of f, and gone")


def test_exports_that_come_or_go(tmp_path: Path):
    one, export = case(tmp_path), Made(bytes(8), symbols={"__export_symbol_g": (0, 0, "NOTYPE")})
    [new] = with_data(one, {}, {".export_symbol": export}).obstacles()
    [gone] = with_data(one, {".export_symbol": export}, {}).obstacles()
    only = replace(one, before=one.before, after=one.before | {".export_symbol": export})
    assert not only.changes().nothing
    assert new.words.startswith("a/unit.c: g: is exported anew")
    assert gone.words.startswith("a/unit.c: g: is exported no longer")


@pytest.mark.parametrize(
    ("section", "symbol", "reason"),
    [
        ("__param", "__param_limit", "adds a module parameter"),
        (".init.setup", "__setup_quick", "adds a boot parameter"),
        (".BTF_ids", "__BTF_ID__func__kfunc__12", "adds a BTF id"),
    ],
)
def test_what_is_entered_into_a_table_of_the_kernels(
    tmp_path: Path, section: str, symbol: str, reason: str
):
    entry = Made(bytes(8), symbols={symbol: (0, 8, "OBJECT")})
    [found] = with_data(case(tmp_path), {}, {section: entry}).obstacles()
    assert found.reason.startswith(reason)
    other = Made(bytes(8), symbols={symbol.replace("12", "13"): (0, 8, "OBJECT")})
    assert with_data(case(tmp_path), {section: entry}, {section: other}).obstacles() == ()


def test_a_function_to_call_at_boot(tmp_path: Path):
    call = Made(bytes(4), symbols={"__initcall__kmod_a__1_7_setup6": (0, 0, "NOTYPE")},
                relocations=[(0, PC32, "setup", 0)])  # fmt: skip
    after = {".init.text": text("setup", NEW), ".initcall6.init": call}
    table, function = with_data(case(tmp_path), {}, after).obstacles()
    assert table.words.startswith("a/unit.c: setup: adds a function to call at boot")
    assert function.words.startswith("a/unit.c: setup: is new and lies in .init.text")


def test_a_new_variable_is_told_with_its_file(tmp_path: Path):
    one = with_data(case(tmp_path), {}, {".data.count": data("count", b"7")})
    assert one.obstacles() == ()
    [found] = one.cautions()
    assert found.startswith("a/unit.c: the variable count is new")


def test_a_new_static_variable_of_a_function_is_refused(tmp_path: Path):
    one = with_data(case(tmp_path), {}, {".data.count.1": data("count.1", b"7")})
    [found] = one.obstacles()
    assert found.words.startswith("a/unit.c: count: is a new static variable of a function")
    assert one.cautions() == ()


def keyed(one: Case, key: str, table: str = "__jump_table") -> Case:
    """The case with a key that both versions of its function ask."""
    places = [(0, PC32, "f", 0), (4, PC32, "f", 2), (8, 24, key, 0)]
    entry = Made(bytes(16), WRITE | ALLOC, relocations=places)
    if table == ".static_call_sites":
        entry = Made(bytes(8), WRITE | ALLOC, relocations=[(0, PC32, "f", 0), (4, PC32, key, 0)])
    return with_data(one, {table: entry}, {table: entry})


@pytest.mark.parametrize(
    ("key", "object", "home"),
    [
        ("own_key", "nft", "nft"),
        ("other_key", "nft", "a_b"),
        ("kernel_key", "nft", None),
        ("own_key", "vmlinux", None),
    ],
)
def test_static_keys_of_modules(tmp_path: Path, key: str, object: str, home: str | None):
    found = keyed(replace(case(tmp_path), object=object), key).obstacles()
    if home is None:
        assert found == ()
    else:
        [one] = found
        assert one.words == (
            f"a/unit.c: f: asks the static key {key} of module {home}, which its new code could not follow"
        )
        assert f"static_key_enabled(&{key})" in one.way_out


def test_a_static_key_that_the_patch_brings_along(tmp_path: Path):
    one = keyed(replace(case(tmp_path), object="nft"), "=.data.fresh")
    after = with_data(
        replace(one, before=case(tmp_path).before), {}, {".data.fresh": data("fresh", bytes(16))}
    )
    assert after.changes().added == ("fresh",)
    assert after.obstacles() == ()


def test_the_description_of_a_message_is_no_key_of_a_module(tmp_path: Path):
    entry = {"__dyndbg": data("descriptor.5", bytes(56))}
    one = keyed(replace(case(tmp_path), object="amdgpu"), "=__dyndbg")
    assert with_data(one, entry, entry).obstacles() == ()
    plain = {".data.descriptor.5": data("descriptor.5", bytes(56))}
    other = keyed(replace(case(tmp_path), object="amdgpu"), "=.data.descriptor.5")
    assert len(with_data(other, plain, plain).obstacles()) == 1


def test_static_calls_of_modules(tmp_path: Path):
    one = keyed(replace(case(tmp_path), object="nft"), "__SCK__hook", ".static_call_sites")
    [found] = one.obstacles()
    assert found.reason.startswith("makes the static call hook of module nft")


def test_tracepoints_of_modules_go_quiet_and_nothing_more(tmp_path: Path):
    one = keyed(replace(case(tmp_path), object="xfs"), "__tracepoint_xfs_lock")
    one = keyed(one, "__SCK__tp_func_xfs_lock", ".static_call_sites")
    assert one.obstacles() == ()
    [found] = one.cautions()
    assert (
        found
        == "a/unit.c: f: goes quiet in the new code, because its key is in a module: tracepoint xfs_lock"
    )
    assert replace(one, object="vmlinux").cautions() == ()


def test_debug_messages_of_modules_go_quiet_where_their_keys_are_left_out(tmp_path: Path):
    one = keyed(replace(case(tmp_path), object="ftp"), "__UNIQUE_ID_ddebug12.3")
    assert one.obstacles() == ()
    [found] = one.cautions()
    assert found.endswith("its key is in a module: pr_debug()")
    assert replace(one, way=Way.CREATE_DIFF_OBJECT).cautions() == ()


def test_an_address_that_is_taken_anew(tmp_path: Path):
    one = case(tmp_path, name="g")
    takes = text("g", b"\x48\xc7\xc7\0\0\0\0\xc3", (3, 11, "f", 0))
    after = replace(one, after={".text.g": takes})
    [found] = after.cautions()
    assert found.startswith("a/unit.c: f: its address is taken anew, but the kernel removed the ENDBR")
    assert after.cautions(Kernel(sealed=False)) == ()
    other = {".text.h": text("h", b"\x48\xc7\xc7\0\0\0\0\xc3", (3, 11, "f", 0))}
    assert with_data(after, other, other).cautions() == ()


def test_a_call_takes_no_address(tmp_path: Path):
    one = case(tmp_path, name="g")
    calls = text("g", b"\xe8\0\0\0\0\xc3", (1, 4, "f", -4))
    assert replace(one, after={".text.g": calls}).cautions() == ()
