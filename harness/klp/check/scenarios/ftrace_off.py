# SPDX-License-Identifier: Apache-2.0
"""An administrator who switches ftrace off, by kernel.ftrace_enabled = 0, before or after a livepatch.

A livepatch takes effect by ftrace alone. So the kernel has neither take the other's place: while ftrace is
off no function is patched (__register_ftrace_function, kernel/trace/ftrace.c), and while one is patched
ftrace stays on (ftrace_enable_sysctl). Both are refused with EBUSY (FTRACE_OPS_FL_PERMANENT, since 5.5).
"""

from __future__ import annotations

import errno

from klp.check.scenario import scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.errors import CheckFailed
from klp.guest.errnos import errno_of, name_of

_SWITCH = "/proc/sys/kernel/ftrace_enabled"


@scenario("ftrace-off", "kernel.ftrace_enabled is set to 0: before it, and while it is enabled",
          informed=True)  # fmt: skip
def ftrace_off(stage: Stage) -> None:
    """It is refused whole while ftrace is off, and goes on being in effect when ftrace cannot go off."""
    stage.set_up()
    if not _there(stage):
        raise NotApplicable("it changes no function of the kernel or a loaded module: it needs no ftrace")
    if _switch(stage, "0"):
        raise NotApplicable("something else keeps ftrace on, such as a livepatch that patch.toml loads")
    _be_refused(stage)
    _switch(stage, "1")
    stage.load()
    stage.observe(Moment.ENABLED)
    refused = _switch(stage, "0")
    if refused != errno.EBUSY:
        _switch(stage, "1")
        what = f"is refused with {name_of(refused)}" if refused else "is taken"
        stage.fault(f"while it is enabled kernel.ftrace_enabled = 0 {what}, not refused with EBUSY")
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    if _switch(stage, "0"):
        stage.fault("after it was disabled ftrace cannot be switched off: a function is patched still")
    _switch(stage, "1")
    stage.unload()
    stage.tear_down()


def _there(stage: Stage) -> bool:
    """Whether there is a function to be patched now, and not only once its module comes."""
    objects = {each for each, _ in stage.functions}
    return "vmlinux" in objects or not objects.isdisjoint(
        stage.guest.run(["ls", "/sys/module"]).stdout.split()
    )


def _be_refused(stage: Stage) -> None:
    """Load it while ftrace is off: nothing of it may come into effect, or stay."""
    got = stage.load(wait=False, expect=None)
    if not got and not stage.livepatch.state:
        raise CheckFailed(
            "its load succeeds while ftrace is off, and it is not in /sys/kernel/livepatch: its init "
            "function hides what klp_enable_patch() returned"
        )
    if not got:
        raise CheckFailed("it is enabled while ftrace is off, which keeps every function as it was")
    if got != errno.EBUSY:
        stage.fault(f"while ftrace is off its load is refused with {name_of(got)}, not with EBUSY")
    stage.note(f"while ftrace was off its load was refused with {name_of(got)}")
    stage.observe(Moment.REFUSED)


def _switch(stage: Stage, value: str) -> int:
    """Write kernel.ftrace_enabled; return the errno with which that is refused, else 0."""
    done = stage.guest.run(f"echo {value} >{_SWITCH}")
    return (errno_of(done.stderr) or errno.EIO) if done.status else 0
