# SPDX-License-Identifier: Apache-2.0
"""What every test may use: the project's files, and the tools that some tests run.

A test that needs a tool this host lacks is skipped; with CI set, or with --strict-tools, it fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import core

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-tools",
        action="store_true",
        default=os.environ.get("CI", "") not in ("", "0", "false"),
        help="a tool that is missing fails the tests that need it (the default with CI set)",
    )
    parser.addoption("--everywhere", action="store_true", help="run every test on every kernel")
    parser.addoption(
        "--part", choices=["core", "rest"], help="only what `make test` runs, or only what it leaves out"
    )


def pytest_configure() -> None:
    # A shell has its background jobs ignore SIGINT, and so would all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("--part")
    if part is None:
        return
    names = core.named()
    left_out = [each for each in items if core.is_core(each.nodeid, names) != (part == "core")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [each for each in items if each not in set(left_out)]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tool(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Find a tool by name, beside this Python or on the PATH; skip or fail the test without it."""
    beside = str(Path(sys.executable).parent)

    def find(name: str) -> str:
        found = shutil.which(name, path=os.pathsep.join([beside, os.environ["PATH"]]))
        if found is None:
            lacks = pytest.fail if request.config.getoption("--strict-tools") else pytest.skip
            lacks(f"{name} is not installed here")
        assert found is not None
        return found

    return find


@pytest.fixture(scope="session")
def project_files(tool: Callable[[str], str]) -> tuple[Path, ...]:
    """Every file of the project, relative to its root: tracked, or new and not ignored."""
    # A clone may belong to another user than the one who tests it.
    command = [tool("git"), "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = sorted({name for name in listed.split("\0") if name})
    return tuple(Path(name) for name in names if (ROOT / name).is_file())
