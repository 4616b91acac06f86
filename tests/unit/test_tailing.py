# SPDX-License-Identifier: Apache-2.0
"""What one tail writes of several files, taken apart; with coreutils' own tail too."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from klp.trace.tailing import Apart, command
from klp.waiting import wait_until

A, B = b"==> /t/a <==\n", b"==> /t/b <==\n"


def taken(*chunks):
    apart = Apart()
    return [line for chunk in chunks for line in apart.lines(chunk)]


def test_lines_of_one_file_come_as_they_are():
    assert taken(A + b'{"n":1}\n{"n":2}\n') == [b'{"n":1}', b'{"n":2}']


def test_a_line_that_another_file_breaks_in_two_is_one_line():
    assert taken(A + b'{"n', b"\n" + B + b'{"m":1}\n', b"\n" + A + b'":1}\n') == [b'{"m":1}', b'{"n":1}']


def test_a_line_may_be_broken_more_than_once():
    pieces = [A + b'{"', b"\n" + B + b'{"m', b"\n" + A + b"n", b"\n" + B + b'":1}\n', b"\n" + A + b'":1}\n']
    assert taken(*pieces) == [b'{"m":1}', b'{"n":1}']


@pytest.mark.parametrize("broken", range(1, 8))
def test_a_heading_and_its_line_break_may_come_apart(broken):
    stream = A + b'{"n":1' + b"\n" + B + b'{"m":1}\n' + b"\n" + A + b"}\n"
    at = stream.index(b"\n" + B) + broken
    assert taken(stream[:at], stream[at:]) == [b'{"m":1}', b'{"n":1}']


def test_a_whole_line_is_told_before_the_next_one_comes():
    apart = Apart()
    assert apart.lines(A) == []
    assert apart.lines(b'{"n":1}\n') == [b'{"n":1}']
    assert apart.lines(b"\n" + B) == []
    assert apart.lines(b'{"m":1}\n') == [b'{"m":1}']


def test_what_is_no_json_is_a_line_once_another_follows_it():
    assert taken(A + b"warning: {\n", b'{"n":1}\n') == [b"warning: {", b'{"n":1}']


def test_says_what_was_never_finished():
    apart = Apart()
    apart.lines(A + b'{"n":1}\n{"n":')
    assert apart.unfinished() == b'{"n":'


def test_any_cut_of_any_stream_gives_the_same_lines():
    chance = random.Random(7)
    for _ in range(300):
        lines = {name: [b'{"n":%d}' % chance.randrange(10**9) for _ in range(6)] for name in (A, B)}
        left = {name: b"".join(line + b"\n" for line in each) for name, each in lines.items()}
        stream, begun = b"", False
        while any(left.values()):
            name = chance.choice([each for each in left if left[each]])
            size = chance.randrange(1, 40)
            stream += (b"\n" if begun else b"") + name + left[name][:size]
            left[name], begun = left[name][size:], True
        chunks = []
        while stream:
            size = chance.randrange(1, 30)
            chunks.append(stream[:size])
            stream = stream[size:]
        got = taken(*chunks)
        assert sorted(got) == sorted(lines[A] + lines[B])
        assert [line for line in got if line in lines[A]] == lines[A]


def test_the_real_tail_follows_several_files_that_grow_in_pieces(tmp_path):
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for file in files:
        file.touch()
    wanted = [json.dumps({"n": number, "text": "x" * 3000}).encode() for number in range(40)]
    follow = command(map(str, files))
    with subprocess.Popen(["sh", "-c", f"exec {follow}"], stdout=subprocess.PIPE) as tail:
        writer = (
            "import sys; files = [open(name, 'ab', buffering=0) for name in sys.argv[1:3]]\n"
            "for number, line in enumerate(sys.stdin.buffer):\n"
            "    files[number % 2].write(line[:1500]); files[1 - number % 2].write(b'')\n"
            "    files[number % 2].write(line[1500:])\n"
        )
        subprocess.run(
            [sys.executable, "-c", writer, *map(str, files)], input=b"\n".join(wanted) + b"\n", check=True
        )
        apart, got = Apart(), []

        def look():
            got.extend(apart.lines(tail.stdout.read1(700)))
            return len(got) >= len(wanted)

        wait_until(look, what="lines", timeout_s=30, every_s=0.001)
        tail.kill()
    assert sorted(got) == sorted(wanted)
