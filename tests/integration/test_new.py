# SPDX-License-Identifier: Apache-2.0
"""`klp new`: what it writes passes `klp check` as it is, of a function of the kernel and of a module."""

from __future__ import annotations

import json
import os

import pytest

pytestmark = pytest.mark.vm("6.12")


@pytest.mark.parametrize("function", ["cmdline_proc_show", "ext4:ext4_seq_options_show"])
def test_what_is_written_passes_a_check_as_it_is(klp, tmp_path, function):
    folder = tmp_path / "my-fix"
    made = klp("new", folder, "--function", function, "-k", "6.12", stdin=-3)
    assert made.returncode == 0, made.stderr
    checking = ("check", folder, "-k", "6.12", "-s", "life", "-s", "exercise", "--json")
    checked = klp(*checking, stdin=-3, env={**os.environ, "KLP_RUNS": str(tmp_path)})
    assert checked.returncode == 0, checked.stderr
    # Held is said only of a function that was seen to run: it went on in the original, and came back.
    assert {each["verdict"] for each in json.loads(checked.stdout)["outcomes"]} == {"held"}
