# SPDX-License-Identifier: Apache-2.0
"""The QEMU command line is a pure function of the machine, and shuts the guest in."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from klp.arch import DEFAULT
from klp.model import Accelerator
from klp.vm.spec import MachineSpec, argv, kernel_command_line, qemu_version

SPEC = MachineSpec(
    architecture=DEFAULT, kernel=Path("/c/kernel"), initrd=Path("/c/initrd"), disk=Path("/r/overlay.qcow2"),
    kernel_disk=Path("/c/kernel.ext4"), console=Path("/r/console.log"),
)  # fmt: skip


def changed(**what: object) -> MachineSpec:
    return dataclasses.replace(SPEC, **what)


def after(words: list[str], option: str) -> list[str]:
    """Every value that `option` is given."""
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_the_same_machine_has_the_same_command_line() -> None:
    assert argv(SPEC) == argv(changed())
    assert argv(SPEC)[0] == "qemu-system-x86_64"
    assert all(isinstance(word, str) and word for word in argv(SPEC))


@pytest.mark.parametrize(
    ("change", "option", "value"),
    [
        ({"cpus": 7}, "-smp", "7"),
        ({"memory_mib": 3000}, "-m", "3000M"),
        ({"kernel": Path("/k")}, "-kernel", "/k"),
        ({"initrd": Path("/i")}, "-initrd", "/i"),
        ({"qmp_fd": 23}, "-chardev", "socket,id=qmp,fd=23"),
        ({"console": Path("/x")}, "-chardev", "file,id=console,path=/x"),
        ({"accelerator": Accelerator.KVM}, "-accel", "kvm"),
        ({"accelerator": Accelerator.KVM}, "-cpu", "host"),
    ],
)
def test_each_fact_reaches_the_command_line(change: dict[str, object], option: str, value: str) -> None:
    def given(spec: MachineSpec) -> bool:
        return any(f"{each},".startswith(f"{value},") for each in after(argv(spec), option))

    assert not given(SPEC)
    assert given(changed(**change))


def test_another_qmp_descriptor_changes_nothing_else() -> None:
    assert SPEC.with_qmp(9) == changed(qmp_fd=9)


def test_tcg_runs_all_cpus_in_one_thread() -> None:
    assert after(argv(SPEC), "-accel") == ["tcg,thread=single"]
    assert "thread" not in " ".join(after(argv(changed(accelerator=Accelerator.KVM)), "-accel"))


def test_tcg_has_no_instruction_that_copies_memory_byte_by_byte() -> None:
    assert after(argv(SPEC), "-cpu") == ["max,erms=off"]


@pytest.mark.parametrize("field", ["disk", "kernel_disk", "console"])
def test_commas_in_paths_are_doubled(field: str) -> None:
    words = argv(changed(**{field: Path("/a,b/c,,d")}))
    [value] = [word for word in words if "/a" in word]
    assert "/a,,b/c,,,,d," in f"{value},"


@pytest.mark.parametrize("field", ["kernel", "initrd"])
def test_words_of_their_own_are_not_escaped(field: str) -> None:
    assert "/a,b" in argv(changed(**{field: Path("/a,b")}))


def test_the_guest_reaches_nothing_and_is_reached_from_here_alone() -> None:
    [netdev] = after(argv(SPEC), "-netdev")
    options = netdev.split(",")
    assert options[0] == "user"
    assert "restrict=on" in options
    assert "ipv6=off" in options
    assert [each for each in options if each.startswith("hostfwd=")] == [
        "hostfwd=tcp:127.0.0.1:0-10.0.2.15:22"
    ]


def test_qemu_is_sandboxed_and_takes_nothing_from_the_user() -> None:
    words = argv(SPEC)
    [sandbox] = after(words, "-sandbox")
    assert set(sandbox.split(",")) == {
        "on", "obsolete=deny", "elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny",
    }  # fmt: skip
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)
    assert after(words, "-display") == ["none"]


def test_only_the_overlay_can_be_written() -> None:
    root, kernel = after(argv(SPEC), "-drive")
    assert "file=/r/overlay.qcow2" in root.split(",")
    assert "readonly=on" not in root
    assert "file=/c/kernel.ext4" in kernel.split(",")
    assert "readonly=on" in kernel.split(",")


def test_mitigations_are_off_only_where_nobody_wants_them() -> None:
    assert "mitigations=off" in kernel_command_line(SPEC).split()
    assert "mitigations" not in kernel_command_line(changed(mitigations=True))


def test_an_oops_ends_the_guest() -> None:
    words = kernel_command_line(SPEC).split()
    assert {"oops=panic", "panic=-1", "console=ttyS0"} <= set(words)


def test_more_words_come_last() -> None:
    line = kernel_command_line(changed(append=("quiet", "maxcpus=1")))
    assert line.endswith(" quiet maxcpus=1")
    assert after(argv(changed(append=("quiet",))), "-append") == [
        kernel_command_line(changed(append=("quiet",)))
    ]


def test_only_an_emulated_cpu_may_stand_still_for_longer() -> None:
    longer = {"watchdog_thresh", "rcupdate.rcu_cpu_stall_timeout"}

    def named(spec: MachineSpec) -> set[str]:
        return {word.partition("=")[0] for word in kernel_command_line(spec).split()}

    assert longer <= named(SPEC)
    assert not longer & named(changed(accelerator=Accelerator.KVM))


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", "7.2.22"),
        ("another emulator", "unknown"),
    ],
)
def test_the_version_is_what_qemu_says_of_itself(tmp_path: Path, said: str, version: str) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(f"#!/bin/sh\necho '{said}'\n")
    qemu.chmod(0o755)
    assert qemu_version(dataclasses.replace(DEFAULT, qemu=str(qemu))) == version


@pytest.mark.parametrize("known", [True, False])
def test_a_restored_guest_is_told_that_it_is_another_machine(known: bool) -> None:
    words = argv(changed(architecture=dataclasses.replace(DEFAULT, vmgenid=known)))
    assert ("vmgenid,guid=auto" in after(words, "-device")) is known
