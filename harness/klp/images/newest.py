# SPDX-License-Identifier: Apache-2.0
"""Newer releases of a series: which the archive was seen to have, and which one its user has asked for.

A kernel is not made anew by itself when the archive has a newer one: what was held yesterday is to be held
today by the same kernel. So a release that is asked for becomes one of the things its entry is made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from klp.files import write_whole
from klp.paths import CacheLayout


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered, each by the series."""

    seen: dict[str, str] = {}
    taken: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class NewestReleases:
    """What is known of a cache's series."""

    layout: CacheLayout

    def _known(self) -> _Known:
        try:
            return msgspec.json.decode(self.layout.newest.read_bytes(), type=_Known)
        except (OSError, msgspec.DecodeError):  # made anew when a release is looked for
            return _Known()

    def seen(self, series: str) -> str:
        """Return the newest release that the archive was seen to have; empty if nobody has looked."""
        return self._known().seen.get(series, "")

    def taken(self, series: str) -> str:
        """Return the release that was asked for; empty of a series that was never updated."""
        return self._known().taken.get(series, "")

    def saw(self, series: str, release: str) -> None:
        """Remember what the archive has."""
        known = self._known()
        self._write(msgspec.structs.replace(known, seen={**known.seen, series: release}))

    def take(self, series: str, release: str) -> None:
        """Have the series' kernel made of this release, or of a newer one, from now on."""
        known = self._known()
        self._write(msgspec.structs.replace(known, taken={**known.taken, series: release}))

    def _write(self, known: _Known) -> None:
        self.layout.root.mkdir(parents=True, exist_ok=True)
        write_whole(self.layout.newest, msgspec.json.encode(known))
