# SPDX-License-Identifier: Apache-2.0
"""Steps told in plain lines: none is silent for long, whatever is done meanwhile."""

from __future__ import annotations

import io
import itertools
import random
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

from klp.consoles import PlainLines
from klp.durations import Durations
from klp.progress import NotesOnly, Silent, counter, teller, under_way
from klp.waiting import wait_until

# What the issue of all this is: who sees nothing for longer begins to wonder.
QUIET_S = 10.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stamped(io.StringIO):
    """A file that knows when its lines were written."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.lines: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.lines += [(self._clock.now, line) for line in text.splitlines() if line]
        return len(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written(clock: Clock) -> Stamped:
    return Stamped(clock)


@pytest.fixture
def progress(clock: Clock, written: Stamped, tmp_path: Path) -> PlainLines:
    return PlainLines(Console(file=written, width=40), Durations(tmp_path / "durations.json"), clock)


def wait(progress: PlainLines, clock: Clock, seconds: float) -> None:
    """Let time pass, as a step does that waits."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(clock.now + 0.5, end)
        progress.tick()


def do(progress: PlainLines, clock: Clock, chance: random.Random, depth: int = 0) -> None:
    """Do something that takes minutes, with parts that do the same."""
    with progress.step(f"step {chance.random()}"):
        for _ in range(chance.randint(1, 4)):
            match chance.choice(("wait", "tell", "note", "step", "pass")):
                case "wait":
                    wait(progress, clock, chance.expovariate(1 / 20))
                case "tell":
                    teller(progress)(f"{chance.randint(1, 40)} of 40")
                case "note":
                    progress.note("x" * chance.randint(1, 200))
                case "step" if depth < 3:
                    do(progress, clock, chance, depth + 1)
                case _:
                    with under_way(progress, "something short"):
                        wait(progress, clock, chance.expovariate(1 / 5))


@pytest.mark.parametrize("seed", range(40))
def test_no_step_is_silent_for_long(
    progress: PlainLines, clock: Clock, written: Stamped, seed: int
) -> None:
    begun = clock.now
    do(progress, clock, random.Random(seed))
    times = [begun, *(at for at, _ in written.lines), clock.now]
    assert max(after - before for before, after in itertools.pairwise(times)) <= QUIET_S
    assert all(line.isprintable() for _, line in written.lines)


def test_what_lasts_is_told_by_itself() -> None:
    written = io.StringIO()
    progress = PlainLines(Console(file=written, width=200), quiet_s=0.01)
    with progress.step("building"):
        teller(progress)("12 of 40 MB")
        wait_until(
            lambda: "  building: 0 s, 12 of 40 MB\n" in written.getvalue(), what="line", timeout_s=60,
            every_s=0.01,
        )  # fmt: skip
    assert re.fullmatch(r"building: \d+\.\d s", written.getvalue().splitlines()[-1])


def test_an_estimate_is_what_it_took_the_last_time(
    progress: PlainLines, clock: Clock, written: Stamped
) -> None:
    for _ in range(2):
        with progress.step("checking a on 6.12"), progress.step("1/2 arming"):
            wait(progress, clock, 100)
    with progress.step("checking b on 6.12"), progress.step("1/2 arming"):
        wait(progress, clock, 10)
    told = [line for _, line in written.lines]
    _, second = (number for number, line in enumerate(told) if line.startswith("checking a on 6.12 …"))
    assert told[second : second + 3] == [
        "checking a on 6.12 … (last time 2 min)",
        "  1/2 arming … (last time 2 min)",
        "    1/2 arming: 9 s, about 91 s left",
    ]
    assert not [line for line in told[:second] if "left" in line or "last time" in line]
    assert "  1/2 arming …" in told[second + 3 :], "what is part of something else is something else"


def test_what_takes_longer_than_the_last_time(progress: PlainLines, clock: Clock, written: Stamped) -> None:
    for seconds in (8, 20):
        with progress.step("arming"):
            wait(progress, clock, seconds)
    assert [line for _, line in written.lines][-3:-1] == [
        "  arming: 9 s, it took 8 s last time",
        "  arming: 18 s, it took 8 s last time",
    ]


def test_what_failed_is_no_estimate(progress: PlainLines, clock: Clock, written: Stamped) -> None:
    def fail() -> None:
        with progress.step("arming"):
            wait(progress, clock, 8)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with progress.step("arming"):
        pass
    assert not any("last time" in line for _, line in written.lines)


def test_what_threads_do_is_told_together(progress: PlainLines, clock: Clock, written: Stamped) -> None:
    begun, go = threading.Barrier(3), threading.Event()

    def scenario(name: str) -> None:
        with under_way(progress, name):
            part = NotesOnly(progress)
            with part.step(f"part of {name}"), part.step("its own part"):
                teller(part)("2 of 3")
                begun.wait()
                go.wait()

    with progress.step("checking"):
        threads = [threading.Thread(target=scenario, args=(name,)) for name in ("life", "cycles")]
        for each in threads:
            each.start()
        begun.wait()
        wait(progress, clock, QUIET_S)
        go.set()
        for each in threads:
            each.join()
    told = [line for _, line in written.lines]
    assert told[0] == "checking …"
    assert sorted(re.split("; ", told[1].strip())) == [
        "cycles: 9 s, its own part, 2 of 3", "life: 9 s, its own part, 2 of 3",
    ]  # fmt: skip
    assert len(told) == 3, told


def test_durations_that_cannot_be_kept_are_no_fault(tmp_path: Path) -> None:
    broken = tmp_path / "durations.json"
    broken.write_text("{")
    durations = Durations(broken)
    assert durations.last(["x"]) is None
    durations.keep(["x"], 5.0)
    assert Durations(broken).last(["2/3 x"]) == 5.0
    away = Durations(tmp_path / "no" / "durations.json")
    away.keep(["x"], 5.0)
    assert not (tmp_path / "no").exists()
    (tmp_path / "folder").mkdir()
    Durations(tmp_path / "folder").keep(["x"], 5.0)


def test_few_durations_are_kept(tmp_path: Path) -> None:
    durations = Durations(tmp_path / "durations.json")
    for number in range(450):
        durations.keep([f"step {number}"], 5.0)
    assert durations.last(["step 0"]) is None
    assert durations.last(["step 449"]) == 5.0


def test_pieces_are_counted_of_as_many_as_there_were_the_last_time(
    progress: PlainLines, clock: Clock, written: Stamped
) -> None:
    for pieces in (3, 4):
        with progress.step("building a for 6.12"):
            count = counter(progress, "build steps")
            for number in range(1, pieces + 1):
                count(number)
                wait(progress, clock, QUIET_S)
    told = [re.sub(r".*\d s, | steps.*", "", line) for _, line in written.lines if "build steps" in line]
    assert told == [
        "1 build",
        "2 build",
        "3 build",
        "1 of 3 build",
        "2 of 3 build",
        "3 of 3 build",
        "4 build",
    ]


def test_what_failed_was_not_all(progress: PlainLines, clock: Clock, written: Stamped) -> None:
    def fail() -> None:
        with progress.step("building"):
            counter(progress, "build steps")(7)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with progress.step("building"):
        counter(progress, "build steps")(1)
        wait(progress, clock, QUIET_S)
    assert any("1 build steps" in line for _, line in written.lines)


def test_a_progress_that_remembers_nothing_is_told_how_many(
    progress: PlainLines, clock: Clock, written: Stamped
) -> None:
    part = NotesOnly(progress)
    with progress.step("checking"), part.step("a build"):
        counter(part, "build steps")(5)
        wait(progress, clock, QUIET_S)
    assert any("a build, 5 build steps" in line for _, line in written.lines)
    counter(progress, "build steps")(1)  # outside of any step
    counter(Silent(), "build steps")(1)
