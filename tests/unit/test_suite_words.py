# SPDX-License-Identifier: Apache-2.0
"""What a test hears of a kernel: error numbers in a command's words, and reports in its log."""

from __future__ import annotations

import errno

import pytest

from klp.guest.errnos import errno_of, name_of
from klp.klog.expected import Expected, missing, unexpected
from klp.klog.reports import reports

WARN = (
    "[   12.1] ------------[ cut here ]------------",
    "[   12.1] klp_shadow: duplicate <ffff8881, 1>",
    "[   12.1] WARNING: CPU: 0 PID: 311 at kernel/livepatch/shadow.c:163 __klp_shadow_get_or_alloc+0x1/0x2",
    "[   12.1] Modules linked in: klp_a(OEK)",
    "[   12.1] RIP: 0010:__klp_shadow_get_or_alloc+0x1a2/0x1b0",
    "[   12.1] Call Trace:",
    "[   12.1]  <TASK>",
    "[   12.1]  init+0x1/0x2 [klp_a]",
    "[   12.1] ---[ end trace 0000000000000000 ]---",
)
HUNG = (
    "[   20.0] INFO: task klp_fault:99 blocked for more than 2 seconds.",
    "[   20.0]       Tainted: G           OE      6.12",
    "[   20.0] Call Trace:",
    "[   20.0]  __schedule+0x1/0x2",
)
PLAIN = ("[   13.0] livepatch: enabling patch 'klp_a'", "[   13.1] livepatch: 'klp_a': patching complete")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("insmod: ERROR: could not insert module /run/a.ko: Invalid parameters", errno.EINVAL),
        ("insmod: ERROR: could not insert module a.ko: Invalid module format", errno.ENOEXEC),
        ("insmod: ERROR: could not insert module a.ko: Unknown symbol in module", errno.ENOENT),
        ("insmod: ERROR: could not insert module a.ko: No such device", errno.ENODEV),
        ("insmod: ERROR: could not insert module a.ko: File exists", errno.EEXIST),
        ("bash: line 1: echo: write error: Device or resource busy", errno.EBUSY),
        ("rmmod: ERROR: Module klp_a is in use", errno.EAGAIN),
        ("rmmod: ERROR: Module klp_a is in use by: klp_b", errno.EAGAIN),
        ("rmmod: ERROR: Module klp_a is not currently loaded", errno.ENOENT),
        ("warning: x\ninsmod: ERROR: could not insert module a.ko: Cannot allocate memory", errno.ENOMEM),
        ("something else", None),
        ("", None),
    ],
)
def test_errno_is_read_from_words(said, number):
    assert errno_of(said) == number


def test_errnos_have_names():
    assert [name_of(each) for each in (errno.EINVAL, 0, None)] == ["EINVAL", "success", "an unknown error"]


def test_a_report_is_taken_whole_and_by_itself():
    lines = (*PLAIN, *WARN, *PLAIN, *HUNG, *PLAIN, *WARN, *HUNG)
    assert reports(lines) == (WARN, HUNG, WARN, HUNG)
    assert reports(PLAIN) == ()


@pytest.mark.parametrize(
    "pattern", [r"WARNING: .*shadow\.c", r"klp_shadow: duplicate", r"RIP: .*__klp_shadow"]
)
def test_any_line_of_a_report_can_be_expected(pattern):
    known = [Expected(pattern, "why")]
    assert unexpected((*PLAIN, *WARN, *HUNG), known) == (HUNG,)
    assert unexpected(WARN, [Expected("BUG", "why")]) == (WARN,)
    assert missing(WARN, known) == ()


def test_what_did_not_come_is_missing():
    expected = Expected("WARNING", "why")
    assert missing(PLAIN, [expected]) == (expected,)
