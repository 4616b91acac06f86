# SPDX-License-Identifier: Apache-2.0
"""Nothing that a guest says is obeyed by the user's terminal, by whatever way klp prints it."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from klp.cli.main import _tell
from klp.cli.saying import PrintableFormatter, say, say_json
from klp.consoles import InPlace, PlainLines, PrintableConsole
from klp.errors import CheckFailed, VmLost
from klp.printable import printable
from klp.report.columns import Columns, ResultConsole

KLP = Path(__file__).parents[2] / "harness" / "klp"
# Clipboard, title, a device control string, C1's CSI, backspaces, a terminal's answer, and what turns text.
HOSTILE = (
    "a\x1b]52;c;cm0gLXJmIH4K\x07b \x1b]0;title\x1b\\ \x1bP1;2q\x1b\\ \x9b31mc \x9d0;t\x9c "
    "\x08\x08\r\x0b\x0c\x00\x7f \x1b[6n \x1b[2J \u202edne\u202c \u2066x\u2069 \u2028"
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# What rich writes itself: colours, and what moves and shows the cursor for a line that is redrawn.
OF_RICH = re.compile(r"\x1b\[[\d;]*[mAK]|\x1b\[\?25[lh]|\r(?=\x1b)|\r\x1b\[2K")


def test_what_is_harmless_stays() -> None:
    text = "plain, with\ttabs\nand lines: żółw ✓ 日本 […] 🐢"
    assert printable(text) == text


def test_a_character_becomes_one_that_shows_what_it_was() -> None:
    assert printable("\x1b]0;x\x07\x7f\x9b\r") == "␛]0;x␇␡\ufffd␍"
    assert len(printable(HOSTILE)) == len(HOSTILE)
    assert not OBEYED.search(printable(HOSTILE))


@pytest.mark.parametrize(
    "show",
    [
        lambda console: console.print(HOSTILE),
        lambda console: console.print(Text(HOSTILE)),
        lambda console: console.print(HOSTILE, style="red", soft_wrap=True),
        lambda console: console.print(Columns((HOSTILE, "b"), [(HOSTILE, 1)], below=[[HOSTILE]])),
        lambda console: console.print(Panel(HOSTILE, title=HOSTILE)),
        lambda console: PlainLines(console).note(HOSTILE),
        lambda console: InPlace(console).note(HOSTILE),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_it(
    show: Callable[[PrintableConsole], object], terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    console = ResultConsole()
    console.file = io.StringIO()
    show(console)
    said = console.file.getvalue()
    assert "cm0gLXJmIH4K" in re.sub(r"\s", "", said)
    assert not OBEYED.search(OF_RICH.sub("", said))


@pytest.mark.parametrize("plain", [True, False])
def test_columns_are_as_wide_as_what_is_shown(plain: bool) -> None:
    console = ResultConsole()
    console.file, console.plain = io.StringIO(), plain
    console.print(Columns((), [("\x1b\x07\x9b", 1), ("abc", 2)]))
    gap = "\t" if plain else "  "
    assert console.file.getvalue() == f"␛␇\ufffd{gap}1\nabc{gap}2\n"


def test_what_is_redrawn_is_harmless_too() -> None:
    console = PrintableConsole(file=io.StringIO(), force_terminal=True, width=200)
    table = Table()
    table.add_row(HOSTILE)
    with Live(table, console=console, auto_refresh=False, transient=True):
        pass
    with InPlace(console).step(f"reading {HOSTILE}"):
        pass
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("cm0gLXJmIH4K") >= 2
    assert not OBEYED.search(OF_RICH.sub("", said))


def test_an_error_quotes_it(capsys: pytest.CaptureFixture[str]) -> None:
    _tell(VmLost(f"lost: {HOSTILE}", hint=HOSTILE, console_tail=(HOSTILE,)))
    said = capsys.readouterr().err
    assert said.count("cm0gLXJmIH4K") == 3
    assert not OBEYED.search(said)


def test_so_does_a_traceback() -> None:
    error = CheckFailed(HOSTILE)
    assert not OBEYED.search(str(error))
    assert error.message == HOSTILE  # what is recorded is what was said


def test_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("x", logging.DEBUG, "f", 1, "guest + %s", (HOSTILE,), None)
    assert not OBEYED.search(PrintableFormatter("%(message)s").format(record))
    say(HOSTILE, err=True)
    assert not OBEYED.search(capsys.readouterr().err)


def test_json_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for ascii_only in (True, False):
        say_json(json.dumps({"comm": HOSTILE + "ż"}, indent=1, ensure_ascii=ascii_only))
        said = capsys.readouterr().out
        assert json.loads(said) == {"comm": HOSTILE + "ż"}
        assert not OBEYED.search(said)


# --- there is no other way --------------------------------------------------------------------------

# Where such a call is right: bytes of `klp exec`, CSV for a program, what `make docs` writes, the doors.
RIGHT = {
    "cli/saying.py": {"click.echo"}, "cli/guests.py": {"click.echo"}, "cli/query.py": {"click.echo"},
    "testing/terminal.py": {"sys.stderr.write"}, "trace/events/__main__.py": {"sys.stdout.write"},
    "report/query_tables.py": {"sys.stdout.write"},
}  # fmt: skip
PRINTS = re.compile(r"print|(click\.)?s?echo|sys\.std(out|err)\.write|(rich\.console\.)?Console")


def prints(tree: ast.AST) -> set[str]:
    called = {ast.unparse(each.func) for each in ast.walk(tree) if isinstance(each, ast.Call)}
    return {each for each in called if PRINTS.fullmatch(each)}


def test_texts_have_no_other_door() -> None:
    for file in KLP.rglob("*.py"):
        name = file.relative_to(KLP).as_posix()
        # Programs of the guest print for klp; vm's Console is a guest's.
        if "in_guest" in name or name == "vm/machine.py":
            continue
        assert prints(ast.parse(file.read_text())) <= RIGHT.get(name, set()), name


@pytest.mark.parametrize(
    "text", ["print(x)", "click.echo(x)", "sys.stdout.write(x)", "Console()", "rich.console.Console()"]
)
def test_a_door_is_noticed(text: str) -> None:
    assert prints(ast.parse(text))
