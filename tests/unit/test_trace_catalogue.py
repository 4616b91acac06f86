# SPDX-License-Identifier: Apache-2.0
"""The list of probes: tools that run by themselves, not the parts that they share."""

from __future__ import annotations

from klp.trace.catalogue import probe_tools


def test_lists_the_tools_and_nothing_that_they_share():
    tools = probe_tools()
    assert [each.name for each in tools] == [
        "klpcallbacks",
        "klpconsistency",
        "klpshadow",
        "klpstates",
        "klptransition",
    ]
    assert all(each.example and each.manual and each.summary for each in tools)
    assert [each.name for each in tools if not each.armed] == ["klpconsistency"]
