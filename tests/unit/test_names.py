# SPDX-License-Identifier: Apache-2.0
"""One meaning, one name: no two modules of the package define a public name of the same spelling.

Subcommands are left out: a function of `cli` is called as the command that its user types.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

# Names that several modules define on purpose, and why.
SEVERAL = {
    "log": "each module's own logger",
    "build": "of `scripting` for scripts, which call it as the command",
    "run": "of `scripting` for scripts, which call it as the command; of `process` the door to subprocess",
    "T": "a type variable: it means nothing outside of its module",
}


def public_names(tree: ast.Module) -> Iterator[str]:
    """Yield the functions, classes and constants that a module defines, but for private ones."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            found = []
        yield from (name for name in dict.fromkeys(found) if not name.startswith("_"))


def defined_twice(modules: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Return each public name that several modules define, with those modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules.items():
        for name in dict.fromkeys(public_names(tree)):
            places[name].append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


@pytest.fixture(scope="module")
def twice(root: Path, project_files: tuple[Path, ...]) -> dict[str, list[str]]:
    package, commands = Path("harness/klp"), Path("harness/klp/cli")
    files = [
        each for each in project_files
        if each.suffix == ".py" and each.is_relative_to(package) and not each.is_relative_to(commands)
    ]  # fmt: skip
    assert files
    return defined_twice({str(each): ast.parse((root / each).read_text()) for each in files})


def test_each_public_name_is_defined_once(twice: dict[str, list[str]]) -> None:
    complaints = [f"{name}: {', '.join(places)}" for name, places in twice.items() if name not in SEVERAL]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def test_what_is_defined_several_times_on_purpose_still_is(twice: dict[str, list[str]]) -> None:
    assert set(SEVERAL) <= set(twice)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("def find(): ...", "def find(): ...", ["find"]),
        ("class Finding: ...", "Finding = int", ["Finding"]),
        ("LIMIT = 1", "LIMIT: int = 2", ["LIMIT"]),
        ("A = B = 1", "B = 2", ["B"]),
        ("def _find(): ...", "def _find(): ...", []),
        ("from a import find", "def find(): ...", []),
        ("def find(): ...", "class A:\n    def find(self): ...", []),
        ("if x:\n    a = 1\nb = 1\nb = 2", "c = 3", []),
    ],
)
def test_names_can_be_found_twice(first: str, second: str, names: list[str]) -> None:
    assert list(defined_twice({"a": ast.parse(first), "b": ast.parse(second)})) == names
