# SPDX-License-Identifier: Apache-2.0
"""What `klp` lets others import: told in docs/api.md, and enough for the suite and the documentation."""

from __future__ import annotations

import ast
import gzip
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import klp
from klp import errors, settings
from klp.errors import UsageError

MODULES = {"klp.events", "klp.settings"}
RECORDING = Path(__file__).parents[1] / "data/events/real/switch-blocked-6.12.jsonl.gz"
_EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
_ROW = re.compile(r"^\| (?:&emsp;)?`([\w.]+)` \| (.+) \|$", re.MULTILINE)


def public(module: str) -> set[str]:
    """The names that may be imported from a module; none of one that is no part of the API."""
    if module != "klp" and module not in MODULES:
        return set()
    own = {name.rpartition(".")[2] for name in MODULES} if module == "klp" else set()
    return own | set(importlib.import_module(module).__all__)


def private_imports(tree: ast.AST) -> Iterator[str]:
    """What a text imports of klp that is no part of the API."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "klp":
            allowed = public(str(node.module))
            yield from (f"{node.module}.{each.name}" for each in node.names if each.name not in allowed)
        elif isinstance(node, ast.Import):
            ours = (each.name for each in node.names if each.name.split(".")[0] == "klp")
            yield from (name for name in ours if name not in {"klp", *MODULES})


def typed_imports() -> dict[str, str]:
    """Public name to module, as klp/__init__.py says it to type checkers."""
    tree = ast.parse(inspect.getsource(klp))
    [block] = [each for each in tree.body if isinstance(each, ast.If)]
    nodes = [each for each in block.body if isinstance(each, ast.ImportFrom)]
    pairs = [(alias, node.module) for node in nodes for alias in node.names]
    assert all(alias.asname == alias.name for alias, _ in pairs)  # else it is not exported
    return {alias.name: str(module) for alias, module in pairs}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/api.md").read_text()


def test_every_name_is_where_it_is_said_to_be() -> None:
    for name in klp.__all__:
        found = getattr(klp, name)
        assert found is getattr(klp, name), name
        # From where it is defined, not from another that imports it as well; constants do not know.
        assert getattr(found, "__module__", klp._HOME[name]) == klp._HOME[name], name


def test_type_checkers_are_told_the_same() -> None:
    assert typed_imports() == klp._HOME


def test_an_unknown_name_is_told_in_pythons_words() -> None:
    with pytest.raises(AttributeError, match=r"^module 'klp' has no attribute 'nothing'$"):
        klp.nothing  # noqa: B018
    assert {"run", "Trace", "__all__"} <= set(dir(klp))


def test_every_error_is_among_them() -> None:
    own = {name for name, each in vars(errors).items() if inspect.isclass(each)}
    tree = {name for name in own if issubclass(getattr(errors, name), errors.KlpError)}
    assert tree <= set(klp.__all__)


def loaded_by(program: str) -> set[str]:
    """The modules that a process has once it ran a program."""
    command = [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_a_name_is_loaded_when_it_is_asked_for() -> None:
    assert not [each for each in loaded_by("import klp") if each.startswith("klp.")]
    some = loaded_by(
        "import klp.events, klp.settings; from klp import CheckFailed, transitions, wait_until"
    )
    assert "klp.analysis.transitions" in some
    assert not {"paramiko", "qemu", "rich", "klp.scripting", "klp.drive", "klp.lab"} & some
    assert "klp.scripting" in loaded_by("from klp import run")


def test_the_page_lists_every_name_in_the_same_order(page: str) -> None:
    rows = _ROW.findall(page)
    assert all(words for _, words in rows)
    assert [name for name, _ in rows] == [*klp.__all__, *sorted(MODULES)]


def test_the_pages_first_example_says_what_it_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, output = _EXAMPLE.findall(page)[0]
    (tmp_path / "events.jsonl").write_bytes(gzip.decompress(RECORDING.read_bytes()))
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/api.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_the_suite_is_written_with_them_alone(root: Path) -> None:
    files = sorted((root / "tests/suite").glob("*.py"))
    texts = {file: ast.parse(file.read_text()) for file in files}
    assert any("klp" in ast.unparse(tree) for tree in texts.values())
    assert [f"{file.name}: {name}" for file, tree in texts.items() for name in private_imports(tree)] == []


def test_so_are_the_examples_of_the_documentation(root: Path) -> None:
    pages = [*(root / "docs").glob("*.md"), root / "README.md"]
    blocks = [
        (file.name, ast.parse(block))
        for file in pages
        for block in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)
    ]
    assert {"api.md", "writing-tests.md"} <= {name for name, _ in blocks}
    assert [f"{name}: {what}" for name, tree in blocks for what in private_imports(tree)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from klp import Trace, events as ev, settings", []),
        ("from klp.events import ShadowAlloc", []),
        ("from klp.settings import load", []),
        ("import klp, klp.events", []),
        ("import klpname\nfrom klpname import x", []),
        ("from klp import Lab", ["klp.Lab"]),
        ("from klp import errors", ["klp.errors"]),
        ("from klp.settings import HELP", ["klp.settings.HELP"]),
        ("from klp.drive.trace import Trace", ["klp.drive.trace.Trace"]),
        ("import klp.waiting", ["klp.waiting"]),
        ("def f():\n    from klp.waiting import wait_until", ["klp.waiting.wait_until"]),
    ],
)
def test_other_imports_are_found(text: str, found: list[str]) -> None:
    assert list(private_imports(ast.parse(text))) == found


def test_settings_are_loaded_with_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("KLP_CPUS", "4")
    loaded = settings.load(kernel="7.2", memory_mib=None)
    assert (loaded.kernel, loaded.cpus, loaded.memory_mib) == ("7.2", 4, settings.Settings().memory_mib)
    with pytest.raises(UsageError, match=r"^cpus 0: Expected `int` >= 1$"):
        settings.load(cpus=0)
    with pytest.raises(UsageError, match=r"^Object contains unknown field `kernl`$"):
        settings.load(kernl="7.2")
