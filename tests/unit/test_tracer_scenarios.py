# SPDX-License-Identifier: Apache-2.0
"""What the scenarios bpf-user, ftrace-off and out-of-memory make of what a guest answers."""

from __future__ import annotations

import errno
import json
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from klp.check.in_guest import bpf_users as program
from klp.check.scenarios.bpf_users import _BpfUser
from klp.check.scenarios.ftrace_off import ftrace_off
from klp.check.scenarios.out_of_memory import out_of_memory
from klp.check.stage import NotApplicable
from klp.drive.steps import Moment
from klp.errors import CheckFailed
from klp.guest.ssh import CommandResult

BUSY = "bash: line 1: echo: write error: Device or resource busy"


@dataclass
class Guest:
    """Answers commands in turn; the last answer goes on."""

    answers: list[str] = field(default_factory=lambda: [""])
    refused: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def write(self, path: str, content: bytes) -> None:
        assert path
        assert content

    def run(self, command: Any) -> CommandResult:
        self.ran.append(str(command))
        if str(command).startswith("echo") and self.refused:
            said = self.refused.pop(0)
            return CommandResult(str(command), int(bool(said)), "", said)
        first, *rest = self.answers
        self.answers = rest or [first]
        return CommandResult(str(command), 0, first, "")


@dataclass
class Livepatch:
    """One whose loads are answered in turn: 0 or an errno."""

    state: Any = None
    loaded: bool = False
    name = "klp_x"

    def disable(self) -> None:
        self.state = None


@dataclass
class Stage:
    """Takes a livepatch through what it is told to, and remembers what was observed."""

    guest: Guest = field(default_factory=Guest)
    loads: list[int] = field(default_factory=lambda: [0])
    hidden: bool = False
    livepatch: Livepatch = field(default_factory=Livepatch)
    seen: list[Moment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    functions: tuple[tuple[str, str], ...] = (("vmlinux", "f"), ("klp_target", "g"))
    module: Any = None
    quick = True
    before: str = ""

    @property
    def candidate(self) -> Any:
        looks = (SimpleNamespace(command="show", before=self.before),)
        return SimpleNamespace(plan=SimpleNamespace(observe=looks))

    @property
    def case(self) -> Any:
        return SimpleNamespace(module=lambda word: self.module)

    def load(self, *, wait: bool = True, expect: int | None = 0) -> int:
        got, *rest = self.loads
        self.loads = rest or [got]
        self.livepatch.state = None if got or self.hidden else "enabled"
        assert expect is None or got == expect
        return got

    def observe(self, moment: Moment) -> None:
        self.seen.append(moment)

    def note(self, words: str) -> None:
        self.notes.append(words)

    def fault(self, words: str) -> None:
        self.faults.append(words)

    def nothing(self, *words: str) -> None:
        """What changes nothing here."""

    set_up = tear_down = unload = put_back = tell = nothing


def drive(scenario: Any, stage: Stage) -> Stage:
    scenario.drive(cast("Any", stage))
    return stage


# --- ftrace-off -------------------------------------------------------------------------------------


def test_ftrace_that_stays_on_for_it_is_what_must_be() -> None:
    # Switched off, on again, refused while it is enabled, off after it, on.
    stage = drive(ftrace_off, Stage(Guest(refused=["", "", BUSY, "", ""]), [errno.EBUSY, 0]))
    assert stage.faults == []
    assert stage.seen == [Moment.REFUSED, Moment.ENABLED, Moment.ENABLED, Moment.AFTER]
    assert stage.notes == ["while ftrace was off its load was refused with EBUSY"]


@pytest.mark.parametrize(
    ("refused", "loads", "said"),
    [
        (["", "", "", "", "", ""], [errno.EBUSY, 0], "ftrace_enabled = 0 is taken, not refused"),
        (["", "", BUSY, BUSY, ""], [errno.EBUSY, 0], "a function is patched still"),
        (["", "", BUSY, "", ""], [errno.EINVAL, 0], "its load is refused with EINVAL, not with EBUSY"),
    ],
)
def test_ftrace_that_goes_off_or_stays_off_is_a_fault(
    refused: list[str], loads: list[int], said: str
) -> None:
    [fault] = drive(ftrace_off, Stage(Guest(refused=refused), loads)).faults
    assert said in fault


@pytest.mark.parametrize(("hidden", "said"), [(True, "hides what"), (False, "enabled while ftrace is off")])
def test_a_load_that_succeeds_without_ftrace_is_a_fault(hidden: bool, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        drive(ftrace_off, Stage(Guest(refused=["", ""]), [0], hidden=hidden))


@pytest.mark.parametrize(
    ("functions", "needs"),
    [
        ((), False),
        ((("klp_later", "g"),), False),
        ((("klp_target", "g"),), True),
        ((("vmlinux", "f"),), True),
    ],
)
def test_only_a_livepatch_with_something_to_patch_needs_ftrace(
    functions: tuple[tuple[str, str], ...], needs: bool
) -> None:
    guest = Guest(["klp_target virtio"], refused=["", "", BUSY, "", ""])
    stage = Stage(guest, [errno.EBUSY, 0], functions=functions)
    if needs:
        assert drive(ftrace_off, stage).faults == []
        return
    with pytest.raises(NotApplicable, match="it needs no ftrace"):
        drive(ftrace_off, stage)


def test_ftrace_that_another_keeps_on_tells_nothing() -> None:
    with pytest.raises(NotApplicable, match="something else keeps ftrace on"):
        drive(ftrace_off, Stage(Guest(refused=[BUSY])))


# --- bpf-user ---------------------------------------------------------------------------------------


def user(*answers: Any) -> tuple[_BpfUser, Stage]:
    stage = Stage(Guest([json.dumps(each) for each in answers]))
    return _BpfUser(cast("Any", stage)), stage


def test_programs_are_counted_from_the_last_time_on() -> None:
    found, stage = user({}, [1, 1, 0, 0], [3, 3, 1, 1])
    found.attach()
    assert stage.guest.ran[0].endswith("attach /sys/fs/bpf/klp_check f klp_target:g")
    assert found.calls() == Counter({"f at its return": 1, "f at its entry": 1})
    assert found.calls()["f at its return"] == 2
    assert stage.notes == []


def test_a_function_that_takes_no_program_is_noted_and_all_of_them_tell_nothing() -> None:
    some = {"klp_target:g return": "klp_target was built without BTF"}
    found, stage = user(some)
    found.attach()
    assert stage.notes == [
        "BPF: not on every function: klp_target:g return: klp_target was built without BTF"
    ]
    every = dict.fromkeys(["f return", "f entry", "klp_target:g return", "klp_target:g entry"], "no")
    with pytest.raises(NotApplicable, match="none of its functions takes a BPF program: f return: no"):
        user(every)[0].attach()


def test_a_program_that_only_the_livepatch_keeps_off_is_a_fault() -> None:
    found, _ = user({"f entry": "no"}, {"f entry": "no"}, {"f entry": "no", "f return": "busy"})
    found.attach()
    found.attach()
    with pytest.raises(CheckFailed, match="refused while it is enabled: f return: busy"):
        found.attach()


def test_a_program_is_of_whole_instructions_and_names_its_place() -> None:
    text = program._program(7, 24)
    assert len(text) == 6 * 8
    # The first instruction is of two parts: the map's descriptor, and the place in its value.
    assert (text[4], text[12]) == (7, 24)


# --- out-of-memory ----------------------------------------------------------------------------------


@dataclass
class Shortage:
    """patches/no-memory in a guest: how many allocations it counts, and who asked for those that fail."""

    count: str
    own: str
    failed: list[str]
    name = "klp_no_memory"
    gone = False

    def load(self, parameters: str) -> None:
        assert parameters == "module=klp_x"

    def parameter(self, name: str) -> str:
        if name == "failed":
            return self.failed.pop(0)
        return self.count if name == "count" else self.own

    def unload(self) -> None:
        self.gone = True


def test_lives_in_which_it_is_refused_or_enabled_are_told() -> None:
    shortage = Shortage("3", "2", ["", "pre_patch", "klp_init_object", "kobject_add"])
    stage = drive(out_of_memory, Stage(loads=[0, errno.ENOMEM, errno.ENOMEM, 0], module=shortage))
    assert stage.faults == []
    assert shortage.gone
    assert stage.notes == [
        "3 allocations in its life, 1 of them by its own code; 3 failed, each in a life of its own: "
        "refused 2 times, enabled all the same 1 times"
    ]
    plain = [Moment.ENABLED, Moment.AFTER]
    assert stage.seen == [*plain, Moment.REFUSED, Moment.REFUSED, *plain]
    armed = [each for each in stage.guest.ran if each.endswith("/armed")]
    # Nothing fails while the author's commands are run.
    assert [each.split()[1] for each in armed] == ["1", "0"] * 2 + ["1", "0"] * 2 + ["1", "0"] * 2


def test_a_refused_load_is_held_to_what_was_before_only_where_that_was_so_still() -> None:
    for before, seen in (("^shown$", [Moment.REFUSED]), ("^54$", [])):
        shortage = Shortage("1", "1", ["", "pre_patch"])
        stage = Stage(Guest(["shown"]), [0, errno.ENOMEM], module=shortage, before=before)
        assert drive(out_of_memory, stage).seen == [Moment.ENABLED, Moment.AFTER, *seen]


def test_a_load_that_is_refused_for_nothing_or_stays_is_a_fault() -> None:
    shortage = Shortage("1", "", ["", ""])
    stage = Stage(loads=[0, errno.ENOMEM], module=shortage, livepatch=Livepatch(loaded=True))
    with pytest.raises(NotApplicable, match="no allocation could be made to fail"):
        drive(out_of_memory, stage)
    assert stage.faults == [
        "its load was refused with ENOMEM although no allocation failed",
        "its load was refused with ENOMEM as allocation 1 failed, and it is there all the same",
    ]


def test_a_load_that_hides_that_it_failed_is_a_fault() -> None:
    with pytest.raises(CheckFailed, match="is not in /sys/kernel/livepatch"):
        drive(out_of_memory, Stage(module=Shortage("1", "", ["x"]), hidden=True))
