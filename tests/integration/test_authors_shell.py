# SPDX-License-Identifier: Apache-2.0
"""The commands of patch.toml meet the same shell wherever they are run in a guest."""

from __future__ import annotations

import pytest

from klp.check.background import in_background
from klp.check.exercise.remote import Exerciser
from klp.check.exercise.workloads import GuestWorkload, Origin, WorkloadKind
from klp.waiting import wait_until

pytestmark = pytest.mark.vm("6.12")

# What a shell counts of itself and what it ran last is its own.
LOOK = (
    'echo "bash $BASH_VERSION"; pwd; umask; read -r line; echo "read $?"; '
    "env | grep -Ev '^(_|SHLVL|OLDPWD)=' | sort"
)


@pytest.fixture(scope="module")
def observed(lab):
    """What the shell is that runs the commands of [[observe]]."""
    return lab.guest.run(LOOK).stdout


def test_it_is_bash_with_nothing_to_read(observed):
    lines = observed.splitlines()
    assert lines[0].startswith("bash 5.")
    assert "read 1" in lines


def test_a_connection_of_its_own_has_the_same(lab, observed):
    # With something to read it is not run in the shell that is kept: see `Guest.run`.
    assert lab.guest.run(f"true; read -r; {LOOK}", stdin=b"\n").stdout == observed


def test_a_workload_has_the_same(lab, observed):
    exerciser = Exerciser(lab.guest)
    exerciser.start()
    workload = GuestWorkload(kind=WorkloadKind.COMMAND, text=LOOK, origin=Origin.AUTHOR, shell="bash")
    exerciser.use([workload])
    assert exerciser.alone()[0].output == observed


def test_a_command_in_the_background_has_the_same(lab, observed):
    with in_background(lab.guest, "look", [f"({LOOK}) >/run/klp/seen; mv /run/klp/seen /run/klp/looked"]):
        wait_until(
            lambda: lab.guest.run("test -e /run/klp/looked").status == 0,
            what="end of the command", timeout_s=60.0, every_s=0.2,
        )  # fmt: skip
    assert lab.guest.run("cat /run/klp/looked").stdout == observed
