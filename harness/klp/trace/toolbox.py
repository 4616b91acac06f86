# SPDX-License-Identifier: Apache-2.0
"""The probes as commands of a guest that people work in: `klptransition`, and so on."""

from __future__ import annotations

import shlex

from klp.guest.ssh import Guest
from klp.trace.catalogue import ProbeTool, probe_tools
from klp.trace.tracer import probe_output, probe_program, ship_probes

# In every PATH there is: that of the SSH server for its commands has no /usr/local.
_COMMANDS = "/usr/bin"
_SCRIPT = """#!/bin/sh
exec python3 {program} {armed} "$@"
"""


def put_on_path(guest: Guest) -> None:
    """Make the probes commands of a guest; where one is armed, its command shows what that one sees.

    Raises:
        CheckFailed, VmLost: they cannot be put there; the machine was lost meanwhile.
    """
    tools = probe_tools()
    if guest.run(["test", "-e", probe_program(tools[0].name)]).status:
        ship_probes(guest)
    lines = (f"printf %s {shlex.quote(_script(each))} >{_COMMANDS}/{each.name}" for each in tools)
    names = " ".join(f"{_COMMANDS}/{each.name}" for each in tools)
    guest.run(" && ".join((*lines, f"chmod 755 {names}"))).must("putting the probes on the PATH")


def _script(tool: ProbeTool) -> str:
    armed = f"--armed {probe_output(tool.name)}" if tool.armed else ""
    return _SCRIPT.format(program=probe_program(tool.name), armed=armed)
