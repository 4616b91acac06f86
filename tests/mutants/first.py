# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: run the tests that observe given rules first, for a failure that comes early.

Loaded by ``-p tests.mutants.first``; the order is all that it changes.
"""

from __future__ import annotations

import pytest

from klp.testing import markers


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--first", default="", metavar="RULES", help="rules, separated by commas")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by how many of the rules a test observes; equal ones stay in their order."""
    wanted = set(filter(None, config.option.first.split(",")))
    items.sort(key=lambda item: -len(wanted & {*markers.rules_of(item), *markers.breaks_of(item)}))
