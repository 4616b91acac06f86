# SPDX-License-Identifier: Apache-2.0
"""What differs between CPU architectures stands in klp.arch, and nowhere else that has moved there."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from klp import arch
from klp.doctor import host_packages
from klp.model import Accelerator, Kernel
from klp.vm.machine import programs
from klp.vm.spec import MachineSpec, argv, kernel_command_line

NOWHERE = Path("/none")
# An architecture that is none: whatever is still x86-64's in a machine of it was written down elsewhere.
OTHER = dataclasses.replace(
    arch.DEFAULT, name="other", uname="other64", qemu="other-emulator", machine="board", cpu_tcg="cpu",
    cpu_kvm="own", vmgenid=False, console="ttyO0", kernel_words=("other.word",),
)  # fmt: skip
# Names that belong to one architecture. Docstrings may have them, as examples.
LOCAL = re.compile(
    r"x86|amd64|aarch64|arm64|ttyS0|ttyAMA|EM_[A-Z]|qemu-system|q35|vmx|\btsc\b|\bRIP\b|EFLAGS|int3"
    r"|Call [Tt]race|entry_SYSCALL|</TASK>"
)
# The model stands below arch, so it says again which one is meant where nobody says more.
EXCEPT = ("harness/klp/arch/", "harness/klp/images/", "harness/klp/model.py")


def machine(architecture: arch.Architecture, accelerator: Accelerator = Accelerator.TCG) -> MachineSpec:
    return MachineSpec(
        architecture, NOWHERE, NOWHERE, NOWHERE, NOWHERE, console=NOWHERE, accelerator=accelerator
    )


def local_words(text: str) -> list[str]:
    """Return the strings of a program that name what only one architecture has."""
    tree = ast.parse(text)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    strings = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    )
    return [each for each in strings if LOCAL.search(each)]


def test_each_is_found_by_its_name() -> None:
    assert [arch.of(each.name) for each in arch.ALL] == list(arch.ALL)
    with pytest.raises(KeyError, match="pdp11"):
        arch.of("pdp11")


def test_a_kernel_of_which_nobody_says_more_is_of_the_default_one() -> None:
    kernel = Kernel("6.12", "6.12", "0", NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, None)
    assert arch.of(kernel.architecture) is arch.DEFAULT


@pytest.mark.parametrize("each", arch.ALL, ids=lambda each: each.name)
def test_its_words_can_stand_in_any_expression(each: arch.Architecture) -> None:
    for field in dataclasses.fields(each.crash):
        words = re.compile(getattr(each.crash, field.name))
        assert words.groups == 0, field.name
        assert not words.match(""), field.name


def test_the_host_is_asked_for_its_qemu() -> None:
    wanted = {row.command: row.debian for row in host_packages()}
    for each in arch.ALL:
        assert wanted[each.qemu] == each.qemu_package
        assert set(programs(each)) <= set(wanted)


def test_a_machine_of_another_has_nothing_of_x86_64() -> None:
    words = argv(machine(OTHER))
    assert words[0] == "other-emulator"
    assert words[words.index("-machine") + 1] == "board"
    assert words[words.index("-cpu") + 1] == "cpu"
    assert "own" in argv(machine(OTHER, Accelerator.KVM))
    assert {"console=ttyO0", "other.word"} <= set(kernel_command_line(machine(OTHER)).split())
    assert not LOCAL.search(" ".join(words))
    assert "vmgenid" not in " ".join(words)
    assert "vmgenid,guid=auto" in argv(machine(arch.DEFAULT))


def test_no_other_room_says_what_only_one_has(root: Path, project_files: tuple[Path, ...]) -> None:
    ours = (str(each) for each in project_files if each.suffix == ".py")
    files = [each for each in ours if each.startswith("harness/klp/") and not each.startswith(EXCEPT)]
    assert len(files) > 150
    found = {file: words for file in files if (words := local_words((root / file).read_text()))}
    assert found == {}


def test_a_word_that_slipped_out_is_found() -> None:
    assert local_words('"""Of x86."""\ndef f(release):\n    """As amd64."""\n    return 1') == []
    assert local_words('def f(name):\n    return f"console=ttyS0 {name}"') == ["console=ttyS0 "]
    assert local_words('PATTERN = r"RIP: 0010:"') == ["RIP: 0010:"]
