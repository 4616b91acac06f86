# SPDX-License-Identifier: Apache-2.0
"""A disk that fills is told as that, by name and with exit code 4; what was written stays whole."""

from __future__ import annotations

import errno
import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from klp.cli.main import main
from klp.diskspace import disk_full, is_full, room_on
from klp.errors import BuildFailed, DiskFull, ExitCode, HostLacks
from klp.files import write_whole
from klp.process import run
from klp.trace.events import Taint
from klp.trace.store import EventStore
from tests.unit.smalldisks import on_small_disk
from tests.unit.test_store import cancel, header


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Have the kernel refuse to make a file larger (RLIMIT_FSIZE), as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# --- a trace that is recorded --------------------------------------------------------------------------


def test_what_was_recorded_is_kept_and_the_disk_is_named(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventStore(file) as store, files_no_larger_than(2000):
        store.append([header()])
        for number in range(1, 100):  # as the thread does that follows a probe: nothing is raised there
            store.append([cancel(number)])
        with pytest.raises(DiskFull, match=r"events\.jsonl: no space left \(\d+ MiB free on /") as caught:
            store.check()
    assert caught.value.exit_code is ExitCode.HOST_LACKS
    assert str(tmp_path) in str(caught.value.hint)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept[0]["type"] == "header"
    assert [each["seq"] for each in kept] == list(range(len(kept)))
    assert 1 < len(kept) < 100


def test_nothing_is_written_behind_what_is_missing(tmp_path: Path) -> None:
    """A later line that is short enough would hide that one before it is not there."""
    file = tmp_path / "events.jsonl"
    with EventStore(file) as store:
        store.append([header()])
        with files_no_larger_than(file.stat().st_size + 10):
            store.append([cancel(1)])
        store.append([cancel(2)])
        assert len(file.read_text().splitlines()) == 1


def test_what_klp_itself_sees_is_not_lost_in_silence(tmp_path: Path) -> None:
    with (
        EventStore(tmp_path / "events.jsonl") as store,
        files_no_larger_than(100),
        pytest.raises(DiskFull),
    ):
        store.record("klp", Taint, flags="K" * 9000)


_RECORDS = """
import sys
from pathlib import Path
from klp.trace.store import EventStore
from klp.errors import KlpError
from tests.unit.test_store import cancel, header
folder = Path(sys.argv[1])
with EventStore(folder / "events.jsonl") as store:
    store.append([header()])
    for number in range(1, 5000):
        store.append([cancel(number)])
    try:
        store.check()
    except KlpError as error:
        print(int(error.exit_code), error.message)
lines = (folder / "events.jsonl").read_bytes().split(b"\\n")
print(len(lines) > 10, lines[-1])
"""


def test_a_trace_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    done = on_small_disk(tmp_path / "disk", 256, _RECORDS)
    disk = tmp_path / "disk"
    said, kept = done.stdout.splitlines()
    assert said.startswith(f"4 {disk}/events.jsonl: no space left (0 MiB free on {disk})")
    assert kept == "True b''"


# --- an image that is built ----------------------------------------------------------------------------

_UNPACKS = """
import sys, tarfile, io
from pathlib import Path
from klp.errors import KlpError
from klp.images.cache import Cache
from klp.paths import CacheLayout
from klp.process import pipe
from klp.progress import Silent
cache = Cache(CacheLayout(Path(sys.argv[1]) / "cache"), Silent())
def build(into):
    pipe(["cat", sys.argv[2]], ["tar", "--extract", "--file=-", f"--directory={into}"])
try:
    cache.ensure("guest", {"a": "1"}, build)
except KlpError as error:
    print(int(error.exit_code), error.message)
print(list(cache.layout.building.glob("*")), cache.entries())
"""


def test_an_image_on_a_disk_that_is_really_full_is_told_at_once(tmp_path: Path) -> None:
    """tar tells of each file that it cannot write, more than a pipe holds: who does not listen hangs."""
    source = tmp_path / "source" / "a/folder/as/long/as/those/of/the/headers/of/a/linux/kernel/are"
    source.mkdir(parents=True)
    for number in range(3000):
        (source / f"a_header_with_a_name_{number}.h").write_bytes(bytes(4096))
    archive = tmp_path / "root.tar"
    run(["tar", "-C", tmp_path / "source", "-cf", archive, "."])
    done = on_small_disk(tmp_path / "disk", 1024, _UNPACKS, str(archive))
    said, left = done.stdout.splitlines()
    assert said.startswith(f"4 {tmp_path / 'disk'}/cache: no space left (")
    assert left == "[] []"


_SAVES = """
import sys
from pathlib import Path
from klp.errors import KlpError, QemuGone
from klp.images.cache import Cache
from klp.paths import CacheLayout
from klp.progress import Silent
cache = Cache(CacheLayout(Path(sys.argv[1]) / "cache"), Silent())
def build(into):
    try:
        (into / "memory").write_bytes(bytes(int(sys.argv[2])))
    except OSError:
        pass
    raise QemuGone("QEMU was killed by signal 7: it said nothing")
try:
    cache.ensure("snapshot", {"a": "1"}, build)
except KlpError as error:
    print(int(error.exit_code), error.message)
"""


@pytest.mark.parametrize(
    ("size", "says"),
    [(64 << 20, "4 {}/cache: no space left"), (1, "3 QEMU was killed by signal 7: it said nothing")],
)
def test_a_guest_that_dies_for_want_of_room_is_told_as_that(tmp_path: Path, size: int, says: str) -> None:
    """QEMU maps its memory: it gets a signal, and no error, for a page that the disk has no room for."""
    done = on_small_disk(tmp_path / "disk", 16 << 10, _SAVES, str(size))
    assert done.stdout.startswith(says.format(tmp_path / "disk"))


# --- whatever else is written --------------------------------------------------------------------------


def test_a_file_that_was_there_stays_when_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("before")
    with files_no_larger_than(10), pytest.raises(OSError, match="too large"):
        write_whole(file, bytes(100))
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_only_what_is_of_the_disk_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), room_on(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_full(OSError(number, "x"))
        with pytest.raises(HostLacks, match=f"^{tmp_path}/new: no space left"), room_on(tmp_path / "new"):
            raise OSError(number, "x")
    assert "needs more" in disk_full(tmp_path, what="needs more").message


def test_a_command_that_met_it_has_words_for_it(tmp_path: Path) -> None:
    """qemu-img, tar, a compiler: their exit status says nothing of it."""
    words = "cc1: fatal error: error writing to x.s: No space left on device"
    with pytest.raises(DiskFull), room_on(tmp_path):
        run(["sh", "-c", f"echo '{words}' >&2; exit 1"])
    with pytest.raises(DiskFull), room_on(tmp_path):
        raise BuildFailed("x.c:1: error", output=words)
    with pytest.raises(BuildFailed), room_on(tmp_path):
        raise BuildFailed("x.c:1: error", output="x.c:1: error: expected ;")


def test_dev_full(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space left"), room_on(tmp_path):
        Path("/dev/full").write_bytes(b"x")


def test_the_command_ends_with_4_whoever_met_the_full_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full() -> int:
        Path("/dev/full").write_bytes(b"x")
        raise AssertionError

    monkeypatch.setattr("klp.cli.main._invoke", full)
    monkeypatch.setattr(sys, "argv", ["klp", "runs"])
    monkeypatch.setenv("KLP_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ExitCode.HOST_LACKS
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "no space left" in said
    assert "Traceback" not in said
