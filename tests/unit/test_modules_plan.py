# SPDX-License-Identifier: Apache-2.0
"""A plan is read whole or refused with file and line; none of its checks is ever lost to a misspelling."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klp import paths
from klp.errors import SettingsError
from klp.modules.plan import LogPhase, read_plan, read_plans

WHOLE = r"""
name = "a"
summary = "b"
rules = ["T1", "L5"]
kernels = ["6.12"]
livepatch = "klp_a"
parameters = "x=1 y=2"
settle = 3

[[load]]
module = "target"
parameters = "secs=3"

[[load]]
module = "first"

[[observe]]
command = "cat /proc/version"
enabled = 'klp$'

[[log]]
when = "unloaded"
pattern = 'freed \d+'
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "patch.toml"
    file.write_text(text)
    return file


def test_everything_is_read(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, WHOLE))
    assert (plan.name, plan.livepatch, plan.parameters, plan.settle) == ("a", "klp_a", "x=1 y=2", 3)
    assert plan.rules == ("T1", "L5")
    assert plan.kernels == ("6.12",)
    assert [(each.module, each.parameters) for each in plan.load] == [("target", "secs=3"), ("first", "")]
    [seen] = plan.observe
    assert (seen.before, seen.enabled, seen.after) == ("", "klp$", "")
    [line] = plan.log
    assert (line.when, line.pattern) == (LogPhase.UNLOADED, r"freed \d+")


def test_workloads_and_why_it_stays(tmp_path: Path) -> None:
    text = WHOLE.replace('"unloaded"', '"enabled"').replace("settle = 3", 'stays = "no exit"')
    text += '[[workload]]\ncommand = "ip link"\n[[workload]]\ncommand = "mount x"\nmay-fail = true\n'
    plan = read_plan(written(tmp_path, text))
    assert plan.stays == "no exit"
    assert [(each.command, each.may_fail) for each in plan.workload] == [
        ("ip link", False),
        ("mount x", True),
    ]


def test_a_plan_of_plain_modules_alone(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, 'name="a"\nsummary="b"\n[[load]]\nmodule="c"\n'))
    assert (plan.livepatch, plan.settle, plan.log) == ("", 0, ())


def test_a_list_of_plans(tmp_path: Path) -> None:
    text = "\n".join(
        f'[[plan]]\nname="{name}"\nsummary="b"\nlivepatch="c"\n[[plan.load]]\nmodule="{name}"'
        for name in ("one", "two")
    )
    plans = read_plans(written(tmp_path, text))
    assert [(plan.name, plan.load[0].module) for plan in plans] == [("one", "one"), ("two", "two")]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("'klp$'", "'klp('", 17, "enabled: no regular expression"),
        (r"'freed \d+'", "'[a'", 21, "pattern: no regular expression"),
        ("enabled =", "enable =", 19, "unknown setting enable"),
        ("settle = 3", "settle = -1", 8, "settle"),
        ("settle = 3", "settle_s = 3", 8, "unknown setting settle_s"),
        ('"unloaded"', '"later"', 22, "when"),
        ("settle = 3", 'stays = "x"', 1, "it stays, so that no log line comes when it is unloaded"),
        ('"T1"', '"t1"', 4, "rules"),
        ('"klp_a"', '"klp-a"', 6, "livepatch"),
        ('"target"', '"../x"', 11, "module"),
        ('"cat /proc/version"', '""', 18, "command"),
        ("'klp$'", "''", 17, "all empty"),
        ('name = "a"', "", 1, "name"),
        ('livepatch = "klp_a"', "live = 1", 6, "unknown setting live"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in WHOLE
    file = written(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        read_plan(file)
    assert caught.value.message.startswith(f"{file}:{line}: ")
    assert says in caught.value.message


def test_a_plan_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names no livepatch"):
        read_plan(written(tmp_path, 'name="a"\nsummary="b"\n'))


@pytest.mark.parametrize("file", sorted(paths.PATCHES.glob("*/patch.toml")), ids=lambda f: f.parent.name)
def test_the_plans_of_patches_hold_together(file: Path) -> None:
    plan = read_plan(file)
    kbuild = (file.parent / "Kbuild").read_text()
    assert plan.name == file.parent.name
    assert plan.observe
    for module in filter(None, (plan.livepatch, *(each.module for each in plan.load))):
        assert f"obj-m += {module}.o" in kbuild
        assert f"{module}-y := " in kbuild or (file.parent / f"{module}.c").is_file()


def test_there_are_plans() -> None:
    assert {"version-banner", "module-target"} <= {
        file.parent.name for file in paths.PATCHES.glob("*/patch.toml")
    }


@pytest.mark.parametrize(("was", "line"), [("x=1 y=2", 7), ("secs=3", 10)])
def test_parameters_that_insmod_cannot_be_given(tmp_path: Path, was: str, line: int) -> None:
    file = written(tmp_path, WHOLE.replace(was, "label='don't'"))
    with pytest.raises(SettingsError) as refused:
        read_plan(file)
    said = "parameters: no closing quotation in \"label='don't'\""
    assert re.fullmatch(rf"{file}:\d+: .*{re.escape(said)}", refused.value.message)
    assert f":{line}: " in refused.value.message
