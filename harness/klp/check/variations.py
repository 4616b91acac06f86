# SPDX-License-Identifier: Apache-2.0
"""Keeps what control lives have shown to vary by itself, for each kernel, in the cache."""

from __future__ import annotations

import msgspec
from filelock import FileLock

from klp.analysis.inventory import Variation
from klp.check.inventory import script_text
from klp.files import digest_of, write_whole
from klp.model import Image
from klp.paths import CacheLayout

_KIND = "variation"


class Variations:
    """What varies by itself on one image's kernel, as far as control lives have shown it.

    Several checks may add to it at once. What was learned by another script is not asked for.
    """

    def __init__(self, layout: CacheLayout, image: Image) -> None:
        digest = digest_of({"image": image.digest, "script": script_text()})
        self._file = layout.variations / f"{digest}.json"
        self._lock = layout.lock(_KIND, digest)

    def known(self) -> Variation:
        """Return all that is known; a file that cannot be read is as good as none."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Variation)
        except (FileNotFoundError, msgspec.MsgspecError):
            return Variation()

    def add(self, variation: Variation) -> Variation:
        """Add what a control life showed; return all that is known now."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            known = self.known() | variation
            write_whole(self._file, msgspec.json.encode(known))
        return known
