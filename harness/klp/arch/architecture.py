# SPDX-License-Identifier: Apache-2.0
"""What there is to know about a CPU architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashDialect:
    r"""How the kernel of one architecture words its reports, as regular expressions without groups.

    A log does not say where it is from, so whoever reads one looks for the words of every architecture
    at once (`klp.klog.dialects`). Each is looked for after the line's time stamp.

    Attributes:
        alarms: beginnings of the lines by which the CPU's own complaints are known.
        oops: beginnings of an oops's first line.
        call_trace: beginning of the line above the functions.
        trace_end: a line of its own below the last function of a task.
        interrupts: names of the stacks that interrupts run on, which stand as ``<NAME>`` in a trace.
        kernel_pc: what stands before the function that the kernel was in, ``name+0x12/0x34``; never
            before a place in user space.
        registers: beginnings of the lines that show registers.
        breakpoint: first words of an oops by a breakpoint instruction that nobody had set.
        erased_text: beginning of a ``Code:`` line of text that a module left behind and the kernel erased.
        bad_fetch: says that the CPU was sent to where there is no code.
        fault_in_modules: says that data was looked for where there is nothing but modules.
        beside_the_point: functions that say nothing about a fault: how the kernel was entered, and how
            it takes exceptions.
        spinning: functions that wait for a spinlock.
    """

    alarms: str
    oops: str
    call_trace: str
    trace_end: str
    interrupts: str
    kernel_pc: str
    registers: str
    breakpoint: str
    erased_text: str
    bad_fetch: str
    fault_in_modules: str
    beside_the_point: str
    spinning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedEntry:
    """How a function begins that ftrace can redirect, in the kernel's file.

    Attributes:
        landing: what may stand first, where indirect calls may land.
        call: how the instruction begins that calls ftrace; a distance follows.
        size: bytes of that instruction.
        function: what it calls.
        nop: how the instruction begins that the running kernel has in its place while nobody traces.
    """

    landing: bytes
    call: bytes
    size: int
    function: str
    nop: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One CPU architecture, as Debian, the kernel, the compiler, ELF and QEMU know it.

    Attributes:
        name: Debian's, by which klp calls it; kernel releases of Debian end in it.
        title: what people call it.
        uname: ``uname -m``.
        kernel: the kernel's: ``ARCH=``, and the folder below ``arch/``.
        triplet: GNU's and Debian's multiarch: libraries are below ``/usr/lib/TRIPLET``, and with a hyphen
            it is the prefix of the compiler and its tools.
        elf_machine: ``e_machine`` of its modules, as pyelftools spells it.
        elf_bits: 32 or 64.
        relocation_bytes: how many bytes a relocation of a type fills in, by the type's number in ELF files.
        relocations_from_place: types that fill in how far it is from the field to symbol and addend.
        relocations_of_address: types that fill in the address of symbol and addend.
        little_endian: in ELF files and in memory.
        boot_image: what `make` leaves for a boot loader, below the top of a build tree.
        pvh: QEMU starts the uncompressed ELF kernel by its PVH note, which saves it unpacking.
        qemu: the program.
        qemu_package: Debian's package that has it.
        machine: QEMU's machine type with its options.
        cpu_kvm: QEMU's CPU under KVM.
        cpu_tcg: QEMU's CPU under TCG.
        vmgenid: whether QEMU can tell a restored kernel that it is another machine now.
        kvm_flags: in /proc/cpuinfo of a host whose KVM runs stock kernels, any of them; none where the
            CPU does not show it there.
        console: the serial port that QEMU's ``-serial`` is, as the kernel calls it.
        kernel_words: words of the kernel's command line that only this architecture needs.
        traced_entry: how a function begins that livepatches can replace.
        returns_enodev: a whole function that may be called by its address, and returns -ENODEV.
        crash: how its kernel words its reports.
    """

    name: str
    title: str
    uname: str
    kernel: str
    triplet: str
    elf_machine: str
    elf_bits: int
    relocation_bytes: Mapping[int, int]
    relocations_from_place: frozenset[int]
    relocations_of_address: frozenset[int]
    little_endian: bool
    boot_image: str
    pvh: bool
    qemu: str
    qemu_package: str
    machine: str
    cpu_kvm: str
    cpu_tcg: str
    vmgenid: bool
    kvm_flags: tuple[str, ...]
    console: str
    kernel_words: tuple[str, ...]
    traced_entry: TracedEntry
    returns_enodev: bytes
    crash: CrashDialect
