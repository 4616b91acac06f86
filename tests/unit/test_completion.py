# SPDX-License-Identifier: Apache-2.0
"""Completion: what klp answers, and that bash, zsh and fish take it, where they are there."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klp.analysis.rules.registry import RULES
from klp.check.registry import NAMES
from klp.cli.main import _COMMANDS
from klp.images.names import known_kernels
from tests.unit.runfolders import sample, write_run

KLP = Path(sys.executable).with_name("klp")
PATIENCE_S = 30
RUN = "20261130-105406-6.12"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with nothing of their own, but one run."""
    write_run(tmp_path / "runs" / RUN, sample())
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
    path = os.pathsep.join([str(KLP.parent), "/usr/bin", "/bin"])
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "KLP_RUNS": str(tmp_path / "runs")}
    return {**kept, **home, "PATH": path, "TERM": "dumb"}


def completed(environment: dict[str, str], *words: str) -> list[str]:
    """What klp says the last word may become."""
    asked = {"_KLP_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("klp", *words)),
             "COMP_CWORD": str(len(words))}  # fmt: skip
    done = subprocess.run(
        [KLP], env={**environment, **asked}, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stderr == ""
    return [value for kind, _, value in (line.partition(",") for line in done.stdout.splitlines()) if value
            and kind == "plain"]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("r",), [each for each in _COMMANDS if each.startswith("r")]),
        (("image", "v"), ["verify"]),
        (("run", "--ret"), ["--retry-lost"]),
        (("run", "-k", "6"), [each for each in known_kernels() if each.startswith("6")]),
        (("image", "build", "7"), ["7.2"]),
        (("check", "ver"), ["version-banner"]),
        (("check", "-s", "re"), [each for each in NAMES if each.startswith("re")]),
        (("analyze", "--rule", "C"), [each for each in RULES if each.startswith("C")]),
        (("analyze", "2026"), [RUN]),
        (("report", "l"), ["latest"]),
        (("runs", "rm", "2026"), [RUN]),
        (("completion", ""), ["bash", "zsh", "fish"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_word_is_completed(
    environment: dict[str, str], words: tuple[str, ...], answer: list[str]
) -> None:
    assert answer
    assert completed(environment, *words) == answer


def test_commands_are_completed_without_importing_them(environment: dict[str, str]) -> None:
    script = (
        "import sys, click; from klp.cli.main import klp; context = click.Context(klp);"
        "print(len(klp.shell_complete(context, '')), *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    count, *modules = done.stdout.split()
    assert int(count) >= len(_COMMANDS)
    assert not {"rich", "paramiko", "klp.cli.run"} & set(modules)


class Terminal:
    """A shell on a terminal, to which one types."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.execvpe(argv[0], argv, environment)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text is there."""
        read = ""
        until = time.monotonic() + PATIENCE_S
        while text not in read:
            ready, _, _ = select.select([self._fd], [], [], until - time.monotonic())
            assert ready, f"no {text!r} in {read!r}"
            read += os.read(self._fd, 4096).decode(errors="replace")

    def close(self) -> None:
        os.close(self._fd)  # the shell's SIGHUP
        os.waitpid(self.pid, 0)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -u -D; "),
}


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Terminal]:
    """A shell in which the one line of its documentation was run."""
    argv, before = SHELLS[request.param]
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not here")
    shell = Terminal(argv, environment)
    # The sum, so that the shell's echo of what is typed is not taken for its answer.
    shell.type(f'{before}eval "$(klp completion {argv[0]})"; echo ready-$((40 + 2))\n')
    shell.wait_for("ready-42")
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("klp image ver\t", "verify"), ("klp check -s reverse-e\t", "reverse-enable"),
        ("klp analyze 2\t", RUN), ("klp run version-ba\t", "version-banner"), ("klp up -k 7\t", "7.2"),
    ],
)  # fmt: skip
def test_a_shell_completes(terminal: Terminal, typed: str, becomes: str) -> None:
    terminal.type(typed)
    terminal.wait_for(becomes)


def test_fish_completes(environment: dict[str, str]) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not here")
    script = (
        'klp completion fish | source; complete -C "klp image ver"; complete -C "klp check -s reverse-e"'
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, check=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["verify", "reverse-enable"]
