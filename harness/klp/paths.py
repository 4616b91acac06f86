# SPDX-License-Identifier: Apache-2.0
"""Where klp reads its own data and where it writes: each root folder is chosen here, and nowhere else.

The names inside a folder that several rooms read, the cache or a run folder, stand here too. What only one
room writes and reads, such as the files of a cache entry or of a saved guest, that room names itself.
Nothing here makes a folder: whoever fills it does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from klp.errors import HostLacks

PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = PACKAGE.parent.parent
# A wheel carries the data folders inside the package (pyproject.toml, force-include).
PROJECT = _CHECKOUT if (_CHECKOUT / "vm-images").is_dir() else PACKAGE / "data"

IMAGE_DEFINITIONS = PROJECT / "vm-images"
GUEST_FILES = IMAGE_DEFINITIONS / "guest"
BUILD_HOOKS = IMAGE_DEFINITIONS / "hooks"
PATCHES = PROJECT / "patches"
PROBE_SOURCES = PROJECT / "probes"
SAMPLE_PLANS = PACKAGE / "modules" / "samples.toml"
HOST_PACKAGES = PACKAGE / "host-packages.txt"
# Programs that a check has a guest run.
IN_GUEST = PACKAGE / "check" / "in_guest"
UNOBSERVABLE = PACKAGE / "testing" / "unobservable.toml"
# The file that `make test` records its tests' verdicts in, and `klp coverage` reads if none is named.
VERDICTS = Path("build") / "verdicts.jsonl"


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Return names in their order, no two alike: of equal ones the second ends in ``-2``, and so on."""
    found: list[str] = []
    for name in names:
        tries = (name if number == 1 else f"{name}-{number}" for number in range(1, len(names) + 2))
        found.append(next(each for each in tries if each not in found))
    return tuple(found)


def probe_files() -> list[Path]:
    """Return every file that the probes need in a guest."""
    return sorted([*PROBE_SOURCES.glob("*.py"), *PROBE_SOURCES.glob("*.bpf.c")])


def config_file() -> Path:
    """Return where a user's settings are read from, whether or not the file exists.

    Raises:
        HostLacks: this user has no home folder; of the next two as well.
    """
    if named := os.environ.get("KLP_CONFIG"):
        return Path(named)
    with _at_home():
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "klp" / "config.toml"


def cache_root(setting: str = "") -> Path:
    """Return the folder of built images: the setting, else klp/ in the XDG cache folder."""
    with _at_home():
        chosen = Path(setting) if setting else platformdirs.user_cache_path("klp")
        return chosen.expanduser().absolute()


def runs_root(setting: str = "") -> Path:
    """Return the folder of run folders: the setting, else klp/runs/ in the XDG state folder."""
    with _at_home():
        chosen = Path(setting) if setting else platformdirs.user_state_path("klp") / "runs"
        return chosen.expanduser().absolute()


@contextmanager
def _at_home() -> Iterator[None]:
    """Tell a user without a home folder as such: in a container one may run as a mere number."""
    try:
        yield
    except RuntimeError:
        raise HostLacks(
            f"user {os.getuid()} has no home folder: HOME is not set, nor an entry in passwd(5)",
            hint="set HOME to a folder that can be written",
        ) from None


def guests_root() -> Path:
    """Return the folder with one folder for each guest that `klp up` keeps alive."""
    # The runtime folder is emptied when its user logs out or the host starts anew, as the guests are ended.
    # With sudo or in a container the variable may name a folder that is not there, or another user's.
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and Path(runtime).stat().st_uid == os.getuid():
        return Path(runtime) / "klp" / "guests"
    return Path(tempfile.gettempdir()) / f"klp-{os.getuid()}" / "guests"


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The cache's folders. An entry is a folder ``KIND-DIGEST`` that appears whole or not at all."""

    root: Path

    def entry(self, kind: str, digest: str) -> Path:
        """A finished entry, whether or not it exists."""
        return self.root / f"{kind}-{digest}"

    def lock(self, kind: str, digest: str) -> Path:
        """Held while that entry is being built."""
        return self.root / "locks" / f"{kind}-{digest}.lock"

    @property
    def building(self) -> Path:
        """Where unfinished entries grow; anything in it is rubbish once its builder is dead."""
        return self.root / "building"

    @property
    def modules(self) -> Path:
        """Modules that were built before, a folder for each build; may be removed at any time."""
        return self.root / "modules"

    @property
    def variations(self) -> Path:
        """What varies by itself on a kernel, a file each; may be removed at any time."""
        return self.root / "variations"

    @property
    def tables(self) -> Path:
        """What `klp query` made of run folders, a folder each; may be removed at any time."""
        return self.root / "tables"

    @property
    def workloads(self) -> Path:
        """What calls which function of which kernel, as checks found out; may be removed at any time."""
        return self.root / "workloads"

    @property
    def durations(self) -> Path:
        """How long pieces of work took the last time; may be removed at any time."""
        return self.root / "durations.json"

    @property
    def ssh_key(self) -> Path:
        """The private key that opens every guest of this cache."""
        return self.root / "ssh" / "id_ed25519"

    @property
    def host_key(self) -> Path:
        """The private key by which the guests of this cache are known."""
        return self.root / "ssh" / "host_ed25519"

    @property
    def newest(self) -> Path:
        """The newest releases that the archive was seen to have, and those that were asked for."""
        return self.root / "newest.json"

    @property
    def accelerator(self) -> Path:
        """The verdict on KVM, with the boot of the host it was reached in."""
        return self.root / "accelerator.json"


@dataclass(frozen=True, slots=True)
class RunLayout:
    """The files of one run folder.

    A guest that is lost is followed by another, and each repetition has its own; what belongs to the second
    guest is numbered ``-2``.
    """

    root: Path
    guest: int = 1

    def of_guest(self, number: int) -> RunLayout:
        """Return the same folder for the run's `number`-th guest, counted from 1."""
        return RunLayout(self.root, number)

    def _own(self, name: str) -> Path:
        stem, dot, suffix = name.partition(".")
        return self.root / (name if self.guest == 1 else f"{stem}-{self.guest}{dot}{suffix}")

    @property
    def summary(self) -> Path:
        """What was run on what, and the verdicts."""
        return self.root / "run.json"

    @property
    def events(self) -> Path:
        """Every traced event, one JSON object a line, in order of arrival."""
        return self._own("events.jsonl")

    @property
    def console(self) -> Path:
        """The guest's serial console from the first byte."""
        return self._own("console.log")

    @property
    def dmesg(self) -> Path:
        """The guest's kernel log, with its canaries."""
        return self._own("dmesg.log")

    @property
    def qemu_log(self) -> Path:
        """What QEMU itself said."""
        return self._own("qemu.log")

    @property
    def pending(self) -> Path:
        """The tasks that held a stuck transition, with kernel stacks; only after one."""
        return self._own("pending.txt")

    @property
    def modules(self) -> Path:
        """The modules that were loaded, as built."""
        return self.root / "modules"

    @property
    def disk(self) -> Path:
        """The guest's writable overlay; removed when the guest ends."""
        return self._own("overlay.qcow2")


@dataclass(frozen=True, slots=True)
class SelftestsLayout:
    """The run folder of `klp selftests`: a folder for each kernel, and in it one for each script.

    A kernel's folder is called after its release; a second one of the same release is numbered ``-2``.
    """

    root: Path

    @property
    def summary(self) -> Path:
        """What was run on what, and how each case ended."""
        return self.root / "selftests.json"

    def build(self, kernel: str) -> Path:
        """The kernel's test modules, as built, and the archive that guests get."""
        return self.root / kernel / "build"

    def script(self, kernel: str, name: str) -> RunLayout:
        """The trace, console and kernel log of one script's guest."""
        return RunLayout(self.root / kernel / name.removesuffix(".sh"))

    def output(self, kernel: str, name: str) -> Path:
        """All that the script wrote."""
        return self.script(kernel, name).root / "output.txt"


@dataclass(frozen=True, slots=True)
class CheckLayout:
    """The run folder of `klp check`: a folder for each kernel, in it for each livepatch, then scenario."""

    root: Path

    @property
    def summary(self) -> Path:
        """What was checked on what, and what came of each scenario."""
        return self.root / "check.json"

    def kernel(self, kernel: str) -> Path:
        """All that ran on one kernel."""
        return self.root / kernel

    def modules(self, kernel: str, livepatch: str) -> Path:
        """The modules of one livepatch, as built for a kernel."""
        return self.root / kernel / livepatch / "modules"

    def scenario(self, kernel: str, livepatch: str, scenario: str, repetition: int = 1) -> RunLayout:
        """The run folder of one scenario; a repetition after the first is numbered ``.2``."""
        name = scenario if repetition == 1 else f"{scenario}.{repetition}"
        return RunLayout(self.root / kernel / livepatch / name)
