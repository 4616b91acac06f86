# SPDX-License-Identifier: Apache-2.0
"""Licence lines, sizes and docstrings: style that no linter here checks, each with a proof that it can."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

# Lines a function takes, from `def` to its end; and lines of a module, in Python or in C.
MEDIAN, NINETY_FIFTH, LONGEST, MODULE = 10, 40, 60, 400
# Kernel modules that may be longer: each is one list of small cases, and kbuild makes a module of one file.
LISTS_OF_CASES = {"patches/shadow-cases/klp_shadow_cases.c", "tests/faults/klp_misbehave.c"}

# JSON has no comments (a schema has $comment), the licences speak for themselves, and recordings are
# kept as they were made.
_NO_COMMENTS = (".json", ".jsonl")
_HEAD_LINES = 3
_SPDX_LINE = re.compile(r"SPDX-License-Identifier: ([\w.-]+)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def expected_licence(file: Path) -> str:
    """Livepatches, what becomes one, and the modules that tests load are kernel code; all else is not."""
    in_tests = file.parts[:2] in (("tests", "faults"), ("tests", "livepatches"))
    kernel_code = file.parts[0] == "patches" or file.name.endswith(".c.in") or in_tests
    return "GPL-2.0-only" if kernel_code else "Apache-2.0"


def needs_licence_line(file: Path, content: bytes) -> bool:
    if not content or file.parts[0] == "LICENSES" or file.parts[:2] == ("tests", "data"):
        return False
    if file.suffix in _NO_COMMENTS and not file.name.endswith(".schema.json"):
        return False
    return b"\0" not in content[:8000]


def licence_complaint(file: Path, content: bytes) -> str | None:
    """Return what is wrong with a file's licence line, if anything."""
    if not needs_licence_line(file, content):
        return None
    head = content.decode(errors="replace").splitlines()[:_HEAD_LINES]
    found = [match[1] for line in head if (match := _SPDX_LINE.search(line))]
    if not found:
        return f"{file}: no SPDX line among the first {_HEAD_LINES}"
    wanted = expected_licence(file)
    return None if found[0] == wanted else f"{file}: says {found[0]}, must say {wanted}"


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def long_modules(sources: dict[str, str]) -> list[str]:
    """Return which files are too long; `sources` maps a file's name to its text."""
    return [
        f"{name}: {lines} lines; no module may have more than {MODULE}"
        for name, text in sources.items()
        if (lines := len(text.splitlines())) > MODULE
    ]


def size_complaints(sources: dict[str, str]) -> list[str]:
    """Return what breaks the size budget of Python."""
    complaints = long_modules(sources)
    lengths: list[int] = []
    for name, text in sources.items():
        for function in functions(ast.parse(text)):
            lengths.append(length(function))
            if lengths[-1] > LONGEST:
                complaints.append(f"{name}:{function.lineno}: {function.name}: {lengths[-1]} lines")
    if lengths:
        complaints += spread_complaints(lengths)
    return complaints


def spread_complaints(lengths: list[int]) -> list[str]:
    median = statistics.median(lengths)
    high = sorted(lengths)[int(0.95 * (len(lengths) - 1))]
    complaints = []
    if median > MEDIAN:
        complaints.append(f"the median function has {median:g} lines; at most {MEDIAN}")
    if high > NINETY_FIFTH:
        complaints.append(f"one function in twenty has {high} lines or more; at most {NINETY_FIFTH}")
    return complaints


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public names of a module that have no docstring (the module itself is ``module``)."""
    missing = [] if ast.get_docstring(tree) else ["module"]

    def visit(nodes: Iterable[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not is_overload(node):
                missing.append(f"{prefix}{node.name}")
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    return missing


def is_overload(node: Function | ast.ClassDef) -> bool:
    """Overloads and setters are documented where the name first stands, or at its implementation."""
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.split(".")[-1] in ("overload", "setter") for name in names)


def sources_in(root: Path, files: Iterable[Path], *rooms: str, suffix: str = ".py") -> dict[str, str]:
    chosen = [file for file in files if file.parts[0] in rooms and file.suffix == suffix]
    return {str(file): (root / file).read_text() for file in chosen}


def demand_none(complaints: list[str]) -> None:
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def test_licence_lines(root: Path, project_files: tuple[Path, ...]) -> None:
    found = (licence_complaint(file, (root / file).read_bytes()) for file in project_files)
    demand_none([complaint for complaint in found if complaint])


def test_licences_are_there_in_full(root: Path) -> None:
    assert "END OF TERMS AND CONDITIONS" in (root / "LICENSES/Apache-2.0.txt").read_text()
    assert "END OF TERMS AND CONDITIONS" in (root / "LICENSES/GPL-2.0-only.txt").read_text()


def test_sizes(root: Path, project_files: tuple[Path, ...]) -> None:
    demand_none(size_complaints(sources_in(root, project_files, "harness", "probes")))


def test_sizes_of_c(root: Path, project_files: tuple[Path, ...]) -> None:
    """BPF programs and kernel modules; a module of many small cases is one file, as kbuild has it."""
    sources = sources_in(root, project_files, "probes", "patches", "tests", suffix=".c")
    assert any(name.endswith(".bpf.c") for name in sources)
    assert len(long_modules({name: sources[name] for name in LISTS_OF_CASES})) == len(LISTS_OF_CASES)
    demand_none(long_modules({name: sources[name] for name in sources.keys() - LISTS_OF_CASES}))


def test_public_names_have_docstrings(root: Path, project_files: tuple[Path, ...]) -> None:
    sources = sources_in(root, project_files, "harness")
    demand_none([
        f"{name}: no docstring: {what}"
        for name, text in sources.items()
        for what in undocumented(ast.parse(text))
    ])  # fmt: skip


# Each check can fail.

_SPDX = "SPDX-License" + "-Identifier"


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("harness/a.py", f"# {_SPDX}: Apache-2.0\n", False),
        ("harness/a.py", "import os\n", True),
        ("harness/a.py", f"\n\n\n# {_SPDX}: Apache-2.0\n", True),
        ("harness/a.py", f"# {_SPDX}: GPL-2.0-only\n", True),
        ("patches/x/x.c", f"// {_SPDX}: GPL-2.0-only\n", False),
        ("patches/x/x.c", f"// {_SPDX}: Apache-2.0\n", True),
        ("tests/faults/x.c", f"// {_SPDX}: GPL-2.0-only\n", False),
        ("tests/faults/x.c", f"// {_SPDX}: Apache-2.0\n", True),
        ("probes/x.bpf.c", f"/* {_SPDX}: Apache-2.0 */\n", False),
        ("README.md", f"<!-- {_SPDX}: Apache-2.0 -->\n", False),
        ("probes/e.schema.json", f'{{\n"$comment": "{_SPDX}: Apache-2.0",\n', False),
        ("probes/e.schema.json", "{}\n", True),
        ("docs/plain.json", "{}\n", False),
        ("docs/picture.png", "\x89PNG\0\0", False),
        ("LICENSES/GPL-2.0-only.txt", "GNU\n", False),
        ("harness/klp/py.typed", "", False),
    ],
)
def test_licence_check_can_fail(file: str, text: str, wrong: bool) -> None:
    assert (licence_complaint(Path(file), text.encode()) is not None) is wrong


def _function(lines: int) -> str:
    return "def f():\n" + "    x = 1\n" * (lines - 1)


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"a.py": _function(MEDIAN)}, None),
        ({"a.py": _function(LONGEST + 1)}, "a.py:1: f: 61 lines"),
        ({"a.py": _function(MEDIAN + 1)}, "the median function"),
        ({"a.py": _function(2) * 15 + _function(NINETY_FIFTH + 1) * 5}, "one function in twenty"),
        ({"a.py": "x = 1\n" * MODULE}, None),
        ({"a.py": "x = 1\n" * (MODULE + 1)}, "a.py: 401 lines"),
    ],
)
def test_size_check_can_fail(sources: dict[str, str], complaint: str | None) -> None:
    found = size_complaints(sources)
    assert any(complaint in each for each in found) if complaint else not found


@pytest.mark.parametrize(("lines", "wrong"), [(MODULE, False), (MODULE + 1, True)])
def test_size_check_of_c_can_fail(tmp_path: Path, lines: int, wrong: bool) -> None:
    files = (Path("probes/a.bpf.c"), Path("probes/a.py"), Path("docs/b.c"))
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("int a;\n" * lines)
    found = long_modules(sources_in(tmp_path, files, "probes", suffix=".c"))
    assert found == (["probes/a.bpf.c: 401 lines; no module may have more than 400"] if wrong else [])


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ('"""M."""\ndef f():\n    """F."""\n', []),
        ("x = 1\n", ["module"]),
        ('"""M."""\ndef f(): ...\n', ["f"]),
        ('"""M."""\ndef _f(): ...\n', []),
        ('"""M."""\nclass C:\n    """C."""\n    def m(self): ...\n    def _p(self): ...\n', ["C.m"]),
        ('"""M."""\nclass C:\n    def __init__(self): ...\n', ["C"]),
        ('"""M."""\ndef f():\n    """F."""\n    def inner(): ...\n', []),
        ('"""M."""\n@overload\ndef f(): ...\n', []),
    ],
)
def test_docstring_check_can_fail(source: str, missing: list[str]) -> None:
    assert undocumented(ast.parse(source)) == missing
