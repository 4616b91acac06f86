# SPDX-License-Identifier: Apache-2.0
"""x86-64. The kernel's words are those of 6.1 to 7.2."""

from __future__ import annotations

from klp.arch.architecture import Architecture, CrashDialect, TracedEntry

_CRASH = CrashDialect(
    alarms="general protection fault",
    oops=(
        r"BUG: (?:kernel NULL pointer dereference|unable to handle|.*stack guard page was hit)"
        r"|traps: PANIC: double fault|(?:Oops: )?[^\s:][^:]*: [0-9a-f]{4} \[#\d+\]"
    ),
    call_trace="Call Trace:",
    trace_end="</TASK>",
    interrupts="IRQ|NMI|SOFTIRQ",
    # Code segment 10 is the kernel's; a system call's trace ends with user space's RIP in segment 33.
    kernel_pc="RIP: 0010:",
    registers=r"RIP: |RSP: |R[A-DS][XPI]: |R\d\d: |[CDFG]S: |CR\d: |DR\d: |PKRU: ",
    breakpoint=r"int3: [0-9a-f]{4} \[#",
    # 7.2 fills a module's text with int3 when it goes. Before, whoever ran it died of a page fault.
    erased_text="Code: (?:cc ){8,}<cc>",
    bad_fetch="#PF: supervisor instruction fetch in kernel mode",
    # Modules are mapped from ffffffffc0000000 on, above the kernel's own image, and little else is. The
    # memory of one that went is no longer mapped.
    fault_in_modules=r"unable to handle page fault for address: ffffffff[c-f][0-9a-f]{7}\b",
    beside_the_point=(
        r"page_fault_oops|\w*exc_\w+|asm_\w+|do_trap|do_error_trap|do_kern_addr_fault"
        r"|entry_SYSCALL\w*|do_syscall_\w+|x64_sys_call"
    ),
    spinning=r"native_queued_\w+",
)

AMD64 = Architecture(
    name="amd64",
    title="x86-64",
    uname="x86_64",
    kernel="x86",
    triplet="x86_64-linux-gnu",
    elf_machine="EM_X86_64",
    elf_bits=64,
    # System V ABI, AMD64 supplement, "Relocation Types", those in kernel objects: NONE, 64, PC32, PLT32,
    # GOTPCREL, 32, 32S, PC64, GOTPCRELX, REX_GOTPCRELX.
    relocation_bytes={0: 0, 1: 8, 2: 4, 4: 4, 9: 4, 10: 4, 11: 4, 24: 8, 41: 4, 42: 4},
    # A function that is linked in is called without a table between (PLT32).
    relocations_from_place=frozenset({2, 4, 24}),
    relocations_of_address=frozenset({1, 10, 11}),
    little_endian=True,
    boot_image="arch/x86/boot/bzImage",
    pvh=True,
    qemu="qemu-system-x86_64",
    qemu_package="qemu-system-x86",
    # Each device that is left out is one that the kernel need not look for at every boot.
    machine="q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off",
    cpu_kvm="host",
    # TCG executes `rep stosb` and `rep movsb` a byte at a time; without ERMS the kernel takes other ways.
    # `smap` costs more, but stays: it catches a livepatch that reaches into user memory (docs/facts.md).
    cpu_tcg="max,erms=off",
    vmgenid=True,
    kvm_flags=("vmx", "svm"),
    console="ttyS0",
    kernel_words=(
        # Under emulation the TSC and the PIT drift apart, and the kernel spends a second finding out.
        "tsc=reliable",
        # timer_irq_works() (arch/x86/kernel/apic/io_apic.c) wants some ticks within a short loop, which a
        # busy host may not give a guest.
        "no_timer_check",
        # The CPU's random numbers are enough to start with: getrandom() need not wait for others.
        "random.trust_cpu=on",
        "8250.nr_uarts=1",
    ),
    # ENDBR64; CALL; and ASM_NOP5 of arch/x86/include/asm/nops.h.
    traced_entry=TracedEntry(
        landing=b"\xf3\x0f\x1e\xfa", call=b"\xe8", size=5, function="__fentry__", nop=b"\x0f\x1f\x44"
    ),
    # ENDBR64; MOV EAX, -19; RET.
    returns_enodev=b"\xf3\x0f\x1e\xfa\xb8\xed\xff\xff\xff\xc3",
    crash=_CRASH,
)
