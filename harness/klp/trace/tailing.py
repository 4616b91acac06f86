# SPDX-License-Identifier: Apache-2.0
"""One `tail` that follows several files, and its output taken apart into the lines of each file.

A tail for each file would be simpler, but costs each emulated guest 0.4 s more of CPU time: every command
over SSH starts a process of the server, a shell and a program.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable

import msgspec

_HEADING = re.compile(rb"==> (?P<file>/.*) <==")


def command(files: Iterable[str]) -> str:
    """Return what follows files from their beginning on, each change under a heading that names its file.

    GNU tail looks for changes with inotify, and ends when nobody reads any longer. It must not be made to
    poll (``-s 0.1``): that kept an idle emulated guest busy.
    """
    return shlex.join(["tail", "-v", "-c", "+1", "-f", *files])


class Apart:
    """Takes apart what `command` writes: lines of JSON, in the order in which each file got them.

    tail writes a line break before a heading, even where the text before it did not end with one. So the
    line before a heading may be half a line, whose rest follows under the file's next heading. A line that
    is whole as JSON is a whole line, because no proper beginning of a JSON object is valid JSON.
    """

    def __init__(self) -> None:
        self._rest = b""  # of a line whose break has not come
        self._file = b""
        self._begun: defaultdict[bytes, bytes] = defaultdict(bytes)  # what each file's last line has so far
        self._last: bytes | None = None  # a line of which it is not known whether it is half of one

    def lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are whole now that `chunk` has come, without their line breaks."""
        *came, self._rest = (self._rest + chunk).split(b"\n")
        whole = [line for each in came for line in self._next(each)]
        if self._last is not None and _is_json(self._begun[self._file] + self._last):
            whole += self._settle()
        return whole

    def unfinished(self) -> bytes:
        """Return what came last and is no whole line."""
        return self._begun[self._file] + (self._last or b"") + self._rest

    def _next(self, line: bytes) -> list[bytes]:
        """Take a line; return the one before it, if it was whole."""
        if heading := _HEADING.fullmatch(line):
            self._begun[self._file] += self._last or b""
            self._file, self._last = heading["file"], None
            return []
        whole = self._settle()
        self._last = line
        return whole

    def _settle(self) -> list[bytes]:
        if self._last is None:
            return []
        whole, self._last = self._begun.pop(self._file, b"") + self._last, None
        return [whole] if whole else []  # empty: the break of one that was told without it


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True
