# SPDX-License-Identifier: Apache-2.0
"""Programs of this machine, run or started: the only module that imports subprocess.

Commands get a small fixed environment and no standard input, so that a user's locale, pager or
MAKEFLAGS cannot change what they do, and nothing waits for a key.

Each runs in a session of its own. So Ctrl-C at the terminal reaches klp alone, which decides what ends and
in which order; and the process group has everything that a command started, to be killed with it.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Self, TypeVar, cast

from klp.errors import HostLacks, KlpError
from klp.sidework import check_wanted, ended_by

log = logging.getLogger(__name__)

T = TypeVar("T")

_PASSED_ON = (
    "HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "CURL_CA_BUNDLE",
)  # fmt: skip


class CommandFailed(KlpError):
    """A command ended in failure.

    Attributes:
        argv: the command, as it was started.
        status: its exit status; negative for a signal, as in subprocess.
        output: its standard error (and output, where that was captured), trimmed.
    """

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"exited {status}"
        last = output.strip().splitlines()[-1:] or ["it said nothing"]
        super().__init__(f"{argv[0]} {how}: {last[0]}", hint=f"by hand: {shlex.join(argv)}")
        self.argv = tuple(argv)
        self.status = status
        self.output = output


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished command left: exit status, and its streams as text."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that every command gets, with `extra` on top."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # A user's PATH often lacks sbin, where mke2fs and unshare's helpers live on Debian.
    path = kept.get("PATH", os.defpath)
    sbin = [folder for folder in ("/usr/sbin", "/sbin") if folder not in path.split(":")]
    return {**kept, "PATH": ":".join([path, *sbin]), "LC_ALL": "C.UTF-8", **(extra or {})}


def which(command: str) -> str | None:
    """Return where `command` is on the PATH that `run` uses, or None."""
    return shutil.which(command, path=environment()["PATH"])


def require(*commands: str) -> None:
    """Return if every one of `commands` can be run here.

    Raises:
        HostLacks: naming the first that cannot.
    """
    for command in commands:
        if which(command) is None:
            raise _missing([command])


def _missing(argv: Sequence[str]) -> HostLacks:
    return HostLacks(f"{argv[0]} is not installed here", hint="klp doctor names the package")


class SignalsHeld:
    """Holds back what would interrupt this process until whoever started a child can end it.

    A signal that comes between a child's start and the `try` that ends it would leave the child behind:
    under load that is not rare. Handlers are put off and not blocked (pthread_sigmask), for a child would
    inherit a blocked signal. Python runs handlers in the main thread alone: elsewhere nothing is held.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> Self:
        self._came: list[int] = []
        self._handlers: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._came.append(number)

    def release(self) -> None:
        """Let signals through again, and have those handled that came meanwhile."""
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, cast("Callable[[int, FrameType | None], object]", handler))
        while self._came:
            signal.raise_signal(self._came.pop(0))

    def __exit__(self, *exc: object) -> None:
        self.release()


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    cwd: Path | None = None,
    stdin: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    listen: Callable[[str], None] | None = None,
    listen_out: Callable[[str], None] | None = None,
) -> Completed:
    """Run a command to its end and return what it left.

    Args:
        listen: gets each line of its standard error as it comes, in a thread of its own.
        listen_out: the same of its standard output.

    Raises:
        CommandFailed: it failed and `check` is set, or it outlasted `timeout_s`.
        HostLacks: there is no such command here.
    """
    words = [str(word) for word in argv]
    check_wanted()
    log.debug("+ %s", shlex.join(words))
    try:
        with SignalsHeld() as held, subprocess.Popen(
            words, cwd=cwd, env=environment(env), stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        ) as child:  # fmt: skip
            with _heard(child, "stderr", listen) as heard, _heard(child, "stdout", listen_out) as heard_out:
                stdout, stderr = _communicate(child, words, timeout_s, held)
            stdout, stderr = stdout or "".join(heard_out), stderr or "".join(heard)
    except FileNotFoundError as error:
        # Popen raises the same for a `cwd` that does not exist; then the file name is that folder's.
        if error.filename != words[0]:
            raise
        raise _missing(words) from None
    if check and child.returncode:
        raise CommandFailed(words, child.returncode, stderr or stdout)
    return Completed(tuple(words), child.returncode, stdout, stderr)


def _communicate(
    child: subprocess.Popen[str], words: list[str], timeout_s: float | None, held: SignalsHeld
) -> tuple[str, str]:
    """Wait for `child`; whatever ends the wait early also ends the child's whole group."""
    try:
        held.release()
        with ended_by(partial(_end_unless_over, child)):
            stdout, stderr = child.communicate(timeout=timeout_s)
        return stdout or "", stderr or ""
    except subprocess.TimeoutExpired:
        end_group(child)
        raise CommandFailed(words, -signal.SIGKILL, f"no end within {timeout_s:g} s") from None
    except BaseException:
        end_group(child)
        raise


@contextmanager
def _heard(
    child: subprocess.Popen[str], which: str, listen: Callable[[str], None] | None
) -> Iterator[list[str]]:
    """Have a child's stream listened to for a block that waits for its end; return its lines."""
    lines: list[str] = []
    if listen is None:
        yield lines
        return
    stream: IO[str] | None = getattr(child, which)
    setattr(child, which, None)  # so that `communicate` leaves it alone
    assert stream is not None

    def follow() -> None:
        for line in stream:
            lines.append(line)
            # Who listens may write to a disk that is full: the child would wait for ever to be heard on.
            with suppress(OSError):
                listen(line.rstrip("\n"))

    follower = threading.Thread(target=follow, name=f"hear {which} of {child.pid}", daemon=True)
    follower.start()
    try:
        yield lines
    finally:
        follower.join()
        stream.close()


def _end_unless_over(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        end_group(child)


def _nobody(line: str) -> None:
    del line


def end_group(child: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Kill a child that was started in a session of its own, with all it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("process group %d was gone already", child.pid)
    child.wait()


def pipe(
    producer: Sequence[str | Path],
    consumer: Sequence[str | Path],
    *,
    listen: Callable[[str], None] | None = None,
) -> str:
    """Run ``producer | consumer``; fail if either does. Returns the producer's standard error.

    Args:
        listen: gets each line of the producer's standard error as it comes, in a thread of its own.

    Raises:
        CommandFailed: naming whichever failed first.
        HostLacks: one of the two is not installed.
    """
    left, right = ([str(word) for word in side] for side in (producer, consumer))
    check_wanted()
    log.debug("+ %s | %s", shlex.join(left), shlex.join(right))
    for words in (left, right):
        if which(words[0]) is None:
            raise _missing(words)
    env = environment()
    with (
        SignalsHeld() as held,
        subprocess.Popen(left, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, errors="replace",
                         start_new_session=True) as first,
        subprocess.Popen(right, env=env, stdin=first.stdout, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True, errors="replace",
                         start_new_session=True) as second,
        # Both are heard at once: who fills a pipe that nobody reads waits, and then the other waits for it.
        _heard(first, "stderr", listen or _nobody) as said,
        _heard(second, "stderr", _nobody) as refused,
    ):  # fmt: skip
        try:
            held.release()
            assert first.stdout is not None
            first.stdout.close()  # so that the producer gets SIGPIPE when the consumer dies
            with ended_by(partial(_end_unless_over, first)):
                first.wait()
                second.wait()
        except BaseException:
            end_group(first)
            end_group(second)
            raise
    complaint, refusal = "".join(said), "".join(refused)
    # A dead consumer is why the producer's pipe broke; a consumer of nothing fails for the producer's sake.
    broken = first.returncode == -signal.SIGPIPE or "Broken pipe" in complaint
    if second.returncode and (broken or not first.returncode):
        raise CommandFailed(right, second.returncode, refusal)
    if first.returncode:
        raise CommandFailed(left, first.returncode, refusal + complaint)
    return complaint


class Child:
    """A long-lived child process in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def status(self) -> int | None:
        """Return its exit status (negative for a signal), or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it came in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Kill it with all it started, unless it has ended: its number may be another's by then."""
        if self._process.poll() is None:
            end_group(self._process)


# Runs between setpriv and the program; $0 is our process id. PR_SET_PDEATHSIG tells of a death to come
# only: if we were killed before setpriv had asked for it, another process is the parent by now, and nothing
# starts.
_BOUND = '[ "$PPID" = "$0" ] && exec "$@"'


def spawn(
    argv: Sequence[str | Path],
    *,
    stderr: IO[bytes],
    pass_fds: Iterable[int] = (),
    die_with_parent: bool = True,
) -> Child:
    """Start a long-lived child in a session of its own.

    Within `SignalsHeld`, for an interrupt may come before the child is anybody's to end.

    `die_with_parent` has the kernel kill it when the *thread* that called this ends
    (PR_SET_PDEATHSIG counts threads), so call it from a thread that outlives the child.

    Raises:
        HostLacks: there is no such command here.
    """
    words = [str(word) for word in argv]
    log.debug("+ %s", shlex.join(words))
    # By a program: a `preexec_fn` may deadlock in a process that has threads, as Python's manual warns.
    if die_with_parent:
        words = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", _BOUND, str(os.getpid()), *words]
    for word in {words[0], str(argv[0])}:
        if which(word) is None:
            raise _missing([word])
    return Child(subprocess.Popen(
        words, env=environment(), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
        pass_fds=tuple(pass_fds), start_new_session=True,
    ))  # fmt: skip


def replace(argv: Sequence[str | Path]) -> None:
    """Become another program (exec), for handing the terminal to ssh; it gets the user's own environment.

    Raises:
        HostLacks: there is no such command here.
    """
    words = [str(word) for word in argv]
    if which(words[0]) is None:
        raise _missing(words)
    os.execvpe(words[0], words, {**os.environ, "PATH": environment()["PATH"]})
