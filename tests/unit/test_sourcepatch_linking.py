# SPDX-License-Identifier: Apache-2.0
"""Livepatches as C text and Kbuild, and whether a link lost something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from klp.errors import BuildFailed, PatchRefused, UsageError
from klp.sourcepatch.linking import kbuild_text, refused_by_modpost, shipped_names, write_folder
from klp.sourcepatch.livepatch_source import LivepatchSource, callbacks_in, livepatch_source
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.values import NewFunction, PreparedTree, Unit, UnitDifference, Way
from klp.sourcepatch.verifying import verify
from tests.unit.elffiles import ALLOC, EXEC
from tests.unit.objectfiles import Content, Made, made_object

SHOW = NewFunction("vmlinux", "type_show", 18, "type_show.net_core", "net/core/net-sysfs")
ALONE = NewFunction("nf_q", "recv.isra.0", 0, "recv.isra.0.net_q", "net/q")


def tree(way: Way) -> PreparedTree:
    nowhere = Path("/nowhere")
    return PreparedTree(SimpleNamespace(), way, nowhere, nowhere, (), nowhere)  # type: ignore[arg-type]


def test_functions_by_object_vmlinux_first() -> None:
    text = livepatch_source(LivepatchSource((ALONE, SHOW)))
    lines = text.splitlines()
    assert lines[0] == "// SPDX-License-Identifier: GPL-2.0-only"
    assert 'extern char new_type_show_net_core[] asm("type_show.net_core");' in lines
    assert text.index(".funcs = vmlinux_funcs") < text.index(".funcs = nf_q_funcs")
    assert '\t\t.name = "nf_q",' in lines
    assert text.count(".old_sympos") == 1
    assert "\t\t.old_sympos = 18," in lines
    assert '\t\t.old_name = "recv.isra.0",' in lines
    assert 'MODULE_INFO(livepatch, "Y");' in lines


def test_two_symbols_that_are_one_word_in_c_stay_two() -> None:
    one = NewFunction("vmlinux", "f", 0, "f.a_b", "x")
    other = NewFunction("vmlinux", "g", 0, "f.a.b", "x")
    text = livepatch_source(LivepatchSource((one, other)))
    assert 'extern char new_f_a_b[] asm("f.a_b");' in text
    assert 'extern char new_f_a_b_2[] asm("f.a.b");' in text
    assert ".new_func = new_f_a_b_2," in text


def test_a_module_may_begin_with_a_digit_and_no_name_in_c() -> None:
    text = livepatch_source(LivepatchSource((NewFunction("9pnet", "f", 0, "f.net", "net/9p/f"),)))
    assert "static struct klp_func _9pnet_funcs[]" in text
    assert '.name = "9pnet",' in text
    assert ".funcs = _9pnet_funcs," in text


def test_replace_and_states_are_there_only_when_they_are_asked_for() -> None:
    plain = livepatch_source(LivepatchSource((SHOW,)))
    assert ".replace" not in plain
    assert "klp_state" not in plain
    full = livepatch_source(LivepatchSource((SHOW,), replace=True, states=((3, 1), (4, 2))))
    assert "\t.replace = true,\n" in full
    assert "\t{ .id = 3, .version = 1 },\n\t{ .id = 4, .version = 2 },\n" in full
    assert "\t.states = states,\n" in full


def test_callbacks_are_called_for_the_first_object_or_those_named() -> None:
    def asked(*objects: str) -> str:
        return livepatch_source(
            LivepatchSource(
                (ALONE, SHOW), callbacks="mine.c", called=("pre_patch", "post_unpatch"), called_for=objects
            )
        )

    first = asked()
    assert '#include "mine.c"\n' in first
    assert first.count(".callbacks.pre_patch = pre_patch,") == 1
    assert first.index(".callbacks.post_unpatch") < first.index('.name = "nf_q"')
    other = asked("nf_q", "xfs")
    assert other.index(".callbacks.pre_patch") > other.index('.name = "nf_q"')
    assert other.count(".callbacks.pre_patch = pre_patch,") == 2
    assert "static struct klp_func xfs_funcs[] = {\n\t{ }\n};" in other


def test_the_description_is_one_string_of_c() -> None:
    text = livepatch_source(LivepatchSource((SHOW,), description='says "hi"\n and \\ more'))
    assert 'MODULE_DESCRIPTION("says \\"hi\\" and \\\\ more");' in text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("int pre_patch(struct klp_object *obj)\n{\n}", ("pre_patch",)),
        ("static void\npost_unpatch(struct klp_object *o) {}\nint pre_patch(struct klp_object *o) {}",
         ("pre_patch", "post_unpatch")),
        ("int pre_patch(struct klp_object *obj);", ()),
        ("/* int pre_patch(struct klp_object *obj) { */", ()),
        ("/*\nint pre_patch(struct klp_object *obj)\n{\n}\n*/", ()),
        ("// void post_patch(struct klp_object *obj) {", ()),
        ("int my_pre_patch(struct klp_object *obj) {}", ()),
        ("int x = pre_patch(obj);", ()),
    ],
)  # fmt: skip
def test_callbacks_that_a_c_file_defines(text: str, found: tuple[str, ...]) -> None:
    assert callbacks_in(text) == found


def test_kbuild_runs_objtool_where_objects_lack_what_it_makes() -> None:
    klp = kbuild_text("fix", ["a-b", "c"], Way.OBJTOOL_KLP)
    kpatch = kbuild_text("fix", ["a-b", "c"], Way.CREATE_DIFF_OBJECT)
    assert "$(obj)/fix.o: private override objtool-enabled := y\n" in klp
    assert "$(obj)/fix.o: private override objtool-enabled :=\n" in kpatch
    assert "$(obj)/fix-main.o: private objtool-enabled := y\n" in kpatch
    for text in (klp, kpatch):
        assert "obj-m := fix.o\nfix-y := fix-main.o a-b.o c.o\n" in text
        assert "\n\t$(call if_changed,object_shipped)\n" in text


def test_objects_have_names_of_their_own() -> None:
    units = [Unit(source, "vmlinux", "") for source in ("fs/a-b.c", "fs/a/b.c", "fs/a/c.c")]
    assert shipped_names(units) == ["fs-a-b", "fs-a-b-2", "fs-a-c"]


def difference_in(folder: Path) -> UnitDifference:
    file = folder / "difference.o"
    file.write_bytes(b"an object")
    return UnitDifference(Unit("net/core/net-sysfs.c", "vmlinux", ""), file, (SHOW,))


def test_a_folder_holds_all_that_kbuild_takes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.c"
    mine.write_text("int pre_patch(struct klp_object *obj)\n{\n\treturn 0;\n}\n")
    into = tmp_path / "out" / "fix"
    write_folder(
        "fix", [difference_in(tmp_path)], tree(Way.OBJTOOL_KLP), into, callbacks=mine, replace=True
    )
    assert sorted(each.name for each in into.iterdir()) == [
        "Kbuild", "fix-callbacks.c", "fix-main.c", "net-core-net-sysfs.o_shipped",
    ]  # fmt: skip
    assert (into / "net-core-net-sysfs.o_shipped").read_bytes() == b"an object"
    text = (into / "fix-main.c").read_text()
    assert '#include "fix-callbacks.c"' in text
    assert ".callbacks.pre_patch = pre_patch," in text


@pytest.mark.parametrize("name", ["", "a b", "../x", "a.b", "a$(x)"])
def test_no_module_can_have_such_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name for a module"):
        write_folder(name, [], tree(Way.OBJTOOL_KLP), tmp_path / "out")


def test_callbacks_that_are_not_there_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "mine.c"
    empty.write_text("/* int pre_patch() { */")
    for callbacks, words in ((empty, "defines no callback"), (tmp_path / "none.c", "No such file")):
        with pytest.raises(UsageError, match=words):
            write_folder(
                "fix",
                [difference_in(tmp_path)],
                tree(Way.OBJTOOL_KLP),
                tmp_path / "out",
                callbacks=callbacks,
            )


def test_a_symbol_that_is_not_exported_is_named() -> None:
    said = (
        'ERROR: modpost: "hidden_thing" [/x/fix.ko] undefined!\nERROR: modpost: "b" [/x/fix.ko] undefined!'
    )
    refused = refused_by_modpost(BuildFailed("fix: modpost failed", output=said))
    assert isinstance(refused, PatchRefused)
    assert refused.message == "hidden_thing, b: this kernel exports no such symbol to modules"
    assert refused.output == said
    assert refused_by_modpost(BuildFailed("fix: syntax", output="x.c:1:1: error: expected ;")) is None


KNOWN, UNKNOWN = bytes((8, 0, 0, 0, 5, 0)), bytes(6)


def linked(
    bugs: int = 24, unwound: Sequence[tuple[int, bytes]] = ((0, KNOWN), (63, UNKNOWN)), functions: int = 2
) -> ObjectFile:
    """A module of two functions, the second of them with padding in front."""
    names = [Made("f", ".text", 0, 32, "FUNC"), Made("g", ".text", 48, 16, "FUNC")][:functions]
    return made_object(
        {
            ".text": Content(bytes(64), ALLOC | EXEC),
            "__bug_table": Content(bytes(bugs)),
            ".orc_unwind": Content(b"".join(state for _, state in unwound)),
            ".orc_unwind_ip": Content(
                bytes(4 * len(unwound)),
                relocations=[(4 * number, "t", at) for number, (at, _) in enumerate(unwound)],
            ),
        },
        [
            Made("t", ".text", kind="SECTION", local=True),
            Made("__pfx_g", ".text", 32, 16, "FUNC", local=True),
            Made(".klp.sym.vmlinux.h,0", ".text", 0, 0, "FUNC", local=True),
            *names,
        ],
    )


def part(bugs: int, *functions: str, section: str = "__bug_table") -> ObjectFile:
    return made_object(
        {".text.f": Content(bytes(64), ALLOC | EXEC), section: Content(bytes(bugs))},
        [Made(each, ".text.f", 0, 8, "FUNC") for each in functions],
    )


def test_a_module_with_all_of_its_parts() -> None:
    verify(linked(), [part(12, "f"), part(12, "g")], "fix.ko")
    verify(linked(unwound=((0, KNOWN), (31, UNKNOWN), (32, KNOWN))), [], "fix.ko")
    verify(linked(), [part(99, "f", section=".discard.reachable")], "fix.ko")


@pytest.mark.parametrize(
    ("module", "parts", "words"),
    [
        (linked(), [part(12, "f"), part(24, "g")], "__bug_table has 24 bytes, and its objects have 36"),
        (linked(), [part(4, section=".return_sites")], ".return_sites has 0 bytes, and its objects have 4"),
        (linked(), [part(12, "f"), part(12, "f")], "function f is lost"),
        (linked(functions=1), [part(0, "g")], "function g is lost"),
        (linked(unwound=((40, KNOWN),)), [], "function f has no ORC entry"),
        (linked(unwound=((0, KNOWN), (31, UNKNOWN))), [], "function g has no ORC entry"),
        (linked(unwound=()), [], "function f has no ORC entry"),
    ],
)
def test_what_a_link_lost_is_named(module: ObjectFile, parts: list[ObjectFile], words: str) -> None:
    with pytest.raises(PatchRefused, match=rf"^fix.ko: {words}$"):
        verify(module, parts, "fix.ko")
