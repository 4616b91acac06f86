# SPDX-License-Identifier: Apache-2.0
"""A mutant: one statement of one kernel function in place of another. Pure; nothing here reads a file."""

from __future__ import annotations

import re

import msgspec

from klp.errors import UsageError


class Mutant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change to the kernel's livepatch core.

    Attributes:
        name: what it is called, in the table and on the command line.
        file: relative to the top of the kernel's source.
        function: whose body has the statement.
        statement: occurs exactly once in that body, with what stands before it where it alone would not;
            any blanks and line breaks between its words count as the same.
        replacement: what stands there instead.
        breaks: what the kernel then does wrong.
        rules: those that it breaks; the tests that observe them run first.
    """

    name: str
    file: str
    function: str
    statement: str
    replacement: str
    breaks: str
    rules: tuple[str, ...]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of mutants: each a ``[[mutant]]``."""

    mutant: tuple[Mutant, ...]


def apply(text: str, mutant: Mutant) -> str:
    """Return a source file's text with the mutant's statement replaced.

    Raises:
        UsageError: the function is not in it, or the statement not exactly once in that.
    """
    begin, end = _body(text, mutant)
    words = (re.escape(word) for word in mutant.statement.split())
    found = list(re.compile(r"\s+".join(words)).finditer(text, begin, end))
    if len(found) != 1:
        raise _refused(mutant, f"{mutant.function} has the statement {len(found)} times, not once")
    return text[: found[0].start()] + mutant.replacement + text[found[0].end() :]


def _body(text: str, mutant: Mutant) -> tuple[int, int]:
    """Return where a function's body begins and ends; kernel style has its last brace in column 0."""
    name = re.escape(mutant.function)
    head = re.compile(rf"^\w[^;{{}}()#]*\b{name}\((?:[^(){{}};]|\([^()]*\))*\)\s*{{", re.MULTILINE)
    found = list(head.finditer(text))
    end = text.find("\n}", found[0].end()) if found else -1
    if len(found) != 1 or end < 0:
        raise _refused(mutant, f"it defines {mutant.function} {len(found)} times, not once")
    return found[0].end(), end


def _refused(mutant: Mutant, why: str) -> UsageError:
    return UsageError(
        f"mutant {mutant.name}: {mutant.file}: {why}",
        hint="tests/mutants/mutants.toml must fit the kernel's source",
    )
