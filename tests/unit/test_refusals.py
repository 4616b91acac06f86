# SPDX-License-Identifier: Apache-2.0
"""What is told of a refusal that the log has no word of; docs/refusals.md names a test in each row."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.analysis.diagnosis import Seen, diagnose
from klp.analysis.refusal_facts import RefusalFacts, read_refusal_facts
from klp.analysis.refusals import Refusal

FIX = "klp_fix"
# What a guest printed after a refusal, in the form of klp.drive.refusal_facts.
PRINTED = """livepatch klp_below 0
livepatch klp_other 1
module going
references -1
holder klp_user
ftrace_enabled 0
modules_disabled 1
signed_only Y
lockdown integrity
available 20480
redirected version_proc_show
probed version_proc_show
"""


def told(
    action: str, errno: str, facts: RefusalFacts, *, faults: tuple[str, ...] = (), log: tuple[str, ...] = ()
) -> str:
    refusal = Refusal(action, FIX, errno, "insmod: no", faults=faults, functions=("show",), facts=facts)
    [line] = diagnose(Seen(FIX, refusal=refusal, error="x", log=log))
    return line.removeprefix(f"{action} of {FIX} was refused with {errno}: ")


def test_what_a_guest_prints_is_read_whole() -> None:
    facts = read_refusal_facts(PRINTED)
    assert facts == RefusalFacts(
        livepatches=(("klp_below", False), ("klp_other", True)), module="going", holders=("klp_user",),
        references=-1, ftrace_enabled=False, redirected=frozenset({"version_proc_show"}),
        probed=frozenset({"version_proc_show"}), lockdown="integrity", modules_disabled=True,
        signed_only=True, available_kib=20480,
    )  # fmt: skip
    assert facts.moving == ("klp_other",)
    assert read_refusal_facts("") == RefusalFacts()


def test_a_fault_of_the_structures_is_told_for_its_own_errno_only() -> None:
    faults = ("show is listed 2 times: EEXIST", "show has no .new_func: EINVAL")
    assert told("load", "EINVAL", RefusalFacts(), faults=faults) == faults[1]
    assert told("load", "EEXIST", RefusalFacts(), faults=faults) == faults[0]
    assert told("load", "ENOSPC", RefusalFacts(), faults=faults) == "insmod: no"
    # Since 7.0 the module loader makes EBUSY of EEXIST.
    assert told("load", "EBUSY", RefusalFacts(), faults=faults).startswith(f"{faults[0]}, of which")


def test_the_stack_that_sysfs_shows_of_a_double_entry_is_no_report_of_its_own() -> None:
    refusal = Refusal("load", FIX, "EEXIST", "no", faults=("show is listed 2 times: EEXIST",))
    stack = ("Call Trace:", " sysfs_warn_dup.cold+0x17/0x34")
    assert len(diagnose(Seen(FIX, refusal=refusal, error="x", reports=(stack,)))) == 1
    assert len(diagnose(Seen(FIX, refusal=refusal, error="x", reports=(("Call Trace:", " f+0x1"),)))) == 2


def test_one_that_is_loaded_already_is_told_with_how_to_remove_it() -> None:
    loaded = told("load", "EEXIST", RefusalFacts(livepatches=((FIX, False),), module="live"))
    assert f"write 0 to /sys/kernel/livepatch/{FIX}/enabled, then rmmod {FIX}" in loaded
    disabled = told("load", "EEXIST", RefusalFacts(module="live"))
    assert disabled == f"a module of that name is loaded already: rmmod {FIX}"


@pytest.mark.parametrize("action", ["load", "disable"])
def test_a_transition_under_way_is_named(action: str) -> None:
    facts = RefusalFacts(livepatches=(("klp_below", False), ("klp_other", True)))
    assert told(action, "EBUSY", facts).startswith("klp_other is in transition")


def test_ftrace_that_is_switched_off() -> None:
    assert "sysctl kernel.ftrace_enabled=1" in told("load", "EBUSY", RefusalFacts(ftrace_enabled=False))
    assert told("load", "EBUSY", RefusalFacts(ftrace_enabled=True)) == "insmod: no"


def test_who_redirects_the_function() -> None:
    taken = frozenset({"show", "other"})
    assert told("load", "EBUSY", RefusalFacts(redirected=taken)).startswith(
        "another user of ftrace redirects"
    )
    probed = told("load", "EBUSY", RefusalFacts(redirected=taken, probed=taken))
    assert probed.startswith("a kprobe with a post-handler redirects show")
    assert "other," not in probed
    assert told("load", "EBUSY", RefusalFacts(probed=taken)) == "insmod: no"


@pytest.mark.parametrize("state", ["coming", "going"])
@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_module_that_comes_or_goes(action: str, state: str) -> None:
    assert f"is {state} just now" in told(action, "EBUSY", RefusalFacts(module=state))


def test_where_several_causes_are_possible_none_is_chosen() -> None:
    facts = RefusalFacts(livepatches=(("klp_other", True),), ftrace_enabled=False)
    line = told("load", "EBUSY", facts)
    assert line.startswith("one of: klp_other is in transition")
    assert "; kernel.ftrace_enabled is 0" in line


def test_the_errno_of_a_pre_patch_callback_is_the_authors() -> None:
    log = ("livepatch: pre-patch callback failed for object 'vmlinux'",)
    line = told("load", "EBUSY", RefusalFacts(ftrace_enabled=False), log=log)
    assert line.startswith("its pre-patch callback for vmlinux")


def test_modules_that_are_not_permitted() -> None:
    assert "locked down (integrity)" in told("load", "EPERM", RefusalFacts(lockdown="integrity"))
    assert "kernel.modules_disabled is 1" in told("load", "EPERM", RefusalFacts(modules_disabled=True))
    assert told("load", "EPERM", RefusalFacts(lockdown="none")) == "insmod: no"


def test_a_signature_that_is_wanted_or_wrong() -> None:
    assert "signed modules only" in told("load", "EKEYREJECTED", RefusalFacts(signed_only=True))
    assert "broken by strip" in told("load", "ENOKEY", RefusalFacts())


def test_no_memory() -> None:
    assert "(20 MiB could be had after it)" in told("load", "ENOMEM", RefusalFacts(available_kib=20480))


def test_a_device_that_is_not_there_is_one_of_two_things() -> None:
    assert told("load", "ENODEV", RefusalFacts()).startswith("one of: its init function")


def test_what_keeps_a_module_from_being_removed() -> None:
    held = told("unload", "EAGAIN", RefusalFacts(holders=("a", "b"), module="live"))
    assert held == f"{FIX} is used by a, b: rmmod a first"
    assert "still enabled" in told("unload", "EAGAIN", RefusalFacts(livepatches=((FIX, False),)))
    assert told("unload", "ENOENT", RefusalFacts()) == f"{FIX} is not loaded"


@pytest.mark.parametrize(
    ("action", "errno", "says"),
    [
        ("force", "EINVAL", "nothing to force"),
        ("enable", "EINVAL", "unloaded and loaded again"),
        ("disable", "EINVAL", "is disabled already"),
        ("disable", "ENOENT", "it is not enabled"),
    ],
)
def test_a_write_to_sysfs(action: str, errno: str, says: str) -> None:
    assert says in told(action, errno, RefusalFacts())


def test_each_row_of_the_list_names_a_test_that_is_there(root: Path) -> None:
    rows = [line for line in (root / "docs/refusals.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    code = "".join(each.read_text() for each in sorted((root / "tests").rglob("test_*.py")))
    folders = {each.name for each in (root / "tests/livepatches/bad").iterdir()}
    for row in rows:
        last = row.rstrip(" |").rpartition("| ")[2].strip("`")
        assert last == "none" or last in folders or f"def {last}(" in code, row
