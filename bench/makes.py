# SPDX-License-Identifier: Apache-2.0
"""What a source patch takes: from the diff to the .ko, and to the verdict of a quick check."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.measure import Series, in_turn, seconds
from klp.model import Image
from klp.modules.made import made_modules
from klp.modules.patchfile import patch_series
from klp.process import run
from klp.progress import Progress, Silent
from klp.sourcepatch.prepared import prepared_tree

# One statement of one unit, so that no source of the kernel's need stand here.
_FILE, _STATEMENT = "fs/proc/cmdline.c", "seq_putc(m, '\\n');"


class Makes:
    """Measures one patch of one unit on a prepared kernel.

    Args:
        klp: the command.
    """

    def __init__(self, image: Image, klp: Path, progress: Progress) -> None:
        self._image = image
        self._klp = klp
        self._tree = prepared_tree(image.kernel, progress).tree

    def measure(self, rounds: int) -> list[Series]:
        """Return both in turn: made anew each time, and checked as made before."""
        with tempfile.TemporaryDirectory(prefix="klp-bench-") as folder:
            scratch = Path(folder)
            patch = self._patch(scratch)
            source = patch_series([patch], cumulative=False)
            numbers = iter(range(2 * rounds))

            def make() -> None:
                out = scratch / f"made-{next(numbers)}"
                made_modules(source, self._image.kernel, out, Silent(), keep=out)

            def check() -> None:
                out = scratch / f"check-{next(numbers)}"
                run([self._klp, "check", patch, "-k", self._image.name, "--quick", "-o", out])

            return in_turn(
                {
                    "klp make: one unit, from the diff to the .ko": lambda: seconds(make),
                    "klp check --quick of that patch": lambda: seconds(check),
                },
                rounds, "s",
            )  # fmt: skip

    def _patch(self, folder: Path) -> Path:
        lines = (self._tree / _FILE).read_text(encoding="utf-8").splitlines()
        at = next(number for number, line in enumerate(lines) if _STATEMENT in line)
        head = f"--- a/{_FILE}\n+++ b/{_FILE}\n@@ -{at + 1},1 +{at + 1},2 @@\n"
        patch = folder / "bench.patch"
        patch.write_text(f'{head}+\tseq_puts(m, " bench");\n {lines[at]}\n', encoding="utf-8")
        return patch
