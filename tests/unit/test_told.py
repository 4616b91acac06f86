# SPDX-License-Identifier: Apache-2.0
"""What may take long is done within a step, or under way: whoever waits for it is told what for.

`PlainLines` and `InPlace` see to it that no step is silent for long (test_progress_plain.py); this, that
there is a step. It follows calls by their names, from what is known to take long to the step around it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KLP = Path(__file__).parents[2] / "harness" / "klp"
# Each waits for the archive, a compiler, a guest, a large file or a long recording.
LONG = {
    "images/debian.py:make_root", "images/debian.py:fetch_kernel", "images/debian.py:fetch_packages",
    "images/unpacked.py:unpack_root",
    "images/disk.py:make_ext4", "images/source.py:extract", "images/source.py:unpack",
    "images/vmlinux.py:write_kernel", "images/cache.py:damaged_files", "sourcepatch/includes.py:index_of",
    "sourcepatch/units.py:compile_unit", "modules/kbuild.py:built_in", "vm/accel.py:choose_accelerator",
    "vm/snapshot.py:resumed", "vm/snapshot.py:dig_holes", "lab/warm.py:restored",
    "lab/warm.py:_save", "lab/keeper.py:up", "records/verdicts.py:judge_run",
    "records/reading.py:read_whole", "report/html.py:report_page", "records/sets.py:compare_words",
}  # fmt: skip
TOLD = {"step", "under_way"}
# No step is around these, and that is right.
EXCUSED = {
    # Threads make these ready beside what is told: nobody waits for them alone.
    "lab/ready.py:_prepare", "lab/warm.py:one",
}  # fmt: skip


@dataclass(frozen=True)
class Called:
    """A function's call of another, each as FILE:NAME, and whether a step is around it."""

    caller: str
    callee: str
    told: bool


class Source:
    """A file of the package, and what the names in it stand for."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.file = file
        self.tree = tree
        self.defined = {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
        self.imported = dict(self._imports())

    def _imports(self) -> Iterator[tuple[str, str]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "klp":
                folder = (node.module or "").replace(".", "/").removeprefix("klp").strip("/")
                for each in node.names:
                    inside = f"{folder}/{each.name}.py".lstrip("/")
                    is_module = (KLP / inside).is_file()
                    yield each.asname or each.name, inside if is_module else f"{folder}.py:{each.name}"

    def called(self, call: ast.Call, unique: dict[str, str]) -> str:
        """Return what a call calls; a method of an unknown object only if no other has its name."""
        match call.func:
            case ast.Name(name):
                own = f"{self.file}:{name}" if name in self.defined else ""
                return own or self.imported.get(name, "")
            case ast.Attribute(ast.Name(owner), name) if owner in self.imported:
                return f"{self.imported[owner]}:{name}"
            case ast.Attribute(ast.Name("self"), name) if name in self.defined:
                return f"{self.file}:{name}"
            case ast.Attribute(_, name):
                return unique.get(name, "")
        return ""


def name_of(call: ast.expr) -> str:
    if not isinstance(call, ast.Call):
        return ""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def calls(
    source: Source, unique: dict[str, str], node: ast.AST, caller: str, *, told: bool
) -> Iterator[Called]:
    """Yield the calls below a node; those of a function within a function are the outer one's."""
    if isinstance(node, ast.FunctionDef) and not caller:
        caller = f"{source.file}:{node.name}"
    if isinstance(node, ast.Call):
        yield Called(caller, source.called(node, unique), told)
    for _, value in ast.iter_fields(node):
        # In a `with` of several, each is in those before it.
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from calls(source, unique, child, caller, told=told)
            if isinstance(child, ast.withitem):
                told = told or name_of(child.context_expr) in TOLD


def every_call() -> list[Called]:
    sources = [
        Source(str(file.relative_to(KLP)), ast.parse(file.read_text()))
        for file in sorted(KLP.rglob("*.py"))
    ]
    names = Counter(name for each in sources for name in each.defined)
    unique = {name: f"{each.file}:{name}" for each in sources for name in each.defined if names[name] == 1}
    return [call for each in sources for call in calls(each, unique, each.tree, "", told=False)]


def untold(every: list[Called]) -> dict[str, str]:
    """Return the functions that do what takes long with no step around it, and what that is."""
    found: dict[str, str] = {}
    while True:
        long = LONG | found.keys()
        more = {
            each.caller: each.callee
            for each in every
            if each.callee in long and not each.told and each.caller not in (EXCUSED | found.keys())
        }
        if not more:
            return found
        found |= more


def test_every_long_piece_of_work_is_told() -> None:
    every = every_call()
    assert {each.callee for each in every} >= LONG, LONG - {each.callee for each in every}
    found = untold(every)
    # The cache calls what fills its entries, and has no words for it: they have steps of their own.
    silent = {
        place: what
        for place, what in found.items()
        if place.startswith("cli/") or place.endswith((":fill", ":build"))
    }
    assert not silent, f"{silent}; by way of {found}"
