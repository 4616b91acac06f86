# SPDX-License-Identifier: Apache-2.0
"""The functions that a livepatch changes, read from its .ko: tests/data/modules/README."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from klp.errors import NotALivepatch
from klp.modules.functions import watched
from klp.modules.modinfo import read_module

MODULES = Path(__file__).parents[1] / "data" / "modules"
PAIR = read_module(MODULES / "klp_pair_fix.ko")
BANNER = read_module(MODULES / "klp_version_banner.ko")


def test_a_function_of_vmlinux_whose_object_has_no_name():
    assert watched([BANNER]) == ("klp_version_banner:vmlinux:version_proc_show:klp_version_proc_show",)


def test_of_three_objects_only_one_has_functions():
    demo = read_module(MODULES / "livepatch-callbacks-demo.ko")
    assert watched([demo]) == (
        "livepatch_callbacks_demo:livepatch_callbacks_busymod:busymod_work_func:patched_work_func",
    )


def test_functions_of_a_module_come_in_the_order_of_the_source_livepatch_by_livepatch():
    assert watched((BANNER, PAIR)) == (
        "klp_version_banner:vmlinux:version_proc_show:klp_version_proc_show",
        "klp_pair_fix:klp_pair:klp_pair_seal:livepatch_pair_seal",
        "klp_pair_fix:klp_pair:klp_pair_open:livepatch_pair_open",
    )


def test_one_without_functions_is_passed_over_beside_others(tmp_path):
    file = tmp_path / "hidden.ko"
    file.write_bytes(PAIR.file.read_bytes().replace(b".rela.data\0", b".rela.dato\0"))
    hidden = dataclasses.replace(PAIR, file=file)
    assert watched((hidden, BANNER)) == watched((BANNER,))
    with pytest.raises(NotALivepatch, match="klp_pair_fix: no function"):
        watched((hidden,))
