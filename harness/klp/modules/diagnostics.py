# SPDX-License-Identifier: Apache-2.0
"""What make and the compiler said, in the user's own paths and without make's noise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from klp.errors import BuildFailed
from klp.process import Completed

# Since Linux 6.13 make works in the module's own folder, and the compiler names files relative to it.
_RELATIVE = re.compile(r"^(In file included from |\s+from |)([^\s/:][^:\s]*)(?=:)")
# Kbuild skips a module's BTF where it finds no vmlinux: 6.1's headers package has none. The module loads
# without, and the probes read the BTF of the kernel itself.
_NOISE = re.compile(
    r"^make(\[\d+\])?: (\*\*\* .*(Error \d+( \(ignored\))?|unfinished jobs\.+)$|Entering |Leaving )"
    r"|^Skipping BTF generation "
)
_ERROR = re.compile(r"^([^:\n]+:\d+)(?::\d+)?: (?:fatal error: |error: |\*\*\* )(.*)$", re.MULTILINE)
_WARNING = re.compile(r"^[^:]+:\d+(:\d+)?: warning: ")
# modpost's verdict, else what stopped make; neither names a line.
_OTHER = re.compile(r"^(?:ERROR: (?:modpost: )?|make(?:\[\d+\])?: \*\*\* )(.*)$", re.MULTILINE)


class Diagnostics:
    """Translates the output of one build.

    Args:
        scratch: where the build ran.
        folder: where its sources came from, as the user wrote it.
    """

    def __init__(self, scratch: Path, folder: Path) -> None:
        self._scratch = scratch
        self._folder = folder

    def readable(self, said: str) -> str:
        """Return the compiler's lines with the user's paths put back."""
        return "\n".join(self._lines(said))

    def warnings(self, said: str) -> Iterator[str]:
        """Yield the compiler's warnings, one line each."""
        return (line for line in self._lines(said) if _WARNING.match(line))

    def failure(self, finished: Completed) -> BuildFailed:
        """Return the error that tells of a build that failed, by its first error."""
        output = self.readable(finished.stderr)
        if found := _ERROR.search(output):
            return BuildFailed(f"{found[1]}: {found[2]}", output=output)
        other = _OTHER.search(output)
        last = output.rpartition("\n")[2] or f"make exited {finished.status}"
        return BuildFailed(f"{self._folder}: {other[1] if other else last}", output=output)

    def _lines(self, said: str) -> Iterator[str]:
        for line in said.splitlines():
            if not _NOISE.match(line):
                yield self._in_users_words(line)

    def _in_users_words(self, line: str) -> str:
        relative = _RELATIVE.match(line)
        if relative and (self._scratch / relative[2]).is_file():
            line = f"{relative[1]}{self._folder / relative[2]}{line[relative.end() :]}"
        elsewhere = str(self._scratch)
        return line.replace(f"{elsewhere}/", self._prefix()).replace(elsewhere, str(self._folder))

    def _prefix(self) -> str:
        """Return what stands before a file's name in messages: nothing for the current folder."""
        return "" if self._folder == Path() else f"{str(self._folder).rstrip('/')}/"
