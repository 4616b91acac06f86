# SPDX-License-Identifier: Apache-2.0
"""How long pieces of work took the last time, so that whoever waits for one can be told what is left.

What was counted in one is kept in the same way: as the duration of a part that is called what was counted.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from klp.files import write_whole

log = logging.getLogger(__name__)

# What is over sooner needs no estimate.
_WORTH_S = 1.0
# Some hundred bytes each; the ones that were not seen for longest go first.
_KEPT = 400
# The third of eight is the same piece of work where it is the second of five.
_PLACE = re.compile(r"^\d+/\d+ ")


class Durations:
    """The durations of one cache, in one file; a file that cannot be read or written is no fault.

    Args:
        file: where they are kept; None for remembering nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()

    def last(self, path: Sequence[str]) -> float | None:
        """Return the seconds that a piece of work took the last time, or None.

        Args:
            path: the words of the steps that it is part of, then its own.
        """
        return self._read().get(_key(path))

    def keep(self, path: Sequence[str], seconds: float) -> None:
        """Remember what a piece of work took that came to its end."""
        # No cache is made for it: before anything is built, there is nothing worth to be remembered.
        if self._file is None or seconds < _WORTH_S or not self._file.parent.is_dir():
            return
        with self._lock:
            known = self._read()  # anew, for another process may have added to it
            known.pop(_key(path), None)
            known[_key(path)] = round(seconds, 1)
            kept = dict(list(known.items())[-_KEPT:])
            try:
                write_whole(self._file, msgspec.json.format(msgspec.json.encode(kept), indent=1))
            except OSError as error:
                log.debug("%s: %s", self._file, error)

    def _read(self) -> dict[str, float]:
        if self._file is None:
            return {}
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.DecodeError):
            return {}


def _key(path: Sequence[str]) -> str:
    return " > ".join(_PLACE.sub("", words) for words in path)
