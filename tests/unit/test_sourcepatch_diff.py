# SPDX-License-Identifier: Apache-2.0
"""Patch files: what they say, and that applying them touches copies of the files that they name, only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from klp.errors import HostLacks, PatchRefused
from klp.model import Kernel
from klp.sourcepatch import applying
from klp.sourcepatch.applying import PatchedFile
from klp.sourcepatch.diff import FileDiff, read_diff
from klp.sourcepatch.values import PreparedTree, Way

Apply = Callable[..., tuple[PatchedFile, ...]]

NOWHERE = Path("nowhere")
KERNEL = Kernel("6.12", "6.12.118", "", *[NOWHERE] * 5, None)
LINES = "".join(f"line {number}\n" for number in range(1, 31))
EDIT = """--- a/fs/x.c\t2026-01-01 00:00:00
+++ b/fs/x.c\t2026-01-02 00:00:00
@@ -4,3 +4,4 @@ context
 line 4
-line 5
+line five
+and more
 line 6
"""
LATER = """--- a/fs/x.c
+++ b/fs/x.c
@@ -20,3 +20,3 @@
 line 20
-line 21
+line 21a
 line 22
"""
NEW = """diff --git a/fs/new.c b/fs/new.c
new file mode 100644
--- /dev/null
+++ b/fs/new.c
@@ -0,0 +1 @@
+x
"""
RENAME = "diff --git a/fs/x.c b/fs/y.c\nsimilarity index 100%\nrename from fs/x.c\nrename to fs/y.c\n"
MAIL = (
    f"From 0123 Mon Sep 17\nSubject: [PATCH] x\n\nWhy it is so.\n---\n fs/x.c | 2 +-\n\n{EDIT}-- \n2.47\n"
)


def removal(path: str, text: str) -> str:
    lines = text.splitlines()
    return "".join(
        [f"diff --git a/{path} b/{path}\ndeleted file mode 100644\n--- a/{path}\n+++ /dev/null\n",
         f"@@ -1,{len(lines)} +0,0 @@\n", *(f"-{line}\n" for line in lines)]
    )  # fmt: skip


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], tuple[FileDiff, ...]]:
    def read(text: str | bytes) -> tuple[FileDiff, ...]:
        file = tmp_path / "fix.patch"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_diff(file)

    return read


@pytest.fixture
def tree(tmp_path: Path) -> PreparedTree:
    folder = tmp_path / "tree"
    (folder / "fs").mkdir(parents=True)
    (folder / "fs/x.c").write_text(LINES)
    (folder / "fs/open").write_text("open\n")
    (folder / "fs/link.c").symlink_to("x.c")
    (folder / "away").symlink_to(tmp_path)
    return PreparedTree(KERNEL, Way.OBJTOOL_KLP, Path("/"), folder, ("make",), NOWHERE)


@pytest.fixture
def apply(
    tree: PreparedTree, tmp_path: Path, tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Apply:
    """Apply texts by the host's patch, without a sandbox: no root folder is at hand."""
    program = tool("patch")

    def bare(root: Path, argv: list[str], *, cwd: Path, **_: object) -> list[str]:
        return ["env", "-C", str(cwd), program, *argv[1:]]

    monkeypatch.setattr(applying, "inside", bare)

    def apply(*texts: str | bytes) -> tuple[PatchedFile, ...]:
        files = []
        for number, text in enumerate(texts, 1):
            files.append(tmp_path / f"{number}.patch")
            files[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
        return applying.apply(files, tree)

    return apply


def contents(folder: Path) -> Mapping[Path, bytes]:
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize("text", [EDIT, MAIL, f"diff --git a/fs/x.c b/fs/x.c\nindex 12..34 100644\n{EDIT}"])
def test_forms_of_a_patch(read: Callable[..., tuple[FileDiff, ...]], text: str) -> None:
    [each] = read(text)
    assert (each.source, each.target) == ("fs/x.c", "fs/x.c")
    [hunk] = each.hunks
    assert hunk.line == 4
    assert hunk.text.startswith("@@ -4,3 +4,4 @@")
    assert [each] == list(read(text.replace("\n", "\r\n")))


def test_files_come_go_and_move(read: Callable[..., tuple[FileDiff, ...]]) -> None:
    assert [(one.source, one.target) for one in read(NEW)] == [(None, "fs/new.c")]
    assert [(one.source, one.target) for one in read(removal("fs/x.c", "a"))] == [("fs/x.c", None)]
    assert read(RENAME) == (FileDiff("fs/x.c", "fs/y.c", ()),)
    copy = RENAME.replace("rename", "copy")
    assert read(copy) == (FileDiff("fs/x.c", "fs/y.c", (), copied=True),)
    old = EDIT.replace("--- a/fs/x.c", "--- a/fs/x.c.orig")
    assert [(one.source, one.target) for one in read(old)] == [("fs/x.c", "fs/x.c")]


@pytest.mark.parametrize(
    "path",
    [
        "a/../x.c",
        "/etc/passwd",
        "a//x.c",
        "a/fs/../../x.c",
        "a/.git/config",
        "a/./x.c",
        "a/fs\\x.c",
        "a/fs/\x07.c",
    ],
)
@pytest.mark.parametrize("side", ["---", "+++"])
def test_paths_that_may_lead_away(read: Callable[..., tuple[FileDiff, ...]], path: str, side: str) -> None:
    text = EDIT.replace(f"{side} {'a' if side == '---' else 'b'}/fs/x.c", f"{side} {path}")
    with pytest.raises(PatchRefused, match="lead out of the tree") as failure:
        read(text)
    assert repr(path) in failure.value.message
    assert "\n" not in failure.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no change in it"),
        ("hello\n", "no change in it"),
        (EDIT.replace("+4,4", "+4,9"), "not a patch: Hunk is shorter"),
        (EDIT.replace("a/fs/x.c", "x.c"), "has no folder to strip"),
        ("diff --git a/x.c b/x.c\nGIT binary patch\nliteral 3\nKcmZ\n\n", "binary file"),
        ("Binary files a/x.c and b/x.c differ\n", "binary file"),
        (NEW.replace("100644", "120000"), "a symbolic link"),
        (NEW.replace("100644", "160000"), "a submodule"),
        (b"x" * (4 * 2**20 + 1), "more than 4 MB"),
        ("--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n", "names no file"),
    ],
)
def test_what_is_no_patch(read: Callable[..., tuple[FileDiff, ...]], text: str | bytes, words: str) -> None:
    with pytest.raises(PatchRefused, match=words) as failure:
        read(text)
    assert "\n" not in failure.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PatchRefused, match="none: No such file"):
        read_diff(tmp_path / "none")
    with pytest.raises(PatchRefused, match="Is a directory"):
        read_diff(tmp_path)


def test_patches_build_on_each_other(apply: Apply, tree: PreparedTree) -> None:
    before = contents(tree.tree)
    second = EDIT.replace("-line 5\n+line five\n+and more\n", "-line five\n+line fünf\n").replace(
        "+4,4", "+4,3"
    )
    [each] = apply(EDIT, second.replace(" line 6", " and more"), LATER)
    assert each.path == "fs/x.c"
    assert each.before == LINES.encode()
    assert each.after is not None
    assert each.after.decode().splitlines()[3:7] == ["line 4", "line fünf", "and more", "line 6"]
    assert "line 21a\n" in each.after.decode()  # one line lower than the hunk says
    assert contents(tree.tree) == before


def test_bytes_that_are_no_text(apply: Apply, tree: PreparedTree) -> None:
    (tree.tree / "fs/x.c").write_bytes(b"se\xf1or\r\nold\n")
    [each] = apply(
        b"--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1,2 +1,2 @@\n se\xf1or\r\n-old\n+n\xe9w\n"
        b"\\ No newline at end of file\n"
    )
    assert each.after == b"se\xf1or\r\nn\xe9w"


def test_what_undoes_itself_is_no_difference(apply: Apply) -> None:
    back = EDIT.replace("-line 5\n+line five\n+and more", "-line five\n-and more\n+line 5")
    assert apply(EDIT, back.replace("-4,3 +4,4", "-4,4 +4,3")) == ()


def test_files_made_removed_and_moved(apply: Apply) -> None:
    assert apply(NEW) == (PatchedFile("fs/new.c", None, b"x\n"),)
    assert apply(removal("fs/open", "open")) == (PatchedFile("fs/open", b"open\n", None),)
    text = LINES.encode()
    assert apply(RENAME) == (PatchedFile("fs/x.c", text, None), PatchedFile("fs/y.c", None, text))
    assert apply(RENAME.replace("rename", "copy")) == (PatchedFile("fs/y.c", None, text),)
    assert apply(NEW, removal("fs/new.c", "x")) == ()


def test_a_rejected_hunk_is_named_and_shown(apply: Apply) -> None:
    wrong = LATER.replace(" line 20", " line twenty").partition("@@")
    text = f"{EDIT}@@{wrong[2]}"
    with pytest.raises(PatchRefused) as failure:
        apply(text)
    assert failure.value.message == "1.patch: hunk 2 of 2 at line 20 does not apply to fs/x.c of 6.12.118"
    assert failure.value.output.startswith("@@ -20,3 +20,3 @@\n line twenty\n-line 21\n")
    assert "line five" not in failure.value.output


def test_context_must_be_there_without_fuzz(apply: Apply) -> None:
    with pytest.raises(PatchRefused, match="hunk 1 of 1 at line 4"):
        apply(EDIT.replace(" line 4", " line four"))


def test_what_is_applied_already_is_said(apply: Apply) -> None:
    with pytest.raises(PatchRefused, match=r"fs/x\.c: \S+2\.patch is in 6\.12\.118 already"):
        apply(EDIT, EDIT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (EDIT.replace("fs/x.c", "fs/link.c"), "fs/link.c is a symbolic link"),
        (EDIT.replace("fs/x.c", "away/x.c"), "away is a symbolic link"),
        (EDIT.replace("fs/x.c", "fs/none.c"), "has none"),
        (EDIT.replace("fs/x.c", "fs/x.c/y.c"), "has none"),
        (EDIT.replace("fs/x.c", "fs"), "is a folder"),
        (NEW.replace("fs/new.c", "away/new.c"), "away is a symbolic link"),
        (NEW.replace("fs/new.c", "fs/open"), "has it already"),
        (removal("fs/x.c", "line 1"), "has more in it"),
    ],
)
def test_what_the_tree_does_not_allow(apply: Apply, tree: PreparedTree, text: str, words: str) -> None:
    before = contents(tree.tree.parent)
    with pytest.raises(PatchRefused, match=words):
        apply(text)
    after = contents(tree.tree.parent)
    assert {each: after[each] for each in after if each.suffix != ".patch"} == {
        each: before[each] for each in before if each.suffix != ".patch"
    }


def test_a_script_for_ed_is_not_run(apply: Apply, tmp_path: Path) -> None:
    with pytest.raises(PatchRefused, match="has no hunk"):
        apply(f"--- a/fs/x.c\n+++ b/fs/x.c\n1d\n!touch {tmp_path}/touched\nw\nq\n")
    # Nor where it comes behind a hunk.
    apply(f"{EDIT}--- a/fs/x.c\n1d\n!touch {tmp_path}/touched\n")
    assert not (tmp_path / "touched").exists()


def test_a_broken_sandbox_is_not_the_patchs_fault(apply: Apply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        applying, "inside", lambda *_, **__: ["sh", "-c", "echo bwrap: no uid map >&2; exit 1"]
    )
    with pytest.raises(HostLacks, match="no uid map"):
        apply(EDIT)
