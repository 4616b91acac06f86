# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md names rooms, files and functions that are there, and no names that went."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from test_layers import ORDER

# What modules, classes and variables were called that said something else than they were.
GONE = {
    "bench", "kept", "ledger", "tracers", "workshop", "berths", "recorded", "marks", "showing", "comparing",
    "judging", "beside", "lives", "suite",
}  # fmt: skip
CLASSES_GONE = {"Bench", "Prepared", "Berths", "Workshop", "Ledger", "Kept", "Beside", "KernelJob", "Order"}


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "docs/architecture.md").read_text()


def rooms_of(text: str) -> list[str]:
    """Return the rooms in the order of the table."""
    table = text.partition("| room |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")][1:]
    return [name for cell in first for name in re.findall(r"`(\w+)`", cell)]


def test_the_table_is_the_order_that_imports_are_held_to(text: str) -> None:
    assert rooms_of(text) == [room for rooms in ORDER for room in rooms]


def test_the_file_to_open_first_is_there(root: Path, text: str) -> None:
    table = text.partition("| room |")[2].partition("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("|")][1:]
    for _, rooms, _, _, first, _ in rows:
        room, file = re.findall(r"`(\w+)`", rooms)[0], first.strip().strip("`")
        places = (root / "harness/klp", root / "harness/klp" / room)
        assert any((place / file).is_file() for place in places), f"{room}: {file}"


def test_the_walks_are_functions_that_are_there(text: str) -> None:
    walks = text.partition("## Three walks")[2].partition("## Left out")[0]
    names = re.findall(r"\bklp(?:\.\w+)+", walks)
    assert len(names) > 20
    for name in names:
        assert resolved(name), name


def resolved(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert resolved("klp.vm.spec.argv")
    assert not resolved("klp.vm.spec.no_such_function")
    assert not resolved("klp.no_such_room.function")


def test_names_that_misled_are_gone(root: Path, project_files: tuple[Path, ...]) -> None:
    own = [each for each in project_files if each.parts[:2] == ("harness", "klp") and each.suffix == ".py"]
    assert not [each for each in own if each.stem in GONE or set(each.parts[:-1]) & GONE]
    assert [line for each in own for line in misleading(each, (root / each).read_text())] == []


def test_nobody_imports_the_source_root(root: Path, project_files: tuple[Path, ...]) -> None:
    """`harness/` is where the package lies, and no package."""
    importing = re.compile(r"^\s*(?:from|import) harness\b", re.MULTILINE)
    assert importing.search("    from harness.vm import spec")
    files = [each for each in project_files if each.suffix in (".py", ".md", ".toml")]
    assert [str(each) for each in files if importing.search((root / each).read_text())] == []
    assert not (root / "harness/__init__.py").exists()


def misleading(file: Path, text: str) -> list[str]:
    """Return where a class is called by a name that went, or a variable is called `told`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        named = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "told"
        argued = isinstance(node, ast.arg) and node.arg == "told"
        if named or argued or (isinstance(node, ast.ClassDef) and node.name in CLASSES_GONE):
            found.append(f"{file}:{getattr(node, 'lineno', 0)}")
    return found


@pytest.mark.parametrize("text", ["told = 1", "def f(told): ...", "class Bench: ...", "for told in x: ..."])
def test_a_name_that_misleads_is_noticed(text: str) -> None:
    assert misleading(Path("a.py"), text) == ["a.py:1"]
