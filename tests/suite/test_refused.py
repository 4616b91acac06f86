# SPDX-License-Identifier: Apache-2.0
"""Livepatches that the kernel must refuse, each for one mistake and with the right errno."""

from __future__ import annotations

import errno
import re

import pytest

from klp import EARLIEST_INIT_EBUSY, errno_of

_SHOWN = "cat /proc/klp_refused"
_UNCHANGED = "^answer 0 twins 10 20$"

# The mistake, the errno, and what the kernel says of it, if anything.
MISTAKES = [
    ("no_function", errno.EINVAL, "symbol 'klp_refused_nowhere' not found in symbol table"),
    ("twin", errno.EINVAL, "unresolvable ambiguity for symbol 'klp_refused_twin'"),
    ("twin sympos=3", errno.EINVAL, "symbol position 3 for symbol 'klp_refused_twin'"),
    ("ambiguous", errno.EINVAL, "unresolvable ambiguity for symbol 'enabled_store'"),
    ("no_old_name", errno.EINVAL, None),
    ("no_new_func", errno.EINVAL, None),
    ("long_function", errno.EINVAL, None),
    ("long_object", errno.EINVAL, None),
    ("no_funcs", errno.EINVAL, None),
    ("null_objects", errno.EINVAL, None),
    ("no_module", errno.EINVAL, None),
    ("null", errno.EINVAL, None),
]


@pytest.fixture
def target(module):
    """The module that is to be changed, loaded."""
    target = module("patches/refused", "klp_refused_target")
    target.load()
    return target


@pytest.fixture
def refused(livepatch, target):
    """The livepatch that makes the mistake it is told; its target is loaded."""
    return livepatch("patches/refused", "klp_refused")


@pytest.mark.klp_rules("L5", "L6")
def test_each_mistake_is_refused(refused, kernel_log):
    # One after another in one guest: what is refused leaves nothing, or the next one would show it.
    for how, number, said in MISTAKES:
        told = len(kernel_log.find(said)) if said else 0
        refused.load(f"how={how}", expect=number)
        assert refused.state is None, how
        assert not refused.loaded, how
        assert said is None or len(kernel_log.find(said)) > told, how
        refused.observe(_SHOWN, _UNCHANGED, moment=f"{how} refused")


@pytest.mark.everywhere
@pytest.mark.klp_rules("T10", "L4", "L5", "L6")
def test_what_cannot_be_patched_is_cancelled(refused, trace, kernel_log):
    refused.load("how=notrace", expect=errno.EINVAL)
    assert [each.outcome for each in trace.transitions(refused)] == ["cancelled"]
    assert kernel_log.find("failed to .*klp_ftrace_handler")
    refused.load()
    refused.observe(_SHOWN, "^answer 1 twins 10 20$")
    refused.disable()
    refused.unload()
    refused.load()


@pytest.mark.klp_rules("L5")
@pytest.mark.klp_expects(r"sysfs_create_dir_ns\+", reason="sysfs shows who names a function twice")
def test_a_function_that_is_named_twice_is_refused(guest, refused, kernel_log):
    overridden = guest.version >= EARLIEST_INIT_EBUSY
    refused.load("how=same_function", expect=errno.EBUSY if overridden else errno.EEXIST)
    assert kernel_log.find("cannot create duplicate filename '.*/klp_refused_answer,1'")
    refused.observe(_SHOWN, _UNCHANGED)


@pytest.mark.klp_rules("L5")
def test_a_symbol_position_tells_twins_apart(refused):
    shown = set()
    for sympos in (1, 2):
        refused.load(f"how=twin sympos={sympos}")
        shown.add(refused.observe(_SHOWN, "^answer 0 twins "))
        refused.disable()
        refused.unload()
    # Which of the two comes first is the linker's choice.
    assert shown == {"answer 0 twins 1 20", "answer 0 twins 10 1"}


@pytest.mark.klp_rules("L5")
def test_the_same_module_is_not_loaded_twice(refused):
    refused.load()
    refused.load(expect=errno.EEXIST)
    refused.observe(_SHOWN, "^answer 1 twins 10 20$")


def test_what_does_not_say_that_it_is_a_livepatch_is_refused(module, kernel_log):
    module("patches/refused", "klp_refused_unmarked").load(expect=errno.EINVAL)
    assert kernel_log.find("klp_refused_unmarked.* is not marked as a livepatch module")


def test_one_built_for_another_kernel_is_refused(guest, refused, tmp_path, kernel_log):
    # The release alone does not count where symbols have checksums; what the kernel was built for does.
    content, changed = re.subn(rb"(vermagic=\S+ )SMP ", rb"\1UP_ ", refused.module.file.read_bytes())
    assert changed == 1
    other = tmp_path / "klp_other.ko"
    other.write_bytes(content)
    guest.put(other, "/run/klp/other.ko")
    result = guest.run(["insmod", "/run/klp/other.ko"])
    assert errno_of(result.stderr) == errno.ENOEXEC
    assert kernel_log.find("version magic '.* UP_ .*' should be")
