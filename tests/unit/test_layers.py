# SPDX-License-Identifier: Apache-2.0
"""The rooms of docs/architecture.md: imports point one way, and each door is where it is said to be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

BASE = (
    "version", "errors", "kernels", "model", "paths", "files", "diskspace", "inuse", "process", "sidework",
    "waiting", "durations", "progress", "printable", "consoles", "settings", "toml", "work",
)  # fmt: skip
# Low to high. A room may import itself and what stands before it.
ORDER = (
    BASE, ("arch",), ("klog",), ("images",), ("sourcepatch",), ("modules",), ("vm",), ("guest",),
    ("trace",), ("analysis",), ("report",), ("records",), ("lab",), ("drive",), ("check", "selftests"),
    ("doctor",), ("scripting",), ("testing",), ("__init__", "events"), ("cli",),
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

# Names that only the files below one path may import.
DOORS = {
    "subprocess": "harness/klp/process.py",
    "qemu": "harness/klp/vm/monitor.py",
    "paramiko": "harness/klp/guest/",
    "platformdirs": "harness/klp/paths.py",
}
# What can reach a disk, a process or a network: analysis, and all that it imports, has no use for it.
_REACHES_OUT = {
    "asyncio", "os", "io", "pathlib", "subprocess", "shutil", "socket", "tempfile", "sys", "logging",
    "threading", "time",
}  # fmt: skip
# What is not Python's own, and pure all the same.
_PURE_PACKAGES = {"msgspec", "scipy"}
_REACHING_CALLS = {"open", "print", "input"}


@dataclass(frozen=True)
class Source:
    """A Python file, parsed."""

    file: str
    tree: ast.Module

    @property
    def module(self) -> str:
        parts = list(Path(self.file.removeprefix("harness/")).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        is_package = self.file.endswith("/__init__.py")
        return self.module if is_package else self.module.rpartition(".")[0]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of everything a file imports, wherever in it that stands.

    ``from a import b`` yields ``a.b``: whether b is a module or a name in a, its room is the same.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = origin_of(node, source)
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [word.value for word in node.args if isinstance(word, ast.Constant)]
            yield from ((node.lineno, str(name)) for name in names[:1])


def origin_of(node: ast.ImportFrom, source: Source) -> str:
    if not node.level:
        return node.module or ""
    parts = source.package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def room_of(name: str) -> str | None:
    """Return which room of klp a dotted name is in; None for names outside it."""
    parts = name.split(".")
    if parts[0] != "klp":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


def layer_complaints(source: Source) -> list[str]:
    """Return the imports of a file that point upwards, and a file that is in no room."""
    parts = source.module.split(".")
    own = parts[1] if len(parts) > 1 else "__init__"
    if own not in LEVEL:
        return [f"{source.file}: {own} is not in the list of rooms"]
    return [
        f"{source.file}:{line}: imports {name}, which is above {own}"
        for line, name in imports(source)
        if (room := room_of(name)) and LEVEL[room] > LEVEL[own]
    ]


def door_complaints(source: Source) -> list[str]:
    return [
        f"{source.file}:{line}: imports {name}; only {DOORS[top]} may"
        for line, name in imports(source)
        if (top := name.split(".")[0]) in DOORS and not source.file.startswith(DOORS[top])
    ]


def sleep_complaints(source: Source) -> list[str]:
    """Only harness/klp/waiting.py sleeps: there every wait has a deadline and says what it waits for."""
    if source.file == "harness/klp/waiting.py":
        return []
    called = [
        (node.lineno, ast.unparse(node.func))
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
    ]
    return [
        f"{source.file}:{line}: {name}; use klp.waiting"
        for line, name in (*called, *imports(source))
        if name == "time.sleep"
    ]


def reached(sources: list[Source], folder: str) -> list[Source]:
    """Return the files below a folder, and all that they import, directly or not, packages included."""
    by_module = {source.module: source for source in sources}
    wanted = [source.module for source in inside(sources, folder)]
    found: set[str] = set()
    while wanted:
        module = wanted.pop()
        if module not in found and module in by_module:
            found.add(module)
            names = needed_modules(by_module[module], set(by_module))
            wanted += [*names, *(_above(name) for name in (module, *names) if _above(name) != "klp")]
    return [by_module[module] for module in sorted(found)]


def _above(module: str) -> str:
    return module.rpartition(".")[0]


def purity_complaints(source: Source) -> list[str]:
    """What is pure imports nothing that reaches out, and calls nothing that does."""
    allowed = sys.stdlib_module_names - _REACHES_OUT | _PURE_PACKAGES | {"klp"}
    found = [
        f"{source.file}:{line}: imports {name}"
        for line, name in imports(source)
        if name.split(".")[0] not in allowed
    ]
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in _REACHING_CALLS or called.rpartition(".")[2] in ("read_text", "write_text"):
            found.append(f"{source.file}:{node.lineno}: calls {called}")
    return found


def probe_complaints(source: Source) -> list[str]:
    """A probe can be copied to any machine with BCC, so it knows nothing of the harness."""
    return [
        f"{source.file}:{line}: imports {name}"
        for line, name in imports(source)
        if name.split(".")[0] == "klp"
    ]


def cycles(sources: list[Source]) -> list[str]:
    """Return the import cycles among modules, one line each; imports under TYPE_CHECKING count, too."""
    known = {source.module for source in sources}
    graph = {source.module: needed_modules(source, known) for source in sources}
    found: set[tuple[str, ...]] = set()
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.add((*path[path.index(module) :], module))
        elif module not in finished:
            for needed in sorted(graph[module]):
                visit(needed, (*path, module))
            finished.add(module)

    for module in sorted(graph):
        visit(module, ())
    return [" -> ".join(cycle) for cycle in sorted(found)]


def needed_modules(source: Source, known: set[str]) -> set[str]:
    """Return which of the known modules a file imports; of ``a.b.name`` that is ``a.b``."""
    names = {name for _, name in imports(source)}
    whole = {name if name in known else name.rpartition(".")[0] for name in names}
    return (whole & known) - {source.module}


@pytest.fixture(scope="module")
def sources(root: Path, project_files: tuple[Path, ...]) -> list[Source]:
    chosen = [file for file in project_files if file.parts[0] in ("harness", "probes")]
    return [
        Source(str(file), ast.parse((root / file).read_text())) for file in chosen if file.suffix == ".py"
    ]


def inside(sources: list[Source], folder: str) -> list[Source]:
    return [source for source in sources if source.file.startswith(folder)]


def demand_none(complaints: list[str]) -> None:
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def test_imports_point_downwards(sources: list[Source]) -> None:
    package = inside(sources, "harness/klp/")
    assert package
    demand_none([line for source in package for line in layer_complaints(source)])


def test_no_import_cycles(sources: list[Source]) -> None:
    demand_none(cycles(inside(sources, "harness/klp/")))


def test_each_door_is_the_only_one(sources: list[Source]) -> None:
    package = inside(sources, "harness/klp/")
    demand_none([line for source in package for line in door_complaints(source)])


def test_only_waiting_sleeps(sources: list[Source]) -> None:
    package = inside(sources, "harness/klp/")
    demand_none([line for source in package for line in sleep_complaints(source)])


def test_analysis_is_pure(sources: list[Source]) -> None:
    pure = [
        each for each in reached(sources, "harness/klp/analysis/") if not each.file.endswith("__main__.py")
    ]
    assert {"klp.arch.amd64", "klp.klog.lines", "klp.trace.events.base"} <= {each.module for each in pure}
    demand_none([line for source in pure for line in purity_complaints(source)])


def test_analysis_loads_neither_ssh_nor_files_nor_processes(sources: list[Source]) -> None:
    """The same, as Python sees it: what importing all of analysis brings along."""
    modules = [each.module for each in inside(sources, "harness/klp/analysis/")]
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name for name in done.stdout.split() if name.startswith("klp.")}
    rooms = {name.split(".")[1] for name in loaded}
    assert rooms == {"analysis", "arch", "errors", "klog", "printable", "trace"}
    assert not {"paramiko", "qemu", "subprocess", "pathlib", "rich"} & set(done.stdout.split())


def test_probes_stand_alone(sources: list[Source]) -> None:
    probes = inside(sources, "probes/")
    demand_none([line for source in probes for line in probe_complaints(source)])


# Each check can fail.


def parsed(file: str, text: str) -> Source:
    return Source(file, ast.parse(text))


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("harness/klp/vm/a.py", "from klp.images.library import Library", False),
        ("harness/klp/vm/a.py", "from klp.vm.spec import argv", False),
        ("harness/klp/vm/a.py", "import klp.errors", False),
        ("harness/klp/vm/a.py", "import json", False),
        ("harness/klp/cli/a.py", "from klp.testing.plugin import x", False),
        ("harness/klp/images/a.py", "from klp.vm.spec import argv", True),
        ("harness/klp/images/a.py", "import klp.vm.spec", True),
        ("harness/klp/images/a.py", "from klp import vm", True),
        ("harness/klp/images/a.py", "from ..vm import spec", True),
        ("harness/klp/images/__init__.py", "from ..vm import spec", True),
        ("harness/klp/images/a.py", "from .. import vm", True),
        ("harness/klp/process.py", "def f():\n    from klp.images import cache", True),
        ("harness/klp/process.py", "if TYPE_CHECKING:\n    from klp.images import cache", True),
        ("harness/klp/images/a.py", "importlib.import_module('klp.check')", True),
        ("harness/klp/drive/a.py", "from klp import doctor", True),
        ("harness/klp/__init__.py", "from klp.cli import main", True),
        ("harness/klp/__init__.py", "from .cli import main", True),
        ("harness/klp/helpers.py", "", True),
    ],
)
def test_layer_check_can_fail(file: str, text: str, wrong: bool) -> None:
    assert bool(layer_complaints(parsed(file, text))) is wrong


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("harness/klp/process.py", "import subprocess", False),
        ("harness/klp/vm/machine.py", "import subprocess", True),
        ("harness/klp/vm/monitor.py", "from qemu.qmp import QMPClient", False),
        ("harness/klp/vm/machine.py", "from qemu.qmp import QMPClient", True),
        ("harness/klp/guest/ssh.py", "import paramiko", False),
        ("harness/klp/records/runs.py", "from platformdirs import user_state_path", True),
        ("harness/klp/trace/tracer.py", "def f():\n    from paramiko import SSHClient", True),
    ],
)
def test_door_check_can_fail(file: str, text: str, wrong: bool) -> None:
    assert bool(door_complaints(parsed(file, text))) is wrong


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("harness/klp/waiting.py", "import time\ntime.sleep(1)", False),
        ("harness/klp/vm/machine.py", "import time\ntime.monotonic()", False),
        ("harness/klp/vm/machine.py", "import time\ntime.sleep(1)", True),
        ("harness/klp/vm/machine.py", "from time import sleep", True),
    ],
)
def test_sleep_check_can_fail(file: str, text: str, wrong: bool) -> None:
    assert bool(sleep_complaints(parsed(file, text))) is wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from klp.trace.events import Event", False),
        ("from collections import Counter", False),
        ("import os", True),
        ("from pathlib import Path", True),
        ("import os.path", True),
        ("import paramiko", True),
        ("import threading", True),
        ("open('x')", True),
        ("print('x')", True),
        ("file.read_text()", True),
    ],
)
def test_purity_check_can_fail(text: str, wrong: bool) -> None:
    assert bool(purity_complaints(parsed("harness/klp/analysis/a.py", text))) is wrong


def test_purity_is_followed_through_imports() -> None:
    first = parsed("harness/klp/analysis/a.py", "from klp.trace import events")
    second = parsed("harness/klp/trace/events.py", "def f():\n    from klp.guest.ssh import Guest")
    third = parsed("harness/klp/guest/ssh.py", "import paramiko")
    beside = parsed("harness/klp/vm/b.py", "import socket")
    package = parsed("harness/klp/guest/__init__.py", "")
    found = reached([first, second, third, beside, package], "harness/klp/analysis/")
    assert {each.module for each in found} == {
        "klp.analysis.a", "klp.trace.events", "klp.guest.ssh", "klp.guest",
    }  # fmt: skip


def test_probe_check_can_fail() -> None:
    assert probe_complaints(parsed("probes/a.py", "from klp.model import Kernel"))
    assert not probe_complaints(parsed("probes/a.py", "from bcc import BPF"))


def test_cycle_check_can_fail() -> None:
    first = parsed("harness/klp/model.py", "from klp.errors import KlpError")
    second = parsed("harness/klp/errors.py", "def f():\n    from klp import model")
    assert cycles([first, second]) == ["klp.errors -> klp.model -> klp.errors"]
    assert not cycles([first, parsed("harness/klp/errors.py", "")])
