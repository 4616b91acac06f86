# SPDX-License-Identifier: Apache-2.0
"""The wheel holds all that an installed klp reads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel of this checkout; building one takes a second."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [file] = folder.glob("*.whl")
    return set(zipfile.ZipFile(file).namelist())


def test_every_file_of_the_package_is_in_it(wheel: set[str], project_files: tuple[Path, ...]) -> None:
    own = {str(each.relative_to("harness")) for each in project_files if each.parts[0] == "harness"}
    assert "klp/report/templates/report.html" in own
    assert own - wheel == set()


@pytest.mark.parametrize("folder", ["vm-images", "patches", "probes"])
def test_so_are_images_patches_and_probes(
    wheel: set[str], project_files: tuple[Path, ...], folder: str
) -> None:
    own = {f"klp/data/{each}" for each in project_files if each.parts[0] == folder}
    assert own
    assert own - wheel == set()
