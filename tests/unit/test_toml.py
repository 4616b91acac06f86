# SPDX-License-Identifier: Apache-2.0
"""Every complaint about a TOML file starts with file and line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from klp.errors import SettingsError
from klp.toml import read_toml


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 0
    words: tuple[str, ...] = ()


class Outer(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    name: str
    two_words: int = 0
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


def complaint(tmp_path: Path, text: str) -> str:
    """Return what is said after the file's name."""
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_toml(file, Outer)
    assert caught.value.message.startswith(str(file))
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(str(file))


def test_reads_what_fits(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('name = "ä"\ntwo-words = 2\n[inner]\nsize = 1\n[[many]]\nwords = ["a"]\n')
    assert read_toml(file, Outer) == Outer(
        name="ä", two_words=2, inner=Inner(size=1), many=(Inner(words=("a",)),)
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('name = "a"\nsize = = 1\n', ":2: Invalid value"),
        ('name = "a"\n\n\n[inner\n', ":4: "),
        ('name = "a"\nname = "b"\n', ":2: Cannot overwrite a value"),
        ('name = "a"\ntwo-words = [1,\n', ":3: Invalid"),  # at the end of the document
    ],
)
def test_broken_syntax(tmp_path: Path, text: str, place: str) -> None:
    said = complaint(tmp_path, text)
    assert said.startswith(place)
    assert "at line" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "a"\nheight = 1\n', ":2: unknown setting height"),
        ('name = "a"\n[inner]\nsize = 1\nheight = 1\n', ":4: unknown setting height"),
        ('name = "a"\n[[many]]\nsize = 1\n[[many]]\nheight = 1\n', ":5: unknown setting height"),
        ('name = "a"\n[tables]\nx = 1\n', ":2: unknown setting tables"),
        ('name = "a"\ntwo_words = 1\n', ":2: unknown setting two_words"),
        ('name = "a"\n"two words" = 1\n', ":2: unknown setting two words"),
    ],
)
def test_unknown_key(tmp_path: Path, text: str, says: str) -> None:
    assert complaint(tmp_path, text) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# one\nname = 1\n", ":2: name: Expected `str`, got `int`"),
        ('name = "a"\n[inner]\nsize = "1"\n', ":3: size: Expected `int`, got `str`"),
        ('name = "a"\n[inner]\nwords = ["a", 1]\n', ":3: words: Expected `str`, got `int`"),
        ('name = "a"\ntwo-words = "2"\n', ":2: two-words: Expected `int`, got `str`"),
        ('name = "a"\ninner = 1\n', ":2: inner: Expected `object | null`, got `int`"),
        ("two-words = 1\n", ":1: Object missing required field `name`"),
    ],
)
def test_wrong_type(tmp_path: Path, text: str, says: str) -> None:
    assert complaint(tmp_path, text) == says


def test_a_key_of_another_table_is_not_taken_for_the_wrong_one(tmp_path: Path) -> None:
    text = 'name = "a"\n[inner]\nsize = 1\n[[many]]\nsize = "1"\n'
    assert complaint(tmp_path, text) == ":5: size: Expected `int`, got `str`"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_toml(tmp_path / "b.toml", Outer)
    assert caught.value.message == f"{tmp_path}/b.toml: No such file or directory"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b'name = "\xff"\n')
    with pytest.raises(SettingsError) as caught:
        read_toml(file, Outer)
    assert caught.value.message == f"{file}: not UTF-8 text"
