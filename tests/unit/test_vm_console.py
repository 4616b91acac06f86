# SPDX-License-Identifier: Apache-2.0
"""The console is read as it grows, at whatever byte it is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from klp.klog.crash import FATAL
from klp.vm.console import Console

READY = b"[61] Nov 21 13:47:14 Not backgrounding\r\n"
PANIC = b"[    1.5] Kernel panic - not syncing: Attempted to kill init!\r\n"
FAILURE = b"klp: boot failed: no disk labelled klp-root\r\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


@pytest.fixture
def grow(file: Path) -> Callable[[bytes], None]:
    def more(data: bytes) -> None:
        with file.open("ab") as stream:
            stream.write(data)

    return more


Grow = Callable[[bytes], None]


def test_before_there_is_a_file(file: Path) -> None:
    console = Console(file)
    assert console.text() == ""
    assert console.tail() == ()
    assert not console.ready()
    assert console.panic() is None
    assert console.boot_failure() is None


def test_it_is_followed(file: Path, grow: Grow) -> None:
    console = Console(file)
    grow(b"one\r\ntw")
    assert console.text() == "one\ntw"
    grow(b"o\r\n")
    assert console.text() == "one\ntwo\n"
    assert console.text() == "one\ntwo\n"
    grow(b"three")
    assert console.tail(2) == ("two", "three")


def test_only_what_is_new_is_read(file: Path, grow: Grow) -> None:
    console = Console(file)
    grow(b"a\nb\n")
    assert console.text() == "a\nb\n"
    # If it were read again, the change in its beginning would show.
    file.write_bytes(b"X\nX\nc\n")
    assert console.text() == "a\nb\nc\n"


@pytest.mark.parametrize("cut", range(1, len(PANIC)))
def test_a_panic_is_found_wherever_it_is_cut(file: Path, grow: Grow, cut: int) -> None:
    console = Console(file)
    grow(b"before\r\n" + PANIC[:cut])
    early = console.panic()
    assert early is None
    grow(PANIC[cut:])
    assert console.panic() == "Attempted to kill init!"


@pytest.mark.parametrize("cut", range(1, len(READY)))
def test_readiness_is_found_wherever_it_is_cut(file: Path, grow: Grow, cut: int) -> None:
    console = Console(file)
    grow(READY[:cut])
    assert not console.ready()
    grow(READY[cut:])
    assert console.ready()
    grow(b"and on\n")
    assert console.ready()


@pytest.mark.parametrize("cut", range(1, len(FAILURE)))
def test_a_boot_failure_is_found_wherever_it_is_cut(file: Path, grow: Grow, cut: int) -> None:
    console = Console(file)
    grow(FAILURE[:cut])
    assert console.boot_failure() is None
    grow(FAILURE[cut:])
    assert console.boot_failure() == "no disk labelled klp-root"


def test_one_byte_at_a_time(file: Path, grow: Grow) -> None:
    console = Console(file)
    everything = "größer\r\n".encode() + b"\x1b[1;31mred\x1b[0m\r\n" + FAILURE + PANIC + READY
    for number in range(len(everything)):
        grow(everything[number : number + 1])
        console.text()
    assert console.text() == Console(file).text()
    assert console.tail(5)[:2] == ("größer", "red")
    assert console.ready()
    assert console.boot_failure() == "no disk labelled klp-root"


def test_the_first_word_stands(file: Path, grow: Grow) -> None:
    console = Console(file)
    grow(PANIC + b"Kernel panic - not syncing: second\n" + FAILURE + b"klp: boot failed: second\n")
    assert console.panic() == "Attempted to kill init!"
    assert console.boot_failure() == "no disk labelled klp-root"


def test_escapes_and_carriage_returns_are_taken_out(file: Path, grow: Grow) -> None:
    grow(b"\x1b[2J\x1b[?25h\x1b[01;32mgreen\x1b[m\rover\r\n")
    assert Console(file).text() == "greenover\n"


def test_bytes_that_are_no_text_do_no_harm(file: Path, grow: Grow) -> None:
    grow(b"a\xff\xfeb\n")
    assert Console(file).text() == "a\ufffd\ufffdb\n"


def test_the_tail_has_no_empty_lines(file: Path, grow: Grow) -> None:
    grow(b"".join(b"%d\r\n\r\n \r\n" % number for number in range(20)))
    assert Console(file).tail(3) == ("17", "18", "19")
    assert len(Console(file).tail()) == 15


@pytest.mark.parametrize("line", [b"klp: Not backgrounding\n", b"[61] Nov 21 13:47:14 Exit before auth\n"])
def test_another_line_is_not_ready(file: Path, grow: Grow, line: bytes) -> None:
    grow(line)
    assert not Console(file).ready()


def test_whoever_speaks_of_a_panic_has_none(file: Path, grow: Grow) -> None:
    console = Console(file)
    grow(b"[    2.0] klp_fix: mends: Kernel panic - not syncing: stack is corrupted\n")
    assert console.panic() is None
    assert console.loss(FATAL) is None
