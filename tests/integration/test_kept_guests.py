# SPDX-License-Identifier: Apache-2.0
"""`klp up|exec|ssh|cp|ps|down`: a guest that outlives the command that started it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from klp.waiting import wait_until

from .conftest import gone

pytestmark = pytest.mark.vm("6.12")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A runtime folder of our own, so that a developer's guests are neither seen nor ended."""
    folder = tmp_path_factory.mktemp("runtime")
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder)}


@pytest.fixture(scope="module")
def up(klp, home):
    started = klp("up", "--name", "test", env=home)
    assert started.returncode == 0, started.stderr
    yield
    ended = klp("down", "--all", env=home)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def at(klp, home, up):
    def run(*words, **options):
        return klp(*words, env=home, **options)

    return run


def test_command_streams_and_status_are_ours(at):
    done = at("exec", "echo out; echo err >&2; exit 7", stdin=-3)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_input_goes_in(at):
    assert at("exec", "cat", input="line\n").stdout == "line\n"


def test_files_go_both_ways(at, tmp_path):
    source = tmp_path / "source"
    source.write_text("content\n")
    assert at("cp", source, "guest:/root/").returncode == 0
    assert at("cp", "guest:/root/source", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_text() == "content\n"


def test_openssh_is_let_in_by_the_pinned_key(at):
    assert at("ssh", "uname", "-s", stdin=-3).stdout == "Linux\n"


def test_ps_shows_it(at):
    [guest] = json.loads(at("ps", "--json").stdout)
    assert guest["name"] == "test"
    assert guest["release"].startswith("6.12")


def test_a_second_of_its_name_is_refused(at):
    done = at("up", "--name", "test")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-2].startswith("error: guest test is up already")


def test_down_leaves_nothing(klp, home):
    assert klp("up", "--name", "other", env=home).returncode == 0
    [keeper] = [
        g["keeper"] for g in json.loads(klp("ps", "--json", env=home).stdout) if g["name"] == "other"
    ]
    assert klp("down", "--name", "other", env=home).returncode == 0
    wait_until(lambda: gone(keeper), what="end of the keeper", timeout_s=10, every_s=0.05)
    assert not list(Path(home["XDG_RUNTIME_DIR"]).glob("klp/guests/other*"))
    missing = klp("exec", "--name", "other", "true", env=home, stdin=-3)
    assert missing.returncode == 2
    assert "error: no guest other is up" in missing.stderr
