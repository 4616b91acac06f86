# SPDX-License-Identifier: Apache-2.0
"""Commands in the documentation can be typed as they stand, and every subcommand is documented."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from klp.cli.main import _COMMANDS, _SECTIONS, klp

_FENCE = re.compile(r"^```(?:sh|console|text)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def typed(text: str) -> Iterator[str]:
    """Yield the klp commands in a page's blocks of code: after a prompt, or at the beginning of a line."""
    for block in _FENCE.findall(text):
        prompts = "$ " in block
        for line in block.splitlines():
            words = re.sub(r"\s+#.*", "", line.removeprefix("$ ") if prompts else line)
            if words.startswith("klp ") and (line.startswith("$ ") or not prompts):
                yield from (each.strip() for each in re.split(r";|&&|\|", words))


def wrong_with(line: str) -> str | None:
    """Say what click would say of a command line, without running it."""
    words = shlex.split(line)[1:]
    command: click.Command = klp
    context = click.Context(klp, info_name="klp")
    try:
        while isinstance(command, click.Group):
            rest = click.Context(command).command.make_parser(context).parse_args(list(words))[1]
            name = rest[0] if rest else ""
            found = command.get_command(context, name)
            if found is None and not name and command.invoke_without_command:
                return None
            if found is None:
                return f"no command {name!r}"
            words, command = rest[1:], found
            context = click.Context(command, info_name=name, **command.context_settings)
        command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.fixture(scope="module")
def pages(root: Path, project_files: tuple[Path, ...]) -> dict[str, str]:
    found = [
        each for each in project_files if each.suffix == ".md" and each.parts[0] in ("docs", "README.md")
    ]
    return {str(each): (root / each).read_text() for each in found}


def test_commands_can_be_typed_as_printed(pages: dict[str, str]) -> None:
    lines = [
        (page, line) for page, text in pages.items() for line in typed(text) if line.startswith("klp ")
    ]
    assert len(lines) > 10
    assert [f"{page}: {line}: {wrong}" for page, line in lines if (wrong := wrong_with(line))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("klp check patches/fix.patch -k 6.12 --quick", None),
        ("klp --debug image rm 6.12", None),
        ("klp frobnicate", "no command 'frobnicate'"),
        ("klp image frobnicate", "no command 'frobnicate'"),
        ("klp check --frobnicate x", "No such option '--frobnicate'."),
        ("klp run --deadline", "Option '--deadline' requires an argument."),
    ],
)
def test_a_wrong_command_is_noticed(line: str, wrong: str | None) -> None:
    found = wrong_with(line)
    assert found == wrong or (wrong and found and found.startswith(wrong))


def test_what_counts_as_typed() -> None:
    session = "```\n$ klp up   # a guest\nklp: told\n$ klp exec x; klp down\n```\n"
    text = f"{session}```sh\nklp runs\n```\n`klp no`\n"
    assert list(typed(text)) == ["klp up", "klp exec x", "klp down", "klp runs"]


# In backticks; and hints, of which some begin with a sentence on klp: a command is their first word.
_WORDS = r"klp ([a-z][^`\n\"'#|&;)…\[]*)[^`\n\"']*"
_MENTIONED = re.compile(rf"`{_WORDS}`")
_HINT = re.compile(rf"hint=f?[\"'](?=klp (?:{'|'.join(_COMMANDS)})\b){_WORDS}")


def mentioned(text: str) -> Iterator[str]:
    """Yield the klp commands that a text or a program speaks of."""
    for words in (*_MENTIONED.findall(text), *_HINT.findall(text)):
        line = f"klp {words}".rstrip(" .[{")
        yield line


def unknown(line: str) -> str:
    """Say which command or option is not there, of a line that need not be whole."""
    wrong = wrong_with(line) or ""
    return wrong if wrong.startswith(("no command", "No such option")) and wrong != "no command ''" else ""


def test_commands_that_texts_hints_and_the_makefile_name_are_there(
    root: Path, project_files: tuple[Path, ...]
) -> None:
    own = [each for each in project_files if each.suffix in (".md", ".py") or each.name == "Makefile"]
    own.remove(Path("tests/unit/test_documented.py"))  # which has wrong ones
    lines = [
        (file, line)
        for file in own
        if file.parts[0] != "bench"
        for line in mentioned((root / file).read_text())
    ]
    assert len(lines) > 100
    assert {"CONTRIBUTING.md", "README.md", "harness/klp/cli/images.py"} <= {str(file) for file, _ in lines}
    assert [f"{file}: {line}: {wrong}" for file, line in lines if (wrong := unknown(line))] == []


def test_a_command_in_a_hint_is_found() -> None:
    text = 'see `klp image remove`; hint="klp runs rm X"; hint="klp makes livepatches"'
    assert list(mentioned(text)) == ["klp image remove", "klp runs rm X"]


def test_the_page_has_the_sections_of_the_help(root: Path) -> None:
    text = (root / "docs/commands.md").read_text()
    for title, section in _SECTIONS.items():
        own = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        found = re.findall(r"`klp ([a-z]+)", "\n".join(each for each in own.splitlines() if "| `" in each))
        assert set(section) <= set(found), title


def test_every_command_is_documented(root: Path) -> None:
    text = (root / "docs/commands.md").read_text()
    told = set(re.findall(r"`klp ([a-z]+)", text))
    assert told == set(klp.list_commands(click.Context(klp)))


def test_the_exit_codes_of_the_readme_are_linked(pages: dict[str, str]) -> None:
    assert "docs/commands.md" in pages["README.md"]
