# SPDX-License-Identifier: Apache-2.0
"""The door to subprocess: what children get, how their failures are told, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from klp import process
from klp.errors import HostLacks
from klp.process import CommandFailed, environment, pipe, run, spawn
from klp.sidework import beside
from klp.waiting import wait_until


def sh(script: str, *words: str) -> list[str]:
    return ["sh", "-c", script, "sh", *words]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def pid_in(file: Path) -> int:
    def look() -> str | None:
        text = file.read_text() if file.exists() else ""
        return text if text.endswith("\n") else None

    return int(wait_until(look, what="pid", timeout_s=20, every_s=0.01))


def await_end(pid: int) -> None:
    wait_until(lambda: not alive(pid), what="end", timeout_s=20, every_s=0.01)


# --- run --------------------------------------------------------------------------------------------


def test_run_returns_both_streams() -> None:
    done = run(sh("echo out; echo err >&2"))
    assert (done.status, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_run_without_check_returns_the_status() -> None:
    assert run(sh("exit 3"), check=False).status == 3


def test_a_failure_is_told_by_its_last_line_and_its_command() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(sh("echo first >&2; echo 'the reason' >&2; exit 7"))
    assert caught.value.message == "sh exited 7: the reason"
    assert caught.value.status == 7
    assert caught.value.output == "first\nthe reason\n"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("by hand: sh -c 'echo first")


def test_a_failure_without_a_word() -> None:
    with pytest.raises(CommandFailed, match=r"^sh died of SIGTERM: it said nothing$"):
        run(sh("kill -TERM $$"))


def test_a_failure_that_was_told_on_the_wrong_stream() -> None:
    with pytest.raises(CommandFailed, match=r"^sh exited 1: sorry$"):
        run(sh("echo sorry; exit 1"))


def test_a_missing_command() -> None:
    with pytest.raises(HostLacks, match=r"^no-such-command is not installed here$"):
        run(["no-such-command", "x"])


def test_a_missing_folder_is_not_taken_for_a_missing_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        run(["true"], cwd=tmp_path / "none")
    assert caught.value.filename == tmp_path / "none"


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_standard_input_is_shut_or_given(tmp_path: Path) -> None:
    script = "from klp.process import run; print(repr(run(['cat']).stdout))"
    done = subprocess.run(
        [sys.executable, "-c", script], input="a key", capture_output=True, text=True, check=True
    )
    assert done.stdout == "''\n"
    file = tmp_path / "f"
    file.write_text("given")
    with file.open("rb") as stream:
        assert run(["cat"], stdin=stream).stdout == "given"


def test_a_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    # The grandchild would outlive its parent, and hold the pipe open.
    script = 'sleep 600 & echo $! >"$1"; wait'
    with pytest.raises(CommandFailed, match=r"^sh died of SIGKILL: no end within 0\.5 s$"):
        run(sh(script, str(tmp_path / "pid")), timeout_s=0.5)
    await_end(pid_in(tmp_path / "pid"))


def test_an_interrupt_ends_the_whole_group(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    def interrupt() -> None:
        pid_in(file)
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        run(sh('sleep 600 & echo $! >"$1"; wait', str(file)))
    helper.join()
    await_end(pid_in(file))


@pytest.fixture
def interrupted_at_start(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have an interrupt come when a child was started and nobody has it yet: the children's numbers."""
    started: list[int] = []
    start = subprocess.Popen.__init__

    def interrupting(self: subprocess.Popen[str], *words: object, **more: object) -> None:
        start(self, *words, **more)
        started.append(self.pid)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess.Popen, "__init__", interrupting)
    return started


@pytest.mark.parametrize("kind", ["run", "pipe"])
def test_an_interrupt_that_comes_as_a_child_is_started_leaves_none(
    interrupted_at_start: list[int], kind: str
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(["sleep", "600"]) if kind == "run" else pipe(["sleep", "600"], ["sleep", "600"])
    assert signal.getsignal(signal.SIGINT) is before
    assert len(interrupted_at_start) == (1 if kind == "run" else 2)
    for pid in interrupted_at_start:
        await_end(pid)


def test_a_child_that_cannot_be_started_holds_no_signal() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(HostLacks):
        run(["no-such-command"])
    assert signal.getsignal(signal.SIGINT) is before


# --- environment ------------------------------------------------------------------------------------


def test_little_of_the_users_environment_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "LANG", "LC_ALL", "PAGER", "KBUILD_OUTPUT", "ARCH", "TAR_OPTIONS", "CC"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    seen = dict(line.partition("=")[::2] for line in run(["env"]).stdout.splitlines())
    assert not {"MAKEFLAGS", "LANG", "PAGER", "KBUILD_OUTPUT", "ARCH", "TAR_OPTIONS", "CC"} & set(seen)
    assert seen["LC_ALL"] == "C.UTF-8"
    assert seen["HTTPS_PROXY"] == "http://proxy"


def test_sbin_is_on_the_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin")
    assert environment()["PATH"] == "/usr/sbin:/usr/bin:/sbin"
    monkeypatch.delenv("PATH")
    assert environment()["PATH"].split(":")[-2:] == ["/usr/sbin", "/sbin"]


def test_extra_variables_are_on_top() -> None:
    assert environment({"LC_ALL": "de_DE", "X": "y"})["LC_ALL"] == "de_DE"
    assert run(sh("echo $X"), env={"X": "y"}).stdout == "y\n"


def test_which_looks_where_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "my-tool"
    mine.write_text("#!/bin/sh\necho mine\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert process.which("my-tool") == str(mine)
    assert run(["my-tool"]).stdout == "mine\n"
    assert process.which("no-such-command") is None


# --- pipe -------------------------------------------------------------------------------------------


def test_pipe_returns_what_the_producer_complained(tmp_path: Path) -> None:
    said = pipe(sh("echo data; echo careful >&2"), sh('cat >"$1"', str(tmp_path / "f")))
    assert said == "careful\n"
    assert (tmp_path / "f").read_text() == "data\n"


def test_pipe_tells_a_producer_that_fails() -> None:
    with pytest.raises(CommandFailed, match=r"^sh exited 3: no source$") as caught:
        pipe(sh("echo half; echo no source >&2; exit 3"), ["cat"])
    assert caught.value.status == 3


def test_pipe_tells_a_consumer_that_fails_not_the_sigpipe_it_causes() -> None:
    with pytest.raises(CommandFailed, match=r"^sh exited 2: disk full$"):
        pipe(["yes"], sh("echo disk full >&2; exit 2"))


@pytest.mark.parametrize("side", [0, 1])
def test_pipe_with_a_missing_side(side: int) -> None:
    sides = [["cat"], ["cat"]]
    sides[side] = ["no-such-command"]
    with pytest.raises(HostLacks, match=r"^no-such-command is not installed here$"):
        pipe(*sides)


def test_pipe_interrupted_leaves_neither(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def interrupt() -> None:
        pid_in(first)
        pid_in(second)
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    stay = 'echo $$ >"$1"; exec sleep 600'
    with pytest.raises(KeyboardInterrupt):
        pipe(sh(stay, str(first)), sh(stay, str(second)))
    helper.join()
    await_end(pid_in(first))
    await_end(pid_in(second))


# --- spawn ------------------------------------------------------------------------------------------


def test_a_child_is_ended_with_all_it_started(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as said:
        child = spawn(
            sh('sleep 600 & echo $! >"$1"; echo begun >&2; wait', str(tmp_path / "pid")), stderr=said
        )
    inner = pid_in(tmp_path / "pid")
    assert child.status() is None
    assert not child.wait(0)
    child.end()
    child.end()
    assert child.status() == -signal.SIGKILL
    assert child.wait(0)
    await_end(inner)
    assert (tmp_path / "log").read_text() == "begun\n"


def test_a_child_gets_only_the_descriptors_it_is_given(tmp_path: Path) -> None:
    mine, theirs = os.pipe()
    other, _keep = os.pipe()
    with (tmp_path / "log").open("wb") as said:
        script = f"[ ! -e /proc/self/fd/{other} ] && echo yes >/proc/self/fd/{theirs}"
        child = spawn(sh(script), stderr=said, pass_fds=[theirs])
        assert child.wait(20)
    os.close(theirs)
    assert os.read(mine, 10) == b"yes\n"
    for each in (mine, other, _keep):
        os.close(each)


_PARENT = """
import sys
from pathlib import Path
from klp.process import spawn
with open(sys.argv[1] + ".log", "wb") as said:
    child = spawn(["sleep", "600"], stderr=said, die_with_parent=sys.argv[2] == "yes")
Path(sys.argv[1]).write_text(f"{child.pid}\\n")
sys.stdin.read()
"""


@pytest.mark.parametrize("bound", [True, False])
def test_a_child_dies_with_its_parent_unless_it_is_a_keeper(
    tmp_path: Path, root: Path, bound: bool
) -> None:
    file = tmp_path / "pid"
    argv = [sys.executable, "-c", _PARENT, str(file), "yes" if bound else "no"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=root) as parent:
        child = pid_in(file)
        parent.kill()  # no chance to clear up
        parent.wait()
        if bound:
            await_end(child)
        else:
            assert alive(child)
            os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_is_gone_already_never_begins(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # whoever was told to the child is not its parent
    with (tmp_path / "log").open("wb") as said:
        child = spawn(sh("echo begun"), stderr=said)
        assert child.wait(20)
    assert (tmp_path / "log").read_text() == ""


def test_spawn_of_a_missing_command(tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("wb") as said,
        pytest.raises(HostLacks, match=r"^no-such-command is not installed here$"),
    ):
        spawn(["no-such-command"], stderr=said)


def test_replace_of_a_missing_command() -> None:
    with pytest.raises(HostLacks, match=r"^no-such-command is not installed here$"):
        process.replace(["no-such-command"])


def test_what_is_required() -> None:
    process.require()
    process.require("sh", "cat")
    with pytest.raises(HostLacks, match=r"^no-such-command is not installed here$"):
        process.require("sh", "no-such-command", "neither-this")


def test_a_listener_hears_each_line_while_the_command_runs(tmp_path: Path) -> None:
    heard: list[str] = []
    told = tmp_path / "told"

    def listen(line: str) -> None:
        heard.append(line)
        told.write_text(line)

    # It goes on only once what it said first was heard.
    script = (
        f"echo one >&2; until [ -e {told} ]; do :; done; echo out; echo two >&2; printf three >&2; exit 3"
    )
    done = process.run(["sh", "-c", script], check=False, listen=listen, timeout_s=60)
    assert heard == ["one", "two", "three"]
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "one\ntwo\nthree")
    heard.clear()
    assert process.pipe(["sh", "-c", "echo a >&2; echo b"], ["cat"], listen=listen) == "a\n"
    assert heard == ["a"]


def test_who_is_listened_to_is_ended_at_its_deadline() -> None:
    heard: list[str] = []
    with pytest.raises(CommandFailed, match="no end within"):
        process.run(["sh", "-c", "echo begun >&2; exec sleep 600"], listen=heard.append, timeout_s=0.5)
    assert heard == ["begun"]


def test_of_two_that_fail_the_one_that_began_it_is_named(tmp_path: Path) -> None:
    tar = ["tar", "--extract", f"--directory={tmp_path}"]
    with pytest.raises(CommandFailed, match=r"^sh exited 5: no archive$"):
        pipe(["sh", "-c", "echo no archive >&2; exit 5"], tar)


# --- beside -----------------------------------------------------------------------------------------


def test_work_beside_is_done_meanwhile_and_gives_its_result(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with beside(lambda: run(["cat", fifo]).stdout) as result:
        fifo.write_text("met")  # blocks until the other reads
        assert result() == "met"


def test_an_error_of_the_work_is_that_of_who_waits_for_it() -> None:
    with pytest.raises(CommandFailed, match="exited 3"), beside(lambda: run(sh("exit 3"))) as result:
        result()


@pytest.mark.parametrize("command", [run, lambda argv: pipe(argv, ["cat"])], ids=["run", "pipe"])
def test_an_error_ends_the_commands_of_the_work_beside(tmp_path: Path, command: Any) -> None:
    told, after = tmp_path / "pid", tmp_path / "after"

    def work() -> None:
        try:
            command(sh(f"echo $$ >{told}; exec sleep 1000"))
        finally:
            run(["touch", after])

    def interrupt() -> None:
        pid_in(told)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), beside(work):
        interrupt()
    await_end(pid_in(told))
    assert not after.exists()


def test_both_streams_can_be_listened_to() -> None:
    out: list[str] = []
    err: list[str] = []
    script = "echo one; echo two >&2; echo three; exit 3"
    done = process.run(
        ["sh", "-c", script], check=False, listen=err.append, listen_out=out.append, timeout_s=60
    )
    assert (out, err) == (["one", "three"], ["two"])
    assert (done.status, done.stdout, done.stderr) == (3, "one\nthree\n", "two\n")
    done = process.run(["sh", "-c", script], check=False, listen_out=out.append)
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
