# SPDX-License-Identifier: Apache-2.0
"""Objects that are no modules: which is a fault, which a note, and which name was meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from klp.check.objects import ObjectNames, judge_names
from klp.images.disk import make_kernel_disk
from klp.images.kmods import KernelModules, modules_on, needs_on
from klp.model import Kernel

RELEASE = "6.12.118"
KERNEL = KernelModules(frozenset({"nf_tables", "loop", "snd_hda_intel"}), frozenset({"ext4"}))
OWN = ("klp_fix", "klp_target")
HYPHENS = "; a module's name has underscores where its file has hyphens"
BUILT_IN = "is built into this kernel, so that its functions are those of vmlinux (.name = NULL)"
NOWHERE = f"no module of {RELEASE}, nor of its sources"


def judged(*names: str, vmlinux: bool = False) -> ObjectNames:
    return judge_names(names, OWN, KERNEL, RELEASE, vmlinux=vmlinux)


@pytest.mark.parametrize("names", [(), ("loop",), ("klp_target", "nf_tables")])
def test_modules_that_exist_are_passed_over(names: tuple[str, ...]) -> None:
    assert judged(*names, vmlinux=not names) == ObjectNames()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("snd-hda-intel", f"{HYPHENS}: did you mean snd_hda_intel?"),
        ("klp-target", f"{HYPHENS}: did you mean klp_target?"),
        ("abc-xyz", HYPHENS),
        ("zfs.ko", "; klp_object.name is the module's name, without .ko"),
        ("loop.ko", "; klp_object.name is the module's name, without .ko: did you mean loop?"),
        ("nf_table", "; did you mean nf_tables?"),
        ("vmlinux", "; for the kernel itself, klp_object.name is NULL"),
        ("ext4", f"; ext4 {BUILT_IN}"),
        ("zfs", ""),
    ],
)  # fmt: skip
def test_an_only_object_that_is_no_module_is_a_fault(name: str, why: str) -> None:
    told = f"it changes nothing on this kernel: its only object `{name}` is {NOWHERE}{why}"
    assert judged(name) == ObjectNames((told,))


def test_of_several_that_are_none_each_is_named() -> None:
    [told] = judged("zfs", "spl").faults
    assert told == f"it changes nothing on this kernel: of its objects `zfs`, `spl` each is {NOWHERE}"


def test_one_that_may_come_some_day_is_a_note_beside_one_that_is_here() -> None:
    note = f"its object `zfs` is {NOWHERE}: what it changes there was not tried"
    assert judged("zfs", vmlinux=True) == ObjectNames((), (note,))
    assert judged("zfs", "loop") == ObjectNames((), (note,))


def test_one_that_can_never_come_is_a_fault_beside_one_that_is_here() -> None:
    found = judged("nf-tables", "zfs", vmlinux=True)
    assert found.faults == (
        f"its object `nf-tables` is {NOWHERE}: a module's name has underscores where its file has hyphens: "
        "did you mean nf_tables?",
    )
    assert len(found.notes) == 1


@pytest.mark.skipif(not shutil.which("mke2fs"), reason="mke2fs is not installed")
def test_the_modules_are_read_from_the_kernels_disk(tmp_path: Path) -> None:
    folder = tmp_path / f"disk/modules/{RELEASE}"
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text("kernel/a/snd-hda.ko.xz: kernel/b/x.ko.xz\nkernel/b/x.ko.xz:\n")
    (folder / "modules.builtin").write_text("kernel/fs/ext-4.ko\n")
    make_kernel_disk(tmp_path / "disk", tmp_path / "disk.ext4")
    paths = dict.fromkeys(("image", "initrd", "build", "toolchain"), tmp_path)
    kernel = Kernel("6.12", RELEASE, "d", disk=tmp_path / "disk.ext4", source=None, **paths)
    assert modules_on(kernel) == KernelModules(frozenset({"snd_hda", "x"}), frozenset({"ext_4"}))
    assert needs_on(kernel) == {"snd_hda": {"x"}, "x": set()}
    other = Kernel("6.12", "6.13", "d", disk=tmp_path / "disk.ext4", source=None, **paths)
    assert modules_on(other) is None
