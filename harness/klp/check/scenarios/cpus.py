# SPDX-License-Identifier: Apache-2.0
"""Few and many CPUs, and one that goes in mid-transition.

Every CPU has an idle task that must switch as well: in the idle loop while it is online (do_idle,
kernel/sched/idle.c), by the transition's own work while it is not (klp_try_complete_transition,
kernel/livepatch/transition.c).
"""

from __future__ import annotations

from klp.check.holding import Holder
from klp.check.scenario import scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment

_MANY = 4
_CPUS = "/sys/devices/system/cpu"


@scenario("one-cpu", "enabled and disabled with all CPUs offline but one")
def one_cpu_life(stage: Stage) -> None:
    """With one CPU, a task that keeps it busy keeps the transition's own work from running, too."""
    stage.set_up()
    one_cpu(stage)
    _live(stage)
    stage.tear_down()


@scenario("four-cpus", f"enabled and disabled on {_MANY} CPUs", cpus=_MANY)
def four_cpus(stage: Stage) -> None:
    """Tasks run and switch on several CPUs at once."""
    online = len(_online(stage))
    if online != _MANY:
        raise NotApplicable(f"the guest has {online} CPUs, not {_MANY}")
    stage.set_up()
    _live(stage)
    stage.tear_down()


@scenario("cpu-goes", "a CPU goes offline and comes back while enabling and disabling are held up")
def cpu_goes(stage: Stage) -> None:
    """Nothing of the livepatch may depend on where its tasks run; a sleeper gives the CPU time to go."""
    cpu = _spare(stage)
    stage.set_up()
    # Without the livepatch first: a CPU that does not go then says nothing of it.
    _try_to_put(stage, cpu, online=False)
    _try_to_put(stage, cpu, online=True)
    stage.load()
    holder = Holder(stage)
    holder.catch("old")
    stage.livepatch.disable()
    stage.unload()
    # Loaded a second time, for the holder found its functions by the livepatch's own entries.
    stage.load(wait=False)
    holder.await_held()
    _go_and_come(stage, cpu)
    holder.let_go()
    stage.livepatch.wait()
    stage.observe(Moment.ENABLED)
    holder.catch("new")
    stage.livepatch.disable(wait=False)
    holder.await_held()
    # It stays away until the livepatch is gone: by then a pass has switched its idle task.
    _put(stage, cpu, online=False)
    holder.let_go()
    stage.livepatch.wait()
    stage.livepatch.wait_gone()
    _put(stage, cpu, online=True)
    stage.observe(Moment.AFTER)
    stage.unload()
    stage.tear_down()


def one_cpu(stage: Stage) -> None:
    """Take every CPU offline but the first, which x86 does not let go.

    Raises:
        NotApplicable: one does not go.
    """
    for cpu in _online(stage)[1:]:
        _try_to_put(stage, cpu, online=False)


def _live(stage: Stage) -> None:
    stage.load()
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()


def _spare(stage: Stage) -> int:
    online = _online(stage)
    if len(online) < 2:
        raise NotApplicable("the guest has one CPU, which cannot go")
    return online[-1]


def _online(stage: Stage) -> list[int]:
    return cpus_of(stage.guest.read(f"{_CPUS}/online"))


def cpus_of(spans: str) -> list[int]:
    """Return the numbers in a list of CPUs such as ``0-1,3``."""
    cpus: list[int] = []
    for span in spans.split(","):
        first, _, last = span.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _go_and_come(stage: Stage, cpu: int) -> None:
    _put(stage, cpu, online=False)
    _put(stage, cpu, online=True)


def _try_to_put(stage: Stage, cpu: int, *, online: bool) -> None:
    """Take a CPU online or offline before the livepatch is loaded.

    Raises:
        NotApplicable: the kernel cannot, or would not: that is the guest's doing, and not the livepatch's.
    """
    if stage.guest.run(["test", "-e", _switch(cpu)]).status:
        raise NotApplicable("the guest's kernel cannot take CPUs offline (CONFIG_HOTPLUG_CPU)")
    done = stage.guest.run(f"echo {int(online)} >{_switch(cpu)}")
    if done.status:
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise NotApplicable(f"the guest did not take CPU {cpu} {_where(online)}: {said[0]}")


def _put(stage: Stage, cpu: int, *, online: bool) -> None:
    """Take a CPU, which went and came without the livepatch, online or offline.

    Raises:
        CheckFailed: it does not go now.
    """
    stage.guest.run(f"echo {int(online)} >{_switch(cpu)}").must(f"taking CPU {cpu} {_where(online)}")


def _switch(cpu: int) -> str:
    return f"{_CPUS}/cpu{cpu}/online"


def _where(online: bool) -> str:
    return "online" if online else "offline"
