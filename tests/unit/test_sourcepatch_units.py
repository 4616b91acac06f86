# SPDX-License-Identifier: Apache-2.0
"""Who includes whom, and what is asked of Kbuild and of the compiler; nothing is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from klp.errors import BuildFailed, HostLacks, PatchRefused
from klp.model import Kernel
from klp.process import Completed
from klp.sourcepatch import kbuild, units
from klp.sourcepatch.applying import PatchedFile
from klp.sourcepatch.includes import index_of, units_including
from klp.sourcepatch.values import PreparedTree, Unit, Way

NOWHERE = Path("nowhere")
KERNEL = Kernel("6.12", "6.12.118", "", *[NOWHERE] * 5, None)


@pytest.fixture
def tree(tmp_path: Path) -> PreparedTree:
    files = {
        ".config": "CONFIG_FS=y\nCONFIG_NET=m\n",
        "include/linux/a.h": "#pragma once\n",
        "include/linux/b.h": "# include <linux/a.h>\n",
        "fs/local.h": '#include "sub/deep.h"\n',
        "fs/sub/deep.h": "#include <linux/b.h>\n",
        "fs/x.c": '#include "local.h"\n',
        "fs/y.c": "#include <linux/a.h>\n",
        "fs/part.c": "int part;\n",
        "fs/whole.c": '  #include "part.c"\n',
        "fs/sub/other.c": '#include "../part.c"\n',
        "fs/off.c": "",
        "fs/lost.c": "",
        "fs/Makefile": "obj-$(CONFIG_FS) += fs.o\nfs-y := x.o \\\n  whole.o\nobj-$(CONFIG_OFF) += off.o\n",
        "net/local.h": "",
        "net/z.c": '#include "local.h"\n#include "../fs/sub/deep.h"\n',
        "net/off/w.c": "",
        "net/Makefile": "obj-$(CONFIG_WIRE) += off/\n",
        "arch/arm/q.c": "#include <linux/a.h>\n",
        "tools/t.c": "#include <linux/a.h>\n",
    }
    for name, text in files.items():
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    place = tmp_path / "tree"
    make = ("make", "-s", "-C", str(place))
    return PreparedTree(KERNEL, Way.OBJTOOL_KLP, Path("/"), place, make, Path("/objtool"))


def test_who_includes_whom(tree: PreparedTree) -> None:
    told: list[str] = []
    index = index_of(tree.tree, "x86", told.append)
    assert told == ["0 of 14 files"]  # those of tools and of another architecture are not looked through
    assert index["include/linux/a.h"] == ["fs/y.c", "include/linux/b.h"]
    assert units_including(index, "include/linux/a.h") == ["fs/x.c", "fs/y.c", "net/z.c"]
    assert units_including(index, "fs/local.h") == ["fs/x.c"]
    assert units_including(index, "net/local.h") == ["net/z.c"]
    assert units_including(index, "fs/sub/deep.h") == ["fs/x.c", "net/z.c"]
    assert units_including(index, "nowhere.h") == []
    assert "arch/arm/q.c" in index_of(tree.tree, "arm")["include/linux/a.h"]


class FakeKbuild:
    """What runs in the tree: a make that has rules for some files, a compiler, and objtool."""

    def __init__(
        self, built: dict[str, str], flags: str = "", fails: str = "", stderr: str = "", stray: str = ""
    ) -> None:
        self.stray = stray
        self.built = built
        self.flags = flags
        self.fails = fails
        self.stderr = stderr
        self.commands: list[list[str]] = []

    def __call__(self, argv: list[str], **_: object) -> Completed:
        words = argv[argv.index("--") + 1 :]
        assert words.pop(0) == "nice"
        self.commands.append(argv)
        if self.fails and self.fails in " ".join(words):
            return Completed(tuple(words), 1, "", self.stderr)
        if "klp-flags" in words:
            return Completed(tuple(words), 0, f"{self.flags}\n", "")
        if "klp-objects" in words:
            [folder] = [each.partition("=")[2] for each in words if each.startswith("obj=")]
            members = [
                f"{each}.o" for each in self.built if each.startswith(f"{folder}/") and each != self.stray
            ]
            return Completed(tuple(words), 0, " ".join(members), "mkdir: read-only")
        if words[0] == "make":
            asked = {each.removesuffix(".o") for each in words if each.endswith(".o")}
            lines = [
                f"make -f scripts/Makefile.build obj={Path(each).parent}\nset -e; "
                f"gcc {self.built[each]} -Wp,-MMD,{each}.d -c -o {each}.o {each}.c ; "
                f"objtool {each}.o; fixdep {each}.d 'gcc -c -o {each}.o {each}.c'"
                for each in asked
                if each in self.built
            ]
            errors = "No rule to make target" if asked - set(self.built) else ""
            return Completed(tuple(words), 2 if errors else 0, "\n".join(lines), errors)
        return Completed(tuple(words), 0, "", "")


BUILTIN = "-DKBUILD_MODNAME='\"x\"'"
MODULE = "-DMODULE -DKBUILD_MODNAME='\"net_z\"'"
RULES = {"fs/x": BUILTIN, "fs/y": BUILTIN, "fs/whole": BUILTIN, "fs/sub/other": BUILTIN, "net/z": MODULE}


def fake(monkeypatch: pytest.MonkeyPatch, kbuild_: FakeKbuild) -> FakeKbuild:
    monkeypatch.setattr(kbuild, "run", kbuild_)
    return kbuild_


def changes(*paths: str) -> list[PatchedFile]:
    return [PatchedFile(path, b"a\n", b"n\na\n") for path in paths]


def sources(found: Sequence[Unit]) -> list[str]:
    return [each.source for each in found]


def test_units_and_their_objects(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake(monkeypatch, FakeKbuild(RULES))
    x, z = units.units_of(changes("net/z.c", "fs/x.c", "fs/x.rst", "tools/t.c"), tree, header_limit=5)
    assert (x.source, x.object, x.stem) == ("fs/x.c", "vmlinux", "fs/x")
    assert x.command == f"gcc {BUILTIN} -Wp,-MMD,fs/x.d -c -o fs/x.o fs/x.c"
    assert (z.source, z.object) == ("net/z.c", "net_z")
    argv = asked.commands[0]
    # In a tree that is read-only Kbuild would else find no option that the compiler knows.
    assert {"--dry-run", "TMPOUT=/tmp/.tmp_$$$$"} <= set(argv)


def test_a_c_file_that_others_include(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeKbuild(RULES))
    found = units.units_of(changes("fs/part.c"), tree, header_limit=5)
    assert sources(found) == ["fs/sub/other.c", "fs/whole.c"]
    fake(monkeypatch, FakeKbuild({**RULES, "fs/part": BUILTIN}))
    found = units.units_of(changes("fs/part.c"), tree, header_limit=5)
    assert sources(found) == ["fs/part.c", "fs/sub/other.c", "fs/whole.c"]


def test_a_header_stands_for_units_up_to_a_limit(
    tree: PreparedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, FakeKbuild(RULES))
    header = changes("include/linux/a.h")
    assert sources(units.units_of(header, tree, header_limit=3)) == ["fs/x.c", "fs/y.c", "net/z.c"]
    with pytest.raises(PatchRefused, match=r"include/linux/a\.h: 3 C files see this header, .* up to 2"):
        units.units_of(header, tree, header_limit=2)
    many = {"include/linux/a.h": [f"fs/{n}.c" for n in range(31)]}
    with pytest.raises(PatchRefused, match="31 C files"):
        units.units_of(header, tree, header_limit=3, index=lambda: many)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("fs/off.c", "6.12.118 is built without this file: CONFIG_OFF is not set"),
        ("net/off/w.c", "6.12.118 is built without this file: CONFIG_WIRE is not set"),
        ("fs/lost.c", "no makefile of its own folder, or of one above it, builds it for 6.12.118"),
    ],
)
def test_a_file_that_is_not_built(
    tree: PreparedTree, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    fake(monkeypatch, FakeKbuild(RULES))
    with pytest.raises(PatchRefused, match=f"{path}: {why}"):
        units.units_of(changes("fs/x.c", path), tree, header_limit=5)


def test_a_rule_does_not_make_a_member(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pattern rule Kbuild would compile it."""
    fake(monkeypatch, FakeKbuild({**RULES, "fs/off": BUILTIN}, stray="fs/off"))
    with pytest.raises(PatchRefused, match="without this file: CONFIG_OFF is not set"):
        units.units_of(changes("fs/x.c", "fs/off.c"), tree, header_limit=5)
    fake(monkeypatch, FakeKbuild(RULES, fails="klp-objects", stderr="no\n"))
    with pytest.raises(BuildFailed, match="does not tell what is built in fs"):
        units.units_of(changes("fs/x.c"), tree, header_limit=5)


def test_kbuild_that_fails_is_told(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeKbuild(RULES, fails="--dry-run", stderr="Makefile:1: missing separator\n"))
    with pytest.raises(BuildFailed, match="cannot tell") as failure:
        units.units_of(changes("fs/x.c"), tree, header_limit=5)
    assert "missing separator" in failure.value.output
    fake(monkeypatch, FakeKbuild(RULES, fails="--dry-run", stderr="bwrap: no uid map\n"))
    with pytest.raises(HostLacks, match="no uid map"):
        units.units_of(changes("fs/x.c"), tree, header_limit=5)


def test_code_of_several_modules(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeKbuild({"fs/x": "-DMODULE -DKBUILD_MODNAME='\"a:b\"'"}))
    with pytest.raises(PatchRefused, match=r"fs/x\.c: is a part of several modules: a:b"):
        units.units_of(changes("fs/x.c"), tree, header_limit=5)


def test_a_built_tree_has_the_command_beside_the_object(
    tree: PreparedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake(monkeypatch, FakeKbuild({}))
    line = "savedcmd_fs/x.o := gcc -DA='\\#$$x' -DKBUILD_MODNAME='\"x\"' -c -o fs/x.o fs/x.c ; objtool x\n"
    (tree.tree / "fs/.x.o.cmd").write_text(f"{line}\nsource_fs/x.o := fs/x.c\n")
    (tree.tree / "fs/x.o").write_bytes(b"")
    [x] = units.units_of(changes("fs/x.c"), tree, header_limit=5)
    assert x.command == "gcc -DA='#$x' -DKBUILD_MODNAME='\"x\"' -c -o fs/x.o fs/x.c"
    assert not asked.commands


def test_three_objects_by_one_command(
    tree: PreparedTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = fake(monkeypatch, FakeKbuild({}, flags="--ibt --orc --werror --link"))
    unit = Unit("net/z.c", "net_z", "gcc -O2 -Wp,-MMD,net/.z.o.d -c -o net/z.o net/z.c")
    compiled = units.compile_unit(unit, changes("net/z.c", "fs/local.h"), tree, tmp_path / "s")
    assert compiled.after == tmp_path / "s/after/net/z.o"
    by_folder = {}
    for argv in made.commands:
        words = argv[argv.index("--") + 2 :]
        if words[0] == "sh":
            [folder] = [each for each in ("plain", "before", "after") if f"/s/{each}/" in words[2]]
            by_folder[folder] = (argv, words[2].replace(f"{tmp_path}/s/{folder}", "S"))
    split = "-ffunction-sections -fdata-sections "
    assert by_folder["plain"][1] == "gcc -O2 -c -o 'S/net/z.o' net/z.c"
    assert by_folder["before"][1] == by_folder["after"][1] == f"gcc -O2 {split}-c -o 'S/net/z.o' net/z.c"
    seen = [f"{tree.tree / each}" for each in ("net/z.c", "fs/local.h")]
    for folder, (argv, _) in by_folder.items():
        assert [each in argv for each in seen] == [folder == "after"] * 2
        assert f"--ro-bind {tree.tree} {tree.tree}" in " ".join(argv)
    held = tmp_path / "s/held/net/z.c"
    assert f"--ro-bind {held} {seen[0]}" in " ".join(by_folder["after"][0])
    assert held.read_text() == "n\n#line 1\na\n"
    objtool = [argv for argv in made.commands if "/objtool" in argv]
    assert [argv[argv.index("/objtool") + 1 : -1] for argv in objtool] == [
        ["--ibt", "--orc", "--link", "--module"]
    ] * 3


def test_an_older_objtool_is_not_told_of_ibt(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeKbuild({}, flags="--ibt --orc --prefix=16 --link"))
    older = PreparedTree(KERNEL, Way.CREATE_DIFF_OBJECT, Path("/"), tree.tree, tree.make, NOWHERE)
    assert kbuild.objtool_flags(older) == ["--orc", "--prefix=16"]


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("/after/", "the patched source does not compile"),
        ("/plain/", "the unpatched source does not compile"),
        ("/objtool", "the unpatched source is refused by objtool"),
    ],
)
def test_the_compilers_own_lines_are_told(
    tree: PreparedTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str, words: str
) -> None:
    fake(monkeypatch, FakeKbuild({}, fails=fails, stderr="fs/x.c:3:1: error: no\n"))
    unit = Unit("fs/x.c", "vmlinux", "gcc -c -o fs/x.o fs/x.c")
    with pytest.raises(BuildFailed, match=rf"fs/x\.c: {words}") as failure:
        units.compile_unit(unit, changes("fs/x.c"), tree, tmp_path)
    assert failure.value.output == "fs/x.c:3:1: error: no"


def rule(target: str, command: str) -> str:
    return f"set -e; exec >/dev/null; trap 'rm -f {target}; trap - HUP' HUP; {command}"


def compiling(stem: str) -> str:
    return rule(
        f"{stem}.o", f"gcc -D__KERNEL__ -c -o {stem}.o {stem}.c ; fixdep 'gcc -c -o {stem}.o {stem}.c'"
    )


TABLES = "\n".join(
    [
        rule("fs/before.h", "bc > fs/before.h"),
        "make -f ./scripts/Makefile.build obj=. need-builtin=1 ./fs/x.o",
        "make -f ./scripts/Makefile.build obj=fs \\",
        "need-builtin=1 \\",
        rule("fs/gen", "gcc-14 -o fs/gen fs/gen.c"),
        ":",
        compiling("fs/y"),
        rule("fs/y.o", "./scripts/check-local-export fs/y.o"),
        "make -f ./scripts/Makefile.build obj=fs/sub \\",
        rule("fs/sub/table.h", "cat > fs/sub/table.h"),
        compiling("fs/sub/s"),
        "make -f ./scripts/Makefile.build obj=net",
        rule("net/table.h", "cat > net/table.h"),
        rule("fs/table.h", "fs/gen > fs/table.h"),
        compiling("fs/x"),
        rule("fs/late.h", "cat > fs/late.h"),
    ]
)


def test_what_kbuild_makes_before_a_unit() -> None:
    found = kbuild.rule_of(TABLES, "fs/x.c")
    assert found
    command, folder, rules = found
    assert (command, folder) == ("gcc -D__KERNEL__ -c -o fs/x.o fs/x.c", "fs")
    assert [each.rpartition("; ")[2] for each in rules] == [
        "gcc-14 -o fs/gen fs/gen.c", "cat > fs/sub/table.h", "fs/gen > fs/table.h",
    ]  # fmt: skip
    found = kbuild.rule_of(TABLES, "fs/sub/s.c")
    assert found
    assert (found[1], [each.rpartition("; ")[2] for each in found[2]]) == (
        "fs/sub",
        ["cat > fs/sub/table.h"],
    )
    assert kbuild.rule_of(TABLES, "fs/none.c") is None


def test_the_nearest_makefile_knows_how() -> None:
    text = "\n".join(
        [
            "make -f scripts/Makefile.build obj=arch",
            rule("arch/lib/d.o", "gcc -Wrong -c -o arch/lib/d.o arch/lib/d.c"),
            "make -f scripts/Makefile.build obj=arch/lib",
            rule("arch/lib/d.o", "gcc -Right -c -o arch/lib/d.o arch/lib/d.c"),
        ]
    )
    assert kbuild.rule_of(text, "arch/lib/d.c") == (
        "gcc -Right -c -o arch/lib/d.o arch/lib/d.c",
        "arch/lib",
        (),
    )


def test_what_a_unit_includes_is_made_in_a_copy(
    tree: PreparedTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = fake(monkeypatch, FakeKbuild({}))
    unit = Unit("fs/x.c", "vmlinux", "gcc -c -o fs/x.o fs/x.c", "fs", ("fs/gen > fs/table.h",))
    units.compile_unit(unit, changes("fs/x.c"), tree, tmp_path / "s")
    copy, place = tmp_path / "s/made/fs", tree.tree / "fs"
    assert (copy / "sub/deep.h").is_file()
    first, *compiled = [each for each in made.commands if "sh" in each]
    assert first[-1] == "fs/gen > fs/table.h"
    assert f"--bind {copy} {place}" in " ".join(first)
    assert [f"--ro-bind {copy} {place}" in " ".join(each) for each in compiled] == [True] * 3
    # The patched file is seen in the copy.
    [after] = [" ".join(each) for each in compiled if f"{place}/x.c" in each]
    assert after.index(f"{copy} {place} ") < after.index(f"{place}/x.c ")
    fake(monkeypatch, FakeKbuild({}, fails="fs/gen", stderr="fs/gen: not found\n"))
    with pytest.raises(BuildFailed, match="cannot be made in fs"):
        units.compile_unit(unit, changes("fs/x.c"), tree, tmp_path / "s")
