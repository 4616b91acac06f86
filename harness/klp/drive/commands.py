# SPDX-License-Identifier: Apache-2.0
"""The commands that load, disable and remove modules in a guest: run by some, printed by others."""

from __future__ import annotations

import shlex

from klp.errors import UsageError
from klp.klog.transitions import PASSES_TOLD_BY

GUEST_MODULES = "/run/klp/modules"
SYSFS = "/sys/kernel/livepatch"

# Has the kernel log which task a pass left behind: without probes, passes are counted by those lines. With
# them it stays off: printing from klp_try_switch_task has locked up machines with many tasks.
TELL_PASSES = f"echo '{PASSES_TOLD_BY}' >/sys/kernel/debug/dynamic_debug/control"


def guest_path(module: str) -> str:
    """Return where in a guest the file of a module lies that is called so."""
    return f"{GUEST_MODULES}/{module}.ko"


def insmod(path: str, parameters: str) -> list[str]:
    """Return what loads a module's file, with parameters ``k=v k=v``.

    Raises:
        UsageError: a quote in the parameters is left open.
    """
    try:
        return ["insmod", path, *shlex.split(parameters)]
    except ValueError as error:
        raise UsageError(f"parameters {parameters!r}: {str(error).lower()}") from None


def rmmod(module: str) -> list[str]:
    """Return what removes a module."""
    return ["rmmod", module]


def write_attribute(livepatch: str, attribute: str, value: int) -> str:
    """Return the line that writes a number to a file of a livepatch in sysfs."""
    return f"echo {value} >{SYSFS}/{livepatch}/{attribute}"


def wait_while_in_transition(module: str) -> str:
    """Return a line that waits like `Livepatches.wait_transition`; for a plain module it ends at once."""
    return f'while [ "$(cat {SYSFS}/{module}/transition 2>/dev/null)" = 1 ]; do sleep 0.1; done'


def wait_while_there(livepatch: str) -> str:
    """Return a line that waits like `Livepatches.wait_gone`."""
    return f"while [ -d {SYSFS}/{livepatch} ]; do sleep 0.1; done"
