# SPDX-License-Identifier: Apache-2.0
"""Tables that queries make of runs: two that ask at once make each once, and none goes while it is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from klp.errors import DiskFull, HostLacks
from klp.files import digest_of
from klp.paths import CacheLayout
from klp.records.database import _unwritable
from klp.records.tables import forget
from tests.unit.runfolders import sample, write_run
from tests.unit.smalldisks import on_small_disk

_ASKS = """
import sys
from pathlib import Path
from klp.paths import CacheLayout
from klp.progress import Silent
from klp.records.reading import read_run
from klp.records.tables import open_tables
root, cache = Path(sys.argv[1]), CacheLayout(Path(sys.argv[2]))
database = open_tables([read_run(each) for each in sorted(root.iterdir())], cache, Silent(), skip=False)
print("open", flush=True)
sys.stdin.readline()
print(database.ask("SELECT count(*) FROM events").rows[0][0], flush=True)
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("a-6.12", "b-6.12", "c-6.12"):
        write_run(tmp_path / "runs" / name, sample())
    return tmp_path / "runs"


def asking(runs: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _ASKS, str(runs), str(cache)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_queries_at_once_all_have_an_answer(runs: Path, tmp_path: Path) -> None:
    queries = [asking(runs, tmp_path / "cache") for _ in range(4)]
    answers = {each.communicate("\n")[0] for each in queries}
    assert len(answers) == 1
    assert [each.returncode for each in queries] == [0] * 4
    shelves = list((tmp_path / "cache" / "tables").iterdir())
    assert len(shelves) == 3
    assert all(len(list(each.iterdir())) == 1 for each in shelves)  # nothing half made


def test_what_a_query_reads_stays_though_its_run_changes_or_goes(runs: Path, tmp_path: Path) -> None:
    """A view reads its files when it is asked, which may be long after it was made."""
    cache = CacheLayout(tmp_path / "cache")
    with asking(runs, cache.root) as query:
        assert query.stdout is not None
        assert query.stdout.readline() == "open\n"
        os.utime(runs / "a-6.12" / "run.json", (1, 1))  # as if it were another
        with asking(runs, cache.root) as later:
            again, _ = later.communicate("\n")
            assert later.returncode == 0
        forget(runs / "b-6.12", cache)
        answer, _ = query.communicate("\n")
        assert query.returncode == 0
    assert int(answer) == int(again.splitlines()[1])
    forget(runs / "b-6.12", cache)  # nobody reads it any more
    assert not (cache.tables / digest_of({"folder": str((runs / "b-6.12").resolve())})).exists()


def test_what_duckdb_meets_on_a_disk_is_the_hosts(tmp_path: Path) -> None:
    full = duckdb.IOException("IO Error: Could not write all bytes to file: No space left on device")
    assert isinstance(_unwritable(full, tmp_path), DiskFull)
    locked = duckdb.IOException('IO Error: Could not set lock on file "x": Conflicting lock is held')
    other = _unwritable(locked, tmp_path)
    assert isinstance(other, HostLacks)
    assert "Could not set lock on file" in other.message


def test_tables_on_a_disk_that_is_really_full(runs: Path, tmp_path: Path) -> None:
    program = _ASKS.replace("root, cache = Path(sys.argv[1]), CacheLayout(Path(sys.argv[2]))", """
from klp.errors import KlpError
root, cache = Path(sys.argv[2]), CacheLayout(Path(sys.argv[1]))
def tell(kind, error, trace):
    print(int(error.exit_code), error.message)
    raise SystemExit(0)
sys.excepthook = tell
""")  # fmt: skip
    done = on_small_disk(tmp_path / "disk", 16, program, str(runs))
    assert done.stdout.startswith("4 "), done.stdout + done.stderr
    assert "no space left" in done.stdout
