# SPDX-License-Identifier: Apache-2.0
"""The last look at a test's guest: its kernel log is taken, and whether it lived until then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.analysis.evidence import Verdict, overall
from klp.analysis.result import PlanResult
from klp.errors import HostLacks, KlpError, VmLost
from klp.lab.lab import Lab


@dataclass(frozen=True, slots=True)
class LastLook:
    """What came of it: how the guest was lost by then, or what failed meanwhile, in words."""

    lost: VmLost | None = None
    failure: str = ""


def look_last(lab: Lab, log: Path, mark: Callable[[], object]) -> LastLook:
    """Have the probes write out all they saw, and the guest's kernel log written to a file.

    Of a lost guest, what its console has stands in the file.

    Raises:
        HostLacks: this host cannot write down what is to be kept.
    """
    try:
        mark()
        # Over the second connection: on the first a command may still hang, which is why the test failed.
        log.write_text(lab.diagnosis.run("dmesg").stdout)
        lab.machine.check_alive()
    except VmLost as lost:  # before KlpError, which it is as well
        log.write_text(lab.machine.console.text())
        return LastLook(lost)
    except HostLacks:  # says nothing of the guest, and will not be otherwise for the next one
        raise
    except KlpError as failure:
        return LastLook(failure=failure.message)
    return LastLook()


def ended_verdict(error: str | None, plans: Sequence[PlanResult]) -> Verdict:
    """Return the verdict of a test's run: what its plans say; but held only if nothing went wrong.

    Args:
        error: what went wrong, in words: also that the guest was lost, which a plan may put down to nobody.
    """
    verdict = overall(each.verdict for each in plans)
    return Verdict.VIOLATED if error and (verdict is Verdict.HELD or not plans) else verdict
