# SPDX-License-Identifier: Apache-2.0
"""Which modules of the kernel's own are loaded for a livepatch, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.check import candidate as module_under_test
from klp.check.candidate import Candidate, with_kernel_modules
from klp.model import Kernel, Module
from klp.modules.plan import LoadedBefore, PatchPlan

NEEDS = {
    "near": frozenset({"far"}),
    "far": frozenset[str](),
    "far_too": frozenset[str](),
    "apart": frozenset[str](),
}
KERNEL = Kernel(
    "6.12", "6.12.1", "d", disk=Path("disk"), source=None,
    **dict.fromkeys(("image", "initrd", "build", "toolchain"), Path("x")),
)  # fmt: skip


def built(name: str, *depends: str, livepatch: bool = False) -> Module:
    return Module(
        name=name, file=Path(f"{name}.ko"), vermagic="", livepatch=livepatch, depends=depends,
        licence="GPL", sha256="",
    )  # fmt: skip


@pytest.fixture
def candidate(monkeypatch: pytest.MonkeyPatch):
    """Make a livepatch of objects, whose plan loads modules; what it and they need is given."""

    def make(objects: tuple[str, ...] | None, *loads: str, modules: tuple[Module, ...] = ()) -> Candidate:
        found = objects or ()
        monkeypatch.setattr(module_under_test, "changed_modules", lambda _module, _kernel: found)
        livepatch = next((each for each in modules if each.livepatch), built("klp_x", livepatch=True))
        plan = PatchPlan(
            name="x",
            summary="x",
            livepatch="klp_x",
            load=tuple(LoadedBefore(module=each) for each in loads),
        )
        every = {each.name: each for each in (*modules, livepatch)}
        return with_kernel_modules(Candidate("x", plan, livepatch, every, KERNEL), NEEDS)

    return make


def loaded(one: Candidate) -> list[str]:
    return [each.module for each in one.plan.load]


def test_what_is_changed_and_what_is_used_comes_first_and_the_farthest_foremost(candidate) -> None:
    one = candidate(("near",), modules=(built("klp_x", "far", "far-too", livepatch=True),))
    assert loaded(one) == ["far", "far_too", "near"]
    assert one.implied == {"far", "far_too", "near"}
    assert one.resident == {"far": NEEDS["far"], "far_too": NEEDS["far_too"], "near": NEEDS["near"]}


def test_what_the_author_names_stays_where_it_stands(candidate) -> None:
    one = candidate(("near", "apart"), "klp_target", "near", modules=(built("klp_target"),))
    assert loaded(one) == ["apart", "klp_target", "near"]
    assert one.implied == {"apart"}
    assert set(one.resident) == {"apart", "near"}


def test_what_a_module_of_the_sources_needs_comes_as_well(candidate) -> None:
    assert loaded(candidate((), "klp_target", modules=(built("klp_target", "far"),))) == [
        "far",
        "klp_target",
    ]


def test_what_the_sources_make_is_not_taken_from_the_kernel(candidate) -> None:
    one = candidate(("near",), modules=(built("near"),))
    assert (loaded(one), one.implied, one.resident) == ([], frozenset(), {})


@pytest.mark.parametrize("objects", [None, (), ("zfs",)], ids=["unknown", "vmlinux", "out of tree"])
def test_what_the_kernel_does_not_have_is_left(candidate, objects: tuple[str, ...] | None) -> None:
    assert loaded(candidate(objects)) == []
