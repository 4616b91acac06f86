# SPDX-License-Identifier: Apache-2.0
"""`make mutants`: build each mutant's kernel, run the suite and the selftests on it, write the table."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec
from rich.console import Console

from klp import consoles, settings
from klp.errors import BuildFailed, CheckFailed, KlpError, VmLost
from klp.files import digest_of, remove_tree
from klp.images.library import Library
from klp.process import run
from klp.progress import Progress
from klp.toml import read_toml
from klp.vm.accel import choose_accelerator
from klp.vm.spec import qemu_version
from tests.mutants import measure, record, table
from tests.mutants.edit import Mutant, Table
from tests.mutants.record import Provenance, Record
from tests.mutants.tree import HERE, Trimmed

ROOT = HERE.parents[1]
_BUILD = ROOT / "build" / "mutants"
_PAGE = ROOT / "docs" / "mutants.md"
_KERNEL = "6.12"
_BASE = "unmutated"


class Mutants:
    """The mutants of one kernel, and what is known of each.

    Args:
        told: where progress is told.
    """

    def __init__(self, told: Progress) -> None:
        self._settings = settings.load()
        self._progress = told
        self._library = Library(self._settings, told)
        self.all = read_toml(HERE / "mutants.toml", Table).mutant
        made_of = self._library.source(_KERNEL)
        self._source = made_of.version()
        self.kernel = Trimmed(_BUILD / "linux", made_of, told)

    def known(self, mutant: Mutant | None) -> Record | None:
        """Return what was found out about a mutant, or about the unmutated kernel, before."""
        return record.read(self._file(mutant), self._key(mutant))

    def try_out(self, mutant: Mutant | None, *, with_selftests: bool = True) -> Record:
        """Build, boot and test a kernel, and write down what was found."""
        name = mutant.name if mutant else _BASE
        with self._progress.step(f"kernel {name}"):
            measure.forget(self._library, self.kernel.folder)
            try:
                found = self._ready(mutant)
                if not found.lost:
                    found = self._test(found, name, with_selftests=with_selftests)
            finally:
                measure.forget(self._library, self.kernel.folder)
        record.write(self._file(mutant), found)
        return found

    def _ready(self, mutant: Mutant | None) -> Record:
        """Build and boot a kernel; a fault that shows there already leaves nothing to be tested."""
        begun = built = time.monotonic()
        lost = release = ""
        try:
            self.kernel.build(mutant)
            built = time.monotonic()
            release = measure.make_ready(self._library, self._settings, self.kernel.folder, self._progress)
        except (BuildFailed, VmLost, CheckFailed) as error:
            lost = error.message
            self._progress.note("\n".join([lost, *getattr(error, "output", "").splitlines()]))
        return Record(
            mutant=mutant, provenance=self._provenance(mutant, release), lost=lost,
            build_s=built - begun, ready_s=time.monotonic() - built,
        )  # fmt: skip

    def _test(self, found: Record, name: str, *, with_selftests: bool) -> Record:
        """Run suite and selftests side by side: each waits for its guests half of the time."""
        out = _BUILD / "out" / name
        remove_tree(out)
        out.mkdir(parents=True)
        subject = measure.Subject(self.kernel.folder, out)
        rules = found.mutant.rules if found.mutant else ()
        with ThreadPoolExecutor() as workers, self._progress.step("suite and selftests"):
            theirs = workers.submit(measure.selftests, subject) if with_selftests else None
            ours = measure.suite(subject, rules)
            self._progress.note(f"suite: {told(ours)}")
            found = msgspec.structs.replace(found, suite=ours)
            if theirs:
                upstream, broken = theirs.result()
                self._progress.note(f"selftests: {told(upstream)}")
                found = msgspec.structs.replace(found, selftests=upstream, broken=broken)
        return found

    def write_page(self) -> Path:
        """Write the page of all that is known, and return where it is."""
        found = {each.name: known for each in self.all if (known := self.known(each))}
        file = page_file(len(found), len(self.all))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(table.page(self.known(None), found, self.all))
        return file

    def _file(self, mutant: Mutant | None) -> Path:
        return _BUILD / f"{mutant.name if mutant else _BASE}.json"

    def _key(self, mutant: Mutant | None) -> str:
        edit = msgspec.json.encode(mutant).decode()
        return digest_of({"kernel": self.kernel.digest(), "mutant": edit})

    def _provenance(self, mutant: Mutant | None, release: str) -> Provenance:
        image = self._library.ensure(_KERNEL)
        return Provenance(
            key=self._key(mutant), release=release, source=self._source, commit=_commit(),
            date=time.strftime("%Y-%m-%d"), qemu=qemu_version(),
            accelerator=choose_accelerator(self._settings, self._library.layout, image).accelerator.value,
        )  # fmt: skip


def page_file(known: int, mutants: int) -> Path:
    """Return where the page goes: what is known of some mutants does not replace a table of all."""
    return _PAGE if known == mutants else _BUILD / _PAGE.name


def told(found: measure.Finding) -> str:
    """Return what was found in a few words."""
    return f"caught by {found.by}" if found.by else f"all {found.run} passed"


def _commit() -> str:
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    page = f":!{_PAGE.relative_to(ROOT)}"  # written after each mutant
    changed = run([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", page]).stdout
    return run([*git, "rev-parse", "--short", "HEAD"]).stdout.strip() + ("+" if changed else "")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="Only see that each fits, and tell what is known.")
@click.option("--again", is_flag=True, help="Also run those whose results are there.")
@click.option("--page", "only_page", is_flag=True, help="Only write the page of what is known.")
@click.option("--no-selftests", is_flag=True, help="Run the suite alone.")
def main(
    names: tuple[str, ...],
    *,
    only_list: bool,
    again: bool,
    only_page: bool,
    no_selftests: bool,
) -> None:
    """Try out the mutants called NAMES, or all, that have no result yet."""
    mutants = Mutants(consoles.for_console(Console(stderr=True)))
    known = {each.name: each for each in mutants.all}
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no mutant {unknown[0]}; --list shows them")
    chosen = [known[name] for name in names] or list(mutants.all)
    for each in chosen:
        mutants.kernel.check(each)
    if only_list:
        _list(mutants, chosen)
        return
    if not only_page:
        _run(mutants, chosen, again=again, with_selftests=not no_selftests)
    click.echo(f"page: {mutants.write_page().relative_to(ROOT)}")


def _run(mutants: Mutants, chosen: list[Mutant], *, again: bool, with_selftests: bool) -> None:
    """Run the unmutated kernel first: what fails there says nothing about a mutant."""
    control = mutants.known(None) or mutants.try_out(None)
    if control.lost or not control.suite or control.suite.by:
        raise CheckFailed(f"the kernel without a fault does not pass: {control.lost or control.suite}")
    for each in chosen:
        known = mutants.known(each)
        if again or not known or known.lost or (with_selftests and not known.selftests):
            mutants.try_out(each, with_selftests=with_selftests)
            mutants.write_page()


def _list(mutants: Mutants, chosen: list[Mutant]) -> None:
    for each in chosen:
        found = mutants.known(each)
        told = "not run"
        if found:
            pairs = (("suite", found.suite), ("selftests", found.selftests))
            told = found.lost or ", ".join(
                f"{name}: {one.by or 'survived'}" for name, one in pairs if one is not None
            )
        click.echo(f"{each.name}: {told}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KlpError as error:
        click.echo(f"mutants: {error.message}" + (f"\n  {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_code)
