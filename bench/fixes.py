# SPDX-License-Identifier: Apache-2.0
"""Real fixes as livepatches: the stable updates between two releases of a kernel, file by file.

``python -m bench.fixes 6.12 6.12.115-1``: what changed between that version of the source and the image's
own is taken apart by file, and a livepatch is made of each file's change. The image's kernel is the newer
one, so the differences are applied backwards: each "fix" takes its file back to the older version.
"""

from __future__ import annotations

import difflib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count as count_from
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from klp import consoles, run, settings
from klp.errors import BuildFailed, KlpError, PatchRefused
from klp.images import debian, source
from klp.images.definition import definition
from klp.images.library import Library
from klp.model import Kernel
from klp.modules.made import made_modules
from klp.modules.patchfile import patch_series
from klp.progress import Progress, Silent
from klp.sourcepatch.prepared import prepared_tree

# Where a file's name tells that no livepatch can come of it; the others are counted as function bodies.
_NOT_BUILT = re.compile(r"^(Documentation|tools|scripts|samples|arch/(?!x86/))|^drivers/staging/")


class Fix(msgspec.Struct, frozen=True):
    """What came of one file's change.

    Attributes:
        outcome: ``made``, ``refused``, ``needs more`` (it does not compile without other files' changes) or
            ``failed`` (klp's own fault).
        said: the reason, or what was made.
    """

    file: str
    outcome: str
    said: str
    seconds: float


def changed_files(old: Path, new: Path) -> Iterator[str]:
    """Yield the C files that are in both trees and differ, in an order of their names."""
    for file in sorted(new.rglob("*.c")):
        name = str(file.relative_to(new))
        before = old / name
        if _NOT_BUILT.match(name) or not before.is_file() or file.is_symlink():
            continue
        if before.stat().st_size != file.stat().st_size or before.read_bytes() != file.read_bytes():
            yield name


def diff(name: str, new: Path, old: Path) -> str:
    """Return the patch that takes a file from the newer tree to the older one."""
    after, before = ((each / name).read_text(errors="surrogateescape") for each in (old, new))
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
        )
    )


class Fixes:
    """Makes a livepatch of each file's change.

    Args:
        out: where patches and modules go.
    """

    def __init__(self, kernel: Kernel, new: Path, old: Path, out: Path) -> None:
        self._kernel = kernel
        self._new, self._old = new, old
        self._out = out

    def attempt(self, number: int, name: str) -> Fix:
        """Make one, and say what came of it."""
        folder = self._out / f"{number:04}"
        folder.mkdir(parents=True, exist_ok=True)
        patch = folder / f"fix-{number:04}.patch"
        patch.write_text(diff(name, self._new, self._old), errors="surrogateescape")
        begun = time.monotonic()
        try:
            made = made_modules(patch_series([patch], cumulative=False), self._kernel, folder, Silent())
            outcome, said = "made", "; ".join(line for each in made for line in each.made.lines())
        except PatchRefused as error:
            outcome, said = "refused", error.message
        except BuildFailed as error:
            outcome, said = "needs more", error.message
        except KlpError as error:
            outcome, said = "failed", error.message
        return Fix(name, outcome, said, round(time.monotonic() - begun, 1))


def older_source(kernel: str, version: str, into: Path, steps: Progress) -> Path:
    """Fetch and unpack another version of a kernel's source."""
    which, packed, tree = definition(kernel), into / f"package-{version}", into / f"source-{version}"
    wanted = f"{which.kernel_source}={version}"
    if not tree.is_dir():
        packed.mkdir(parents=True, exist_ok=True)
        with steps.step(wanted):
            debian.fetch_packages(which, settings.load().mirror, [wanted], packed)
            [package] = (packed / "klp").glob("*.deb")
            debian.unpack_package(package, packed)
            source.unpack(source.tarball_in(packed), tree)
    return tree


def loaded(made: Path, kernel: str, steps: Progress) -> str:
    """Load, disable and unload each livepatch in a guest under probes; return how many went wrong."""
    modules = sorted(map(str, made.rglob("*.ko")))
    recorded = run(*modules, settings=settings.load(kernel=kernel), out=made.parent / "run", progress=steps)
    plans = recorded.whole().plans
    wrong = [f"{each.livepatch}: {each.error}" for each in plans if each.error]
    return f"{len(plans)} of {len(modules)} loaded and unloaded, {len(wrong)} wrong {'; '.join(wrong)}"


def reason(fix: Fix) -> str:
    """Return the kind of a refusal: its words without names and numbers."""
    said = fix.said.rpartition(": ")[2] if fix.outcome == "refused" else fix.outcome
    return re.sub(r"\b[\w.]*[_0-9][\w.]*\b", "…", said.partition(" (and ")[0])[:90]


def table(fixes: Sequence[Fix]) -> Table:
    """Return how many were made, and of the others why not."""
    shown = Table("outcome", "files", "reason")
    made = [each for each in fixes if each.outcome == "made"]
    shown.add_row("made", str(len(made)), "")
    kinds = Counter((each.outcome, reason(each)) for each in fixes if each.outcome != "made")
    for (outcome, why), count in kinds.most_common():
        shown.add_row(outcome, str(count), why)
    return shown


@click.command()
@click.argument("kernel")
@click.argument("version")
@click.option("--limit", type=int, help="Only so many files, spread over all.")
@click.option("--load", is_flag=True, help="Load each of them in a guest as well.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep patches and modules here.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write what came of each here.")
def main(
    kernel: str, version: str, *, limit: int | None, load: bool, out: Path | None, report: Path | None
) -> None:
    """Make a livepatch of each file's change between VERSION of KERNEL's source and the image's own."""
    steps = consoles.for_console(Console(stderr=True))
    image = Library(settings.load(), steps).ensure(kernel)
    new = prepared_tree(image.kernel, steps).tree
    with tempfile.TemporaryDirectory(prefix="klp-fixes-") as scratch:
        work = out or Path(scratch)
        old = older_source(kernel, version, work, steps)
        names = list(changed_files(old, new))
        step = max(1, len(names) // limit) if limit else 1
        fixes = Fixes(image.kernel, new, old, work / "made")
        done: list[Fix] = []
        with ThreadPoolExecutor(2) as pool:
            chosen = names[::step][:limit]
            for number, fix in enumerate(pool.map(fixes.attempt, count_from(1), chosen), 1):
                done.append(fix)
                steps.note(f"{number}/{len(chosen)} {fix.file}: {fix.outcome}: {fix.said}")
        if load:
            steps.note(loaded(work / "made", kernel, steps))
    Console(width=140).print(f"{len(names)} C files changed, {len(done)} tried", table(done))
    if report:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(done)))


if __name__ == "__main__":
    main()
