# SPDX-License-Identifier: Apache-2.0
"""What reaches `klp` from outside: a terminal that closes, and one that `nohup` said is to be outlived."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from klp import paths, process
from klp.arch import DEFAULT
from klp.lab import keeper
from klp.model import Accelerator
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine
from klp.vm.request import MachineRequest
from klp.vm.spec import MachineSpec
from tests.unit.test_process import await_end

# `klp`, at work when a signal comes: it goes on, or is interrupted; a command that it runs tells which
# signals that one ignores.
_AT_WORK = """
import os, signal, sys
import klp.cli.main as main
from klp.process import run

def work():
    os.kill(os.getpid(), int(sys.argv[1]))
    print(run(["grep", "SigIgn", "/proc/self/status"]).stdout.split()[1], flush=True)
    return 0

main._invoke = work
main.main()
"""


def at_work(number: signal.Signals, *, ignored: bool) -> subprocess.CompletedProcess[str]:
    def ignore() -> None:
        if ignored:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.run(
        [sys.executable, "-c", _AT_WORK, str(int(number))],
        preexec_fn=ignore, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_was_ignored_from_the_start_stays_so_here_and_below(number: signal.Signals) -> None:
    done = at_work(number, ignored=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout, 16) & 1 << number - 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_others_interrupt(number: signal.Signals) -> None:
    done = at_work(number, ignored=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.fixture
def interrupted_at_start(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have an interrupt come when a child was started and nobody has it yet: the children's numbers."""
    started: list[int] = []
    start = subprocess.Popen.__init__

    def interrupting(self: subprocess.Popen[str], *words: Any, **more: Any) -> None:
        start(self, *words, **more)
        started.append(self.pid)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(process.subprocess.Popen, "__init__", interrupting)
    return started


def test_an_interrupt_as_a_keeper_starts_leaves_none(
    interrupted_at_start: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "guests_root", lambda: tmp_path / "guests")
    monkeypatch.setattr(keeper, "_KEEPER", "import sys; sys.stdin.close(); import time; time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        keeper.up("lab", cast("MachineRequest", "a request"))
    [pid] = interrupted_at_start
    await_end(pid)


def test_an_interrupt_as_qemu_starts_leaves_none(
    interrupted_at_start: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klp.vm.machine.argv", lambda spec: ["sleep", "600"])
    nowhere = tmp_path / "none"
    spec = MachineSpec(DEFAULT, nowhere, nowhere, nowhere, nowhere, tmp_path / "console.log")
    with pytest.raises(KeyboardInterrupt), Machine(spec, tmp_path / "log", deadlines(Accelerator.TCG)):
        pass
    [pid] = interrupted_at_start
    await_end(pid)
