# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.abuse`: a day of abuse, of klp and of the machine under it, and what it left behind.

Each attempt is the command itself, in a process of its own, with a cache, a folder of runs and a TMPDIR
that only this program uses. The last is its mark as well: klp hands it on to all that it starts, so that
whatever is left over is found by it, in whichever session it is.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.attempts import Attempt, Found, name_of
from klp import settings
from klp.errors import ExitCode
from klp.files import remove_tree
from klp.images.cache import last_used, read_manifest
from klp.inuse import locked
from klp.paths import CacheLayout, cache_root
from klp.process import run as run_command
from klp.records.finding import is_record
from klp.records.reading import read
from klp.waiting import DeadlineMissed, wait_until

_KLP = Path(sys.executable).with_name("klp")
_LIVEPATCH = "version-banner"
_STOPPED_S = 70
# How long what a dead klp had started may take to end: the kernel ends QEMU with it.
_ENDING_S = 20
_CYCLES_OF_A_CHECK = 50
# A machine that is busy may take minutes until QEMU starts, when modules are built first.
_PATIENCE_S = 600
# QEMU's overlay, the trace and the console of one run are below this; so a disk of any size up to it fills.
_RUN_KIB = 12 * 1024
_ON_SMALL_DISK = """
mount -t tmpfs -o "size=$1" tmpfs "$2" || exit 99
disk=$2 kept=$3; shift 3
"$@"; status=$?
cp -a "$disk/." "$kept"
exit $status
"""
_AS_PROMISED = {
    ExitCode.OK, ExitCode.VM_LOST, ExitCode.HOST_LACKS, -signal.SIGKILL,
}  # fmt: skip


class Abuse:
    """Everything that is done to klp; each method is a part, and one call is one time.

    Args:
        folder: on the file system of the cache, whose files are linked there and not copied.
        kernel: a name of `klp kernels`.
        chance: decides every random moment and size.
    """

    def __init__(self, folder: Path, kernel: str, chance: random.Random) -> None:
        self._folder = folder
        self._cache = CacheLayout(folder / "cache")
        self._kernel = kernel
        self._chance = chance
        self._number = max((int(each.name) for each in folder.glob("[0-9]*")), default=0)
        self._children: list[subprocess.Popen[bytes]] = []
        self._usual_s = self._guest_s = 0.0

    def prepare(self) -> None:
        """Have a cache with what runs of a kernel use, and see how long an undisturbed one takes."""
        if not self._cache.root.exists():
            self._link_cache()
            self._undisturbed()  # a guest is saved once for each cache
        self._usual_s, self._guest_s = self._undisturbed()

    def _link_cache(self) -> None:
        cache, begun = CacheLayout(cache_root(settings.load().cache)), time.time() - 1
        run_command([_KLP, "run", _LIVEPATCH, "-k", self._kernel, "-o", self._folder / "first"])
        self._cache.root.mkdir()
        for entry in cache.root.glob("*-*"):
            if read_manifest(entry) and last_used(entry) >= begun:
                run_command(["cp", "--archive", "--link", entry, self._cache.root])
        run_command(["cp", "--archive", cache.root / "ssh", cache.root / "newest.json", self._cache.root])

    def _undisturbed(self) -> tuple[float, float]:
        """Return the seconds that klp took, and those that its guest was there."""
        started = time.monotonic()
        attempt, found = self._start("run", _LIVEPATCH), Found()
        self._wait_for_qemu(attempt)
        guest = time.monotonic()
        self._ended(attempt, found)
        if attempt.child.returncode or found.faults:
            raise click.ClickException(f"an undisturbed run failed: {found.faults}\n{attempt.said}")
        return time.monotonic() - started, time.monotonic() - guest

    def cycles(self, found: Found) -> None:
        """Fifty loads and unloads in one restored guest."""
        attempt = self._start("check", _LIVEPATCH, "--scenario", "cycles")
        self._ended(attempt, found, promised={ExitCode.OK})

    def kill_qemu(self, found: Found) -> None:
        """QEMU is killed at a random moment of its life."""
        attempt = self._start("run", _LIVEPATCH)
        self._at_qemu(attempt, lambda pid: os.kill(pid, signal.SIGKILL))
        self._ended(attempt, found, promised={ExitCode.OK, ExitCode.VM_LOST})

    def kill_klp(self, found: Found) -> None:
        """Klp is killed at a random moment, be it of a build, of a guest's start or of a run."""
        remove_tree(self._cache.modules)
        attempt = self._start("run", _LIVEPATCH)
        self._after(attempt, self._chance.uniform(0.0, self._usual_s))
        attempt.child.kill()
        self._ended(attempt, found, promised={ExitCode.OK, -signal.SIGKILL})

    def full_disk_of_runs(self, found: Found) -> None:
        """The disk of the run folder has room for a random part of it."""
        self._on_small_disk("runs", ("run", _LIVEPATCH), found)

    def full_disk_of_builds(self, found: Found) -> None:
        """The disk on which modules are built has room for a random part of them."""
        self._on_small_disk("tmp", ("build", _LIVEPATCH), found)

    def stopped(self, found: Found) -> None:
        """QEMU and klp are stopped for 70 s, as when a host is suspended."""
        attempt = self._start("run", _LIVEPATCH)

        def stop(qemu: int) -> None:
            for pid in (attempt.child.pid, qemu):
                os.kill(pid, signal.SIGSTOP)
            time.sleep(_STOPPED_S)
            for pid in (qemu, attempt.child.pid):
                os.kill(pid, signal.SIGCONT)

        self._at_qemu(attempt, stop)
        self._ended(attempt, found, promised={ExitCode.OK, ExitCode.VM_LOST})

    def two_at_once(self, found: Found) -> None:
        """Two runs, a build and a clearing of the cache, which may take nothing of what the runs use."""
        attempts = [self._start("run", _LIVEPATCH) for _ in range(2)]
        attempts.append(self._start("image", "gc", "--size", "0", "--dry-run"))
        attempts.append(self._start("build", _LIVEPATCH))
        for each in attempts:
            each.child.wait()
            self._ended(each, found, promised={ExitCode.OK})

    def _on_small_disk(self, name: str, words: Sequence[str], found: Found) -> None:
        remove_tree(self._cache.modules)  # what was built before is not built again
        kib = self._chance.randrange(16, _RUN_KIB)
        attempt = self._start(*words, disk=name, kib=kib)
        self._ended(attempt, found, promised={ExitCode.OK, ExitCode.HOST_LACKS})
        if attempt.child.returncode and "no space left" not in attempt.said:
            found.faults.append(f"{attempt.place}: a disk of {kib} KiB was full, and nothing said so")

    def _start(self, *words: str, disk: str = "", kib: int = 0) -> Attempt:
        self._number += 1
        place = self._folder / f"{self._number:04}"
        (place / "tmp").mkdir(parents=True)
        (place / "runs").mkdir()
        argv = [str(_KLP), *words]
        if words[0] == "build":
            argv += ["--out", str(place / "built")]
        if disk:
            (place / f"kept-{disk}").mkdir()
            small = [f"{kib}k", str(place / disk), str(place / f"kept-{disk}")]
            argv = ["unshare", "--map-root-user", "--mount", "--", "sh", "-c", _ON_SMALL_DISK, "sh",
                    *small, *argv]  # fmt: skip
        own = {
            "TMPDIR": f"{place}/tmp",
            "KLP_KERNEL": self._kernel,
            "KLP_CACHE": str(self._cache.root),
            "KLP_RUNS": str(place / "runs"),
        }
        with (place / "said").open("wb") as said:
            child = subprocess.Popen(
                argv, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        self._children.append(child)
        return Attempt(place, child)

    def end(self) -> None:
        """End every klp that still runs."""
        for child in self._children:
            child.terminate()
            child.wait()

    def _after(self, attempt: Attempt, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            attempt.child.wait(timeout=seconds)

    @staticmethod
    def _wait_for_qemu(attempt: Attempt) -> None:
        wait_until(
            lambda: attempt.qemu() or attempt.child.poll() is not None,
            what="QEMU",
            timeout_s=_PATIENCE_S,
            every_s=0.05,
        )

    def _at_qemu(self, attempt: Attempt, do: Callable[[int], None]) -> None:
        """Do something to QEMU at a random moment of its life, unless klp ends before."""
        self._wait_for_qemu(attempt)
        self._after(attempt, self._chance.uniform(0.0, self._guest_s))
        if (qemu := attempt.qemu()) is not None:
            with suppress(ProcessLookupError):
                do(qemu)

    def _ended(self, attempt: Attempt, found: Found, promised: set[int] | None = None) -> None:
        """Wait for an attempt's end, and look for all that it left."""
        status = attempt.child.wait()
        found.codes[str(status)] += 1
        if status not in (_AS_PROMISED if promised is None else promised):
            found.faults.append(f"{attempt.place}: exit code {status}")
        if "Traceback" in attempt.said:
            found.faults.append(f"{attempt.place}: a traceback")
        self._orphans(attempt, found)
        self._recorded(attempt, found)
        for place in (attempt.place / "tmp", attempt.place / "kept-tmp"):
            found.left["a file in TMPDIR"] += sum(each.is_file() for each in place.rglob("*"))
        if not found.faults:
            remove_tree(attempt.place)

    def _orphans(self, attempt: Attempt, found: Found) -> None:
        try:
            wait_until(lambda: not attempt.processes(), what="end", timeout_s=_ENDING_S, every_s=0.1)
        except DeadlineMissed:
            names = sorted(name_of(pid) for pid in attempt.processes())
            found.left["an orphan"] += len(names)
            found.faults.append(f"{attempt.place}: still there: {', '.join(names)}")

    def _recorded(self, attempt: Attempt, found: Found) -> None:
        kept = attempt.place / "kept-runs"
        root = kept if kept.exists() else attempt.runs
        for folder in filter(is_record, root.iterdir()):
            recorded = read(folder)
            verdict = str(recorded.result.verdict) if recorded.result else recorded.broken
            found.verdicts[verdict] += 1
            if verdict == "violated":
                found.faults.append(f"{folder}: violated")
            found.left["a guest's overlay in a run folder"] += len(list(folder.rglob("*.qcow2")))

    def locks(self) -> list[str]:
        """Return the locks of the cache that are held, of which there must be none between attempts."""
        held = []
        with ExitStack() as stack:
            for file in (self._cache.root / "locks").glob("*"):
                handle = os.open(file, os.O_RDONLY)
                stack.callback(os.close, handle)
                if not locked(handle, fcntl.LOCK_EX):
                    held.append(file.name)
        return held

    def growing(self) -> list[str]:
        """Return what builders left that died; the next that builds removes it."""
        return [each.name for each in self._cache.building.glob("*")]


_PARTS: dict[str, tuple[Callable[[Abuse, Found], None], int]] = {
    "cycles": (Abuse.cycles, 1000 // _CYCLES_OF_A_CHECK),
    "kill-qemu": (Abuse.kill_qemu, 50),
    "kill-klp": (Abuse.kill_klp, 50),
    "full-runs": (Abuse.full_disk_of_runs, 10),
    "full-builds": (Abuse.full_disk_of_builds, 10),
    "two": (Abuse.two_at_once, 10),
    "stopped": (Abuse.stopped, 10),
}


@click.command()
@click.option("--only", type=click.Choice(list(_PARTS)), multiple=True, help="Do just this part.")
@click.option("--count", type=click.IntRange(min=1), help="Times of each part, in place of its own number.")
@click.option("--seed", type=int, help="Of every random moment and size; printed if it is not given.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="Where all is done, on the disk of klp's cache; kept, so that the next day need not save a guest.",
)
@click.option("-k", "--kernel", default="6.12", show_default=True, help="A kernel of `klp kernels`.")
def main(
    *, only: tuple[str, ...], count: int | None, seed: int | None, folder: Path | None, kernel: str
) -> None:
    """Abuse klp and the machine under it, and tell what that left behind; a whole day takes hours."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}")
    # However it is ended, also as a job of a shell that ignores an interrupt, what was found is told.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: dict[str, tuple[int, Found]] = {}
    parent = cache_root(settings.load().cache).parent
    place = folder or Path(tempfile.mkdtemp(prefix=".klp-abuse-", dir=parent))
    place.mkdir(exist_ok=True)
    abuse = Abuse(place, kernel, random.Random(seed))
    try:
        abuse.prepare()
        for name in only or _PARTS:
            part, usual = _PARTS[name]
            found[name] = (0, Found())
            for number in range(1, (count or usual) + 1):
                _once(abuse, part, found[name][1])
                found[name] = (number, found[name][1])
                click.echo(f"{name} {number}: {_counted(found[name][1].codes)}", err=True)
    finally:
        abuse.end()
        Console(width=None if sys.stdout.isatty() else 160).print(_table(found))
    faults = [line for _, each in found.values() for line in each.faults]
    for line in faults:
        click.echo(line)
    if faults:
        raise click.ClickException(f"{len(faults)} faults; what klp said is in {place}")
    if not folder:
        remove_tree(place)


def _once(abuse: Abuse, part: Callable[[Abuse, Found], None], found: Found) -> None:
    part(abuse, found)
    found.faults += [f"lock held: {each}" for each in abuse.locks()]
    found.left["an unfinished entry of the cache"] += len(abuse.growing())


def _table(found: dict[str, tuple[int, Found]]) -> Table:
    """Return what each part did and found."""
    shown = Table("part", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("times", "exit codes", "recorded", "left over", "faults"):
        shown.add_column(head)
    for name, (times, each) in found.items():
        counted = [_counted(of) for of in (each.codes, each.verdicts, each.left)]
        shown.add_row(name, str(times), *counted, str(len(each.faults)))
    return shown


def _counted(what: Counter[str]) -> str:
    return ", ".join(f"{number} x {name}" for name, number in what.most_common() if number) or "nothing"


if __name__ == "__main__":
    main()
