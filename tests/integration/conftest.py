# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: the real CLI, and one guest without probes for a whole module."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from klp import progress, settings
from klp.images.library import Library
from klp.lab.warm import ensure_warm, restored
from klp.model import Accelerator
from klp.modules.build import build
from klp.modules.sources import find_source
from klp.paths import RunLayout
from klp.vm.accel import choose
from klp.vm.request import MachineRequest

FAULTS = Path(__file__).parents[1] / "faults"
PLAN = """# SPDX-License-Identifier: GPL-2.0-only
name = "panics"
summary = "panics when it is loaded"
load = [{ module = "klp_fault", parameters = "how=panic" }]
"""
KLP = Path(sys.executable).with_name("klp")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "elsewhere: on another kernel than the default one; only with --everywhere"
    )


def pytest_collection_modifyitems(config, items):
    if config.option.everywhere:
        return
    left_out = [each for each in items if each.get_closest_marker("elsewhere")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if each not in left_out]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits to be reaped by its parent has."""
    try:
        return "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(scope="session")
def klp():
    """Run the real `klp`; returns what it left."""

    def run(*words, **options):
        return subprocess.run(
            [KLP, *map(str, words)], capture_output=True, text=True, check=False, **options
        )

    return run


@pytest.fixture
def fatal(tmp_path):
    """A folder whose plan loads a module that panics."""
    folder = tmp_path / "fatal"
    shutil.copytree(FAULTS, folder)
    (folder / "patch.toml").write_text(PLAN)
    return folder


@pytest.fixture(scope="session")
def library():
    return Library(settings.load(), progress.Silent())


@pytest.fixture(scope="session")
def image(library):
    return library.ensure("6.12")


@pytest.fixture(scope="session")
def accelerator(library, image) -> Accelerator:
    return choose(settings.load(), library.layout, image).accelerator


@pytest.fixture(scope="session")
def machine_request(image, accelerator) -> MachineRequest:
    """The machine that the settings want, booting."""
    return MachineRequest.from_settings(image, settings.load(), accelerator)


@pytest.fixture(scope="session")
def samples(image, tmp_path_factory):
    """The upstream samples for the default kernel, by module name."""
    out = tmp_path_factory.mktemp("samples")
    built = build(find_source("samples"), image.kernel, out, progress.Silent())
    return {module.name: module for module in built}


@pytest.fixture(scope="session")
def warm(library, machine_request):
    """The saved guest of the default kernel, its probes armed: what a user's run starts from."""
    return ensure_warm(library.cache, machine_request, progress=progress.Silent())


@pytest.fixture(scope="session")
def bare(library, machine_request):
    """A saved guest without probes: quicker to make anew."""
    return ensure_warm(library.cache, machine_request, progress=progress.Silent(), probes=())


@pytest.fixture(scope="module")
def lab(bare, tmp_path_factory):
    """A restored guest without probes, one for each test module."""
    layout = RunLayout(tmp_path_factory.mktemp("lab"))
    with restored(bare, layout) as opened:
        yield opened
