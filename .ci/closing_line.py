# SPDX-License-Identifier: Apache-2.0
"""Print the closing line of several runs of pytest as one, from the JUnit files that they wrote.

Usage: closing_line.py FILE…; a file that is missing counts as an error: its run came to no end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as Et

_WORDS = ("failed", "passed", "skipped", "error")


def main(files: list[str]) -> None:
    """Add up what each run counted, and print it as pytest does."""
    counts = dict.fromkeys(_WORDS, 0)
    seconds = 0.0
    for file in files:
        if not Path(file).is_file():
            counts["error"] += 1
            continue
        for suite in Et.parse(file).getroot().iter("testsuite"):
            tests, failed, errors, skipped = (
                int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
            )
            counts["failed"] += failed
            counts["error"] += errors
            counts["skipped"] += skipped
            counts["passed"] += tests - failed - errors - skipped
            seconds += float(suite.get("time", 0))
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    sys.stdout.write(f" {told or 'no tests ran'} in {seconds:.2f}s ".center(79, "=") + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
