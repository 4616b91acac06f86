# SPDX-License-Identifier: Apache-2.0
"""run.json: written and read by the same types."""

from __future__ import annotations

import msgspec

from klp.analysis.result import RunResult


def encode(result: RunResult) -> bytes:
    """Return a run's result as indented JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def decode(text: bytes) -> RunResult:
    """Read what `encode` wrote.

    Raises:
        msgspec.DecodeError: it is torn, or of another schema.
    """
    return msgspec.json.decode(text, type=RunResult)
