# SPDX-License-Identifier: Apache-2.0
"""The wheel holds all that an installed klp reads, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from klp.images.definition import definitions
from klp.settings import Settings
from klp.version import __version__

Installed = Callable[..., str]

# What this environment has of klp itself: the installed package with its data, its .pth, its metadata.
_OWN = re.compile(r"_?klp(_lab)?([.-].*)?")
_TEST = "def test_fix(guest, livepatch, module, trace, kernel_log): ...\n"
# Where klp, its plugin, and what it reads come from, and which distributions claim to bring it.
_ORIGINS = """
import importlib.metadata as metadata, json, klp, klp.paths, klp.testing.plugin as plugin
[entry] = metadata.entry_points(group="pytest11", name="klp")
print(json.dumps({
    "files": [klp.__file__, plugin.__file__, entry.load().__file__, str(klp.paths.PROJECT)],
    "distributions": sorted(metadata.packages_distributions()["klp"]),
    "entry": entry.dist.name,
    "version": metadata.version("klp-lab"),
}))
"""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout; building one takes a second."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The names of the files in it."""
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel into an environment of its own; return what runs a command there, elsewhere.

    All that klp depends on is lent by the environment of this test, so no network is needed.
    """
    home, empty = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    venv.create(home)
    lend_dependencies(home)
    python = home / "bin" / "python"
    quiet = ("--isolated", "--disable-pip-version-check", "--no-cache-dir", "--quiet")
    pip = [sys.executable, "-m", "pip", "--python", python, *quiet]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", "--no-compile", wheel], check=True)
    # Nothing of the checkout's: neither its sources nor its user's settings and images.
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    environment = {**kept, "HOME": str(empty), "COLUMNS": "200"}

    def run(command: str, *words: str, **variables: str) -> str:
        done = subprocess.run(
            [home / "bin" / command, *words], cwd=empty, env={**environment, **variables}, check=False,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    (empty / "test_fix.py").write_text(_TEST)
    return run


def lend_dependencies(home: Path) -> None:
    """Link all that this environment has into another, but for klp."""
    own = Path(pytest.__file__).parents[1]
    [other] = home.glob("lib/python*/site-packages")
    for each in own.iterdir():
        if not _OWN.fullmatch(each.name) and not (other / each.name).exists():
            (other / each.name).symlink_to(each)


def test_every_file_of_the_package_is_in_it(names: set[str], project_files: tuple[Path, ...]) -> None:
    own = {str(each.relative_to("harness")) for each in project_files if each.parts[0] == "harness"}
    assert "klp/report/templates/report.html" in own
    assert own - names == set()


@pytest.mark.parametrize("folder", ["vm-images", "patches", "probes"])
def test_so_are_images_patches_and_probes(
    names: set[str], project_files: tuple[Path, ...], folder: str
) -> None:
    own = {f"klp/data/{each}" for each in project_files if each.parts[0] == folder}
    assert own
    assert own - names == set()


def test_so_are_both_licences_and_nothing_else(names: set[str]) -> None:
    described = f"klp_lab-{__version__}.dist-info"
    assert {each.split("/")[0] for each in names} == {"klp", described}
    licences = {each for each in names if each.startswith(f"{described}/licenses/")}
    assert {Path(each).name for each in licences} == {"Apache-2.0.txt", "GPL-2.0-only.txt"}


def test_it_is_what_runs_and_no_checkout(installed: Installed) -> None:
    told = json.loads(installed("python", "-c", _ORIGINS))
    assert {re.sub("/lib/.*", "", each) for each in told["files"]} == {
        installed("python", "-c", "import sys; print(sys.prefix)").strip()
    }
    assert (told["distributions"], told["entry"], told["version"]) == (["klp-lab"], "klp-lab", __version__)


@pytest.mark.parametrize(
    ("command", "completing"), [("klp", "_KLP_COMPLETE"), ("klp-lab", "_KLP_LAB_COMPLETE")]
)
def test_both_commands_are_the_same(installed: Installed, command: str, completing: str) -> None:
    assert installed(command, "--version") == f"klp, version {__version__}\n"
    assert installed(command, "--help").startswith("Usage: klp [OPTIONS] COMMAND")
    completions = installed(command, **{completing: "zsh_complete", "COMP_WORDS": "x ", "COMP_CWORD": "1"})
    assert completions.startswith("plain\ncheck\n")


def test_it_knows_the_kernels_the_rules_and_the_probes(installed: Installed) -> None:
    kernels = json.loads(installed("klp", "kernels", "--json"))
    assert [each["name"] for each in kernels] == list(definitions())
    assert "\nT12 " in installed("klp-lab", "rules")
    assert "klptransition" in installed("klp", "probes")


def test_tests_with_its_fixtures_are_collected(installed: Installed) -> None:
    told = installed("python", "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q")
    assert told.startswith(f"test_fix.py::test_fix[{Settings().kernel}]\n")
