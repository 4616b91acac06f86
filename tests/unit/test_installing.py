# SPDX-License-Identifier: Apache-2.0
"""docs/install.md and the Containerfile: what they say of folders, settings and packages is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from klp import paths
from klp.settings import Settings

# Where a folder outside of the checkout may be chosen: klp.paths, and Python's own temporary folder.
_CHOOSERS = {"home", "expanduser", "user_cache_path", "user_state_path", "gettempdir"}
_TEMPORARY = {"TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile", "mkdtemp", "mkstemp"}


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "docs/install.md").read_text()


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[str]:
    """The first cells of a section's table."""
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return cells[1:]


def test_every_setting_is_told(text: str) -> None:
    told = [name for cell in rows(section(text, "Settings")) for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(told) == sorted(Settings.__struct_fields__)


def test_every_folder_that_klp_writes_is_removed(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folders of klp.paths are in the table and the command, as no variable moves them."""
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "KLP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    told = section(text, "Removing all traces")
    table = " ".join(rows(told))
    [command] = re.findall(r"^rm -rf (.*)$", told, re.MULTILINE)
    for folder in (paths.cache_root(), paths.runs_root().parent, paths.config_file().parent):
        shown = str(folder).replace(str(tmp_path), "~", 1)
        assert f"`{shown}`" in table
        assert f" {shown} " in f" {command} "
    assert paths.guests_root().parent == tmp_path / "klp"
    assert "`$XDG_RUNTIME_DIR/klp`" in table
    assert '"${XDG_RUNTIME_DIR:-/nowhere}/klp"' in command
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert re.fullmatch(r"/tmp/klp-\d+/guests", str(paths.guests_root()))
    assert command.endswith(" /tmp/klp-*")


def test_the_roots_are_those_that_are_removed() -> None:
    """A function of klp.paths that chooses a folder outside of klp's own has to be among those above."""
    tree = ast.parse(Path(paths.__file__).read_text())
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    choosing = {each.name for each in functions if _CHOOSERS & names_in(each)}
    assert choosing == {"config_file", "cache_root", "runs_root", "guests_root"}


def names_in(tree: ast.AST) -> set[str]:
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def strays(tree: ast.Module) -> Iterator[str]:
    """Yield what makes a folder that the removal of all traces would not find."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        words = {each.arg: ast.unparse(each.value) for each in node.keywords}
        ours = words.get("prefix", "").strip("'\"").startswith("klp-")
        inside = "dir" in words and "SCRATCH" not in words["dir"]
        if name in _TEMPORARY and not ours and not inside:
            yield f"{node.lineno}: {ast.unparse(node)} has no prefix klp-"
        if name in _CHOOSERS:
            yield f"{node.lineno}: {ast.unparse(node)} chooses a folder"


def test_no_other_file_chooses_a_folder(root: Path, project_files: tuple[Path, ...]) -> None:
    files = [each for each in project_files if each.suffix == ".py" and each.parts[0] == "harness"]
    found = [
        f"{file}:{each}"
        for file in files
        if file.name != "paths.py"
        for each in strays(ast.parse((root / file).read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "stray"),
    [
        ("tempfile.TemporaryDirectory()", True),
        ("TemporaryDirectory(prefix='x-')", True),
        ("tempfile.mkdtemp(prefix='klp-x-')", False),
        ("tempfile.TemporaryDirectory(dir=folder)", False),
        ("tempfile.TemporaryDirectory(dir=_SCRATCH_PARENT)", True),
        ("Path.home() / '.x'", True),
        ("Path(word).expanduser()", True),
    ],
)
def test_a_stray_folder_is_noticed(code: str, stray: bool) -> None:
    assert bool(list(strays(ast.parse(code)))) is stray


def test_what_the_container_copies_is_there(root: Path, project_files: tuple[Path, ...]) -> None:
    recipe = (root / "vm-images/Containerfile").read_text()
    copied = [
        name for line in re.findall(r"^COPY (.*)$", recipe, re.MULTILINE) for name in line.split()[:-1]
    ]
    assert copied
    assert [name for name in copied if not (root / name).exists()] == []
    # What `make setup` and the package read: the folders of the wheel, and those that set-up itself takes.
    assert {"harness", "patches", "probes", "vm-images", ".ci", "Makefile", "pyproject.toml"} <= set(copied)
    assert "RUN make setup" in recipe
