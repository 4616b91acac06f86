# SPDX-License-Identifier: Apache-2.0
"""Tables for people and for pipes: folded to fit a terminal, else a line for each row, or with tabs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from decimal import Decimal
from enum import Enum, auto

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from klp.consoles import PrintableConsole
from klp.printable import printable

_NONE = "-"
_GAP = 2
_BELOW = 4
# Where nothing is folded: wider than any row, and rich only measures by it.
_ENDLESS = 1_000_000
# Columns are folded at blanks first. Only then are words torn apart, first in columns wider than this.
_NARROW = 20
# Only what is as narrow as this gives way no further while there is another, even one to be kept whole.
_LEAST = 8


class TableLayout(Enum):
    """How tables are laid out."""

    FOLDED = auto()
    WHOLE = auto()
    TABS = auto()


class ResultConsole(PrintableConsole):
    """A console that folds tables on a terminal only, and never breaks a line of text.

    Attributes:
        plain: whether columns are set apart by one tab each, for programs.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        # Without markup: paths, names and kernel symbols may have [brackets]. Not wrapped: a path that was
        # broken in two cannot be pasted, and a terminal wraps what does not fit by itself.
        super().__init__(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
        self.plain = False

    @property
    def layout(self) -> TableLayout:
        """How tables are laid out on it."""
        if self.plain:
            return TableLayout.TABS
        return TableLayout.FOLDED if self.is_terminal else TableLayout.WHOLE

    def note(self, text: str) -> None:
        """Print a line that explains a table; programs get none."""
        if not self.plain:
            self.print(text)


class Columns:
    """A table: rows of values, numbers to the right, null as a dash, nothing cut off.

    Args:
        titles: none for a table without a heading.
        right: titles of further columns that stand to the right.
        whole: titles of columns whose cells are not folded: what one may want to paste.
        below: for each row the lines that belong to it, which keep to no column.
        spare: titles of columns that are left out on a terminal where not all fit without being folded.
        blocks: whether each row is a block, a line for each column, on a terminal that is so narrow that
            columns would have words torn apart.
        indent: blanks before each line.
    """

    def __init__(
        self,
        titles: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        right: Sequence[str] = (),
        whole: Sequence[str] = (),
        below: Sequence[Sequence[str]] = (),
        spare: Sequence[str] = (),
        blocks: bool = False,
        indent: int = 0,
    ) -> None:
        values = [tuple(row) for row in rows]
        self._titles = tuple(titles)
        self._rows = [tuple(_shown(value) for value in row) for row in values]
        self._below = below
        self._indent = indent
        self._whole = whole
        self._spare = spare
        self._blocks = blocks
        count = len(titles) or max((len(row) for row in values), default=0)
        self._right = [
            any(isinstance(row[each], int | float | Decimal) for row in values)
            or (bool(titles) and titles[each] in right)
            for each in range(count)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it as the console wants tables; see rich's console protocol."""
        layout = console.layout if isinstance(console, ResultConsole) else TableLayout.FOLDED
        if layout is TableLayout.TABS:
            yield from self._with_tabs()
            return
        if layout is TableLayout.WHOLE:
            options = options.update(max_width=_ENDLESS)
        for part in self._parts(options.max_width):
            for line in console.render_lines(Padding(part, (0, 0, 0, self._indent)), options, pad=False):
                yield from _without_end(line)
                yield Segment.line()

    def _with_tabs(self) -> Iterator[Segment]:
        # Segments, not Text: rich makes blanks of a Text's tabs.
        heading = [self._titles] if self._titles else []
        for cells in (*heading, *([cell.plain for cell in row] for row in self._rows)):
            yield Segment("\t".join(" ".join(cell.split()) for cell in cells))
            yield Segment.line()

    def _parts(self, room: int) -> Iterator[Table | Padding | Text]:
        shown = self._without_spare(room)
        heading = tuple(Text(title, style="dim") for title in shown._titles)
        lines = [heading, *shown._rows] if heading else shown._rows
        yield from (
            shown._as_blocks(room) if shown._wants_blocks(lines, room) else shown._as_lines(lines, room)
        )

    def _without_spare(self, room: int) -> Columns:
        """Return the table without the columns that there is no room for."""
        lines = [tuple(map(Text, self._titles)), *self._rows]
        if not self._spare or self._width(_natural(lines)) <= room:
            return self
        kept = [each for each, title in enumerate(self._titles) if title not in self._spare]
        fewer = copy(self)
        fewer._titles = tuple(self._titles[each] for each in kept)
        fewer._rows = [tuple(row[each] for each in kept) for row in self._rows]
        fewer._right = [self._right[each] for each in kept]
        return fewer

    def _width(self, widths: Sequence[int]) -> int:
        return self._indent + sum(widths) + _GAP * (len(widths) - 1)

    def _wants_blocks(self, lines: Sequence[Sequence[Text]], room: int) -> bool:
        if not self._blocks or not self._rows:
            return False
        widths = zip(self._widths(lines, room), _longest_words(lines), strict=True)
        return any(width < min(word, _NARROW) for width, word in widths)

    def _as_blocks(self, room: int) -> Iterator[Table | Text]:
        left = max(map(len, self._titles), default=0)
        widths = [left, max(1, room - self._indent - left - _GAP)]
        for number, row in enumerate(self._rows):
            if number:
                yield Text()
            pairs = zip(self._titles, row, strict=True)
            yield _grid(((Text(title, style="dim"), cell) for title, cell in pairs), widths, (False, False))

    def _as_lines(self, lines: Sequence[Sequence[Text]], room: int) -> Iterator[Table | Padding]:
        widths = self._widths(lines, room)
        if not self._below:
            yield self._table(lines, widths)
            return
        heading = lines[0] if self._titles else ()
        if heading:
            yield self._table([heading], widths)
        for row, below in zip(self._rows, self._below, strict=True):
            # Each row is a table of its own with the widths of all others, so that lines which keep to no
            # column can stand between two of them.
            yield self._table([row], widths)
            for text in below:
                yield Padding(Text(text, style="dim"), (0, 0, 0, _BELOW))

    def _widths(self, lines: Sequence[Sequence[Text]], room: int) -> list[int]:
        """Return the columns' widths: the widest that may be folded give way until all fit."""
        widths = _natural(lines)
        words = _longest_words(lines)
        titles = self._titles or ("",) * len(widths)

        def gives(each: int) -> tuple[bool, bool, bool, int]:
            width, kept = widths[each], titles[each] in self._whole
            return (
                width > words[each] and not kept, width > _NARROW and not kept,
                width > _LEAST and not kept, width,
            )  # fmt: skip

        while self._width(widths) > room and max(widths) > 1:
            widths[max(range(len(widths)), key=gives)] -= 1
        return widths

    def _table(self, rows: Iterable[Sequence[Text]], widths: Sequence[int]) -> Table:
        return _grid(rows, widths, self._right)


def _grid(rows: Iterable[Sequence[Text]], widths: Sequence[int], right: Sequence[bool]) -> Table:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    for width, to_the_right in zip(widths, right, strict=True):
        table.add_column(width=width, overflow="fold", justify="right" if to_the_right else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _natural(lines: Sequence[Sequence[Text]]) -> list[int]:
    """Return the columns' widths where nothing is folded."""
    return [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]


def _longest_words(lines: Sequence[Sequence[Text]]) -> list[int]:
    """Return for each column the length of its longest word: a narrower column tears it apart."""
    words = (
        [cell_len(word) for cell in column for word in cell.plain.split()]
        for column in zip(*lines, strict=True)
    )
    return [max(each, default=0) for each in words]


def _without_end(line: Sequence[Segment]) -> Iterator[Segment]:
    """Yield a line's parts without the blanks at its end."""
    parts = list(line)
    while parts and not parts[-1].text.strip():
        parts.pop()
    if parts:
        last = parts.pop()
        yield from parts
        yield Segment(last.text.rstrip(), last.style, last.control)


def _shown(value: object) -> Text:
    if isinstance(value, Text):
        return value
    # One line: of several a pipe would make rows that have no columns.
    return Text(_NONE if value is None else printable(" ".join(str(value).splitlines())))
