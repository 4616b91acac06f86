# SPDX-License-Identifier: Apache-2.0
"""Commands that documentation, hints and the Makefile name are there, with the options they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from klp.cli.main import _COMMANDS, klp

_WORDS = r"klp ([a-z][^`\n\"'#|&;)]*)"
# In backticks, and at the beginning of a line of a block.
_NAMED = re.compile(rf"`{_WORDS}`")
_TYPED = re.compile(rf"^\s*(?:\$ )?{_WORDS}", re.MULTILINE)
# Some hints begin with a sentence on klp: only one whose first word is a command names one.
_HINT = re.compile(rf"hint=f?[\"'](?=klp (?:{'|'.join(_COMMANDS)})\b){_WORDS}")
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SUFFIXES = (".md", ".py", ".toml", "")


def wrong(words: str) -> str:
    """What of a command is not there; empty if all is."""
    command: click.Command = klp
    context = click.Context(klp)
    rest = words.split()
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z-]+", rest[0]):
        found = command.get_command(context, rest[0])
        if found is None:
            return "" if command.invoke_without_command and command is not klp else rest[0]
        command, rest = found, rest[1:]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    takes_all = command.context_settings.get("ignore_unknown_options")
    for word in [] if takes_all else rest:
        option = word.partition("=")[0].rstrip(",.:…]")
        if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in {*known, "--help", "-h"}:
            return option
    return ""


def named(files: tuple[Path, ...], root: Path) -> Iterator[tuple[str, str]]:
    for file in files:
        if file.suffix in _SUFFIXES and "data" not in file.parts and file.parts[0] != "bench":
            text = (root / file).read_text(errors="replace")
            blocks = "\n".join(_BLOCK.findall(text)) if file.suffix == ".md" else ""
            yield from (
                (str(file), each)
                for each in (*_NAMED.findall(text), *_HINT.findall(text), *_TYPED.findall(blocks))
            )


def test_commands_that_are_named_are_there(root: Path, project_files: tuple[Path, ...]) -> None:
    found = [each for each in named(project_files, root) if each[0] != "tests/unit/test_commands_named.py"]
    assert len(found) > 100
    assert {"Makefile", "README.md"} <= {file for file, _ in found}
    assert [f"{file}: klp {words}: {wrong(words)}" for file, words in found if wrong(words)] == []


@pytest.mark.parametrize(
    ("words", "what"),
    [("image remove 6.12", "remove"), ("imagine", "imagine"), ("run --no-such", "--no-such"),
     ("runs rm a", ""), ("exec ls --color", ""), ("check fix.patch -k 6.1", ""), ("runs", "")],
)  # fmt: skip
def test_what_is_not_there_is_found(words: str, what: str) -> None:
    assert wrong(words) == what
