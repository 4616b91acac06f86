# SPDX-License-Identifier: Apache-2.0
"""run.json, check.json and selftests.json: written and read by the same types."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from klp.analysis.acquittal import judged
from klp.analysis.checked import CHECK_SCHEMA, CheckResult
from klp.analysis.result import RUN_SCHEMA, RunResult
from klp.analysis.selftests import SELFTESTS_SCHEMA, SelftestsResult

# Of a check.json that has neither the check's own verdict nor the calls of its functions.
_UNCOUNTED_SCHEMA = 1
_Result = TypeVar("_Result", RunResult, CheckResult, SelftestsResult)


class OtherSchema(msgspec.DecodeError):
    """The file is whole, but a version of klp with other fields wrote it."""


class _Head(msgspec.Struct):
    schema: int


def encode(result: RunResult | CheckResult | SelftestsResult) -> bytes:
    """Return a result as indented JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def decode_run(text: bytes) -> RunResult:
    """Read a run.json.

    Raises:
        OtherSchema: it is of another version.
        msgspec.DecodeError: it is cut or damaged.
    """
    return _decoded(text, RunResult, RUN_SCHEMA)


def decode_check(text: bytes) -> CheckResult:
    """Read a check.json, also one of version 1; raises as `decode_run`.

    Version 1 counted no calls: of such a check nothing can be held, and its verdict says so.
    """
    if msgspec.json.decode(text, type=_Head).schema == _UNCOUNTED_SCHEMA:
        earlier = _decoded(text, CheckResult, _UNCOUNTED_SCHEMA)
        return judged(msgspec.structs.replace(earlier, schema=CHECK_SCHEMA))
    return _decoded(text, CheckResult, CHECK_SCHEMA)


def decode_selftests(text: bytes) -> SelftestsResult:
    """Read a selftests.json; raises as `decode_run`."""
    return _decoded(text, SelftestsResult, SELFTESTS_SCHEMA)


def _decoded(text: bytes, kind: type[_Result], schema: int) -> _Result:
    # The number first: fields that changed would else be reported as damage.
    found = msgspec.json.decode(text, type=_Head).schema
    if found != schema:
        age = "a newer" if found > schema else "an older"
        raise OtherSchema(f"of {age} klp (schema {found}; this one reads {schema})")
    return msgspec.json.decode(text, type=kind)
