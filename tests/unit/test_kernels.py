# SPDX-License-Identifier: Apache-2.0
"""What a kernel's name and release say of it, before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.images.definition import definitions
from klp.images.names import kernel_complaint, known_kernels, series_of, tree_of
from klp.kernels import EARLIEST_SCHEDULER_SWITCH, series


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("6.12.117+deb13-amd64", (6, 12)),
        ("6.1", (6, 1)),
        ("7.0-rc3", (7, 0)),
        ("linux-6.12", ()),
        ("", ()),
    ],
)
def test_a_series_is_a_releases_first_two_numbers(release, numbers):
    assert series(release) == numbers


def test_an_unknown_series_is_before_all_others():
    assert series("linux") < EARLIEST_SCHEDULER_SWITCH < series("6.12")


def test_kernels_are_known_by_the_names_of_their_files_oldest_first():
    assert known_kernels() == list(definitions()) == sorted(definitions(), key=series)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a built tree, and another one that is called as a definition."""
    for name in ("mine", "6.12"):
        (tmp_path / name / "include/config").mkdir(parents=True)
        (tmp_path / name / "include/config/kernel.release").write_text("5.10.7-mine\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kernel", "tree", "numbers"),
    [
        ("mine", "mine", (5, 10)),
        ("./mine", "mine", (5, 10)),
        ("6.12", None, (6, 12)),  # a definition comes before a folder of that name
        ("./6.12", "6.12", (5, 10)),
        ("./none", "none", ()),
        ("none", None, ()),
    ],
)
def test_what_a_name_stands_for(beside, kernel, tree, numbers):
    assert tree_of(kernel) == (beside / tree if tree else None)
    assert series_of(kernel) == numbers


def test_a_name_that_is_neither_is_complained_of(beside):
    assert kernel_complaint("9.9").startswith("unknown kernel '9.9'; known: 6.1, 6.12, 7.2")
    assert kernel_complaint("./none")
    assert not kernel_complaint("6.12")
    assert not kernel_complaint("mine")
