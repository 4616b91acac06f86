# SPDX-License-Identifier: Apache-2.0
"""What commands print that is no table: texts, JSON, the log of --debug; nothing of it a terminal obeys."""

from __future__ import annotations

import logging

import click

from klp.printable import OBEYED, printable


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text."""
    click.echo(printable(text), err=err, nl=nl)


def say_json(encoded: str, *, nl: bool = True) -> None:
    """Print JSON; what a terminal would obey becomes an escape of JSON's own, so that it means the same."""
    escaped = (f"\\u{ord(each):04x}" if ord(each) in OBEYED else each for each in encoded)
    click.echo(encoded if encoded.isascii() and "\x7f" not in encoded else "".join(escaped), nl=nl)


class PrintableFormatter(logging.Formatter):
    """Formats what is logged."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging's own."""
        return printable(super().format(record))
