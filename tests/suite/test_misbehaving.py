# SPDX-License-Identifier: Apache-2.0
"""A kernel that breaks its promises, by tests/faults/klp_misbehave.c, and rules that tell which one."""

from __future__ import annotations

import pytest


def fault(how, case, breaks):
    """Return one fault, the case that meets it, and the rule that its trace must show broken."""
    mark = pytest.mark.klp_breaks(breaks, reason=f"klp_misbehave does {how}")
    return pytest.param(how, case, marks=mark, id=how)


@pytest.fixture
def misbehave(livepatch):
    """Load the module that breaks a promise, which is itself a livepatch."""

    def load(how: str):
        faulty = livepatch("tests/faults", "klp_misbehave")
        faulty.load(f"how={how}")
        return faulty

    return load


@pytest.mark.parametrize(
    ("how", "case"),
    [
        fault("get_nothing", "alloc", "S2"),
        fault("get_other", "race", "S3"),
        fault("free_none", "free_all", "S6"),
    ],
)
def test_shadow_variables(misbehave, shadow_cases, how, case):
    faulty = misbehave(how)
    shadow_cases(case, parameters="count=20 threads=2")
    assert int(faulty.parameter("struck")) > 0
