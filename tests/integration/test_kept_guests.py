# SPDX-License-Identifier: Apache-2.0
"""`klp up|exec|ssh|cp|ps|down`: a guest that outlives the command that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from klp.waiting import wait_until

from .conftest import KLP, gone

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


def test_bytes_go_in_and_come_back_as_they_are(home, up):
    content = os.urandom(4 << 20)
    done = subprocess.run([KLP, "exec", "cat"], env=home, input=content, capture_output=True, check=True)
    assert done.stdout == content


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


def test_folders_go_both_ways(at, tmp_path):
    source = tmp_path / "folder"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "script").write_text("#!/bin/sh\necho here\n")
    (source / "inner" / "script").chmod(0o755)
    (source / "link").symlink_to("inner/script")
    assert at("cp", source, "guest:/root").returncode == 0
    assert at("exec", "/root/folder/link", stdin=-3).stdout == "here\n"
    assert at("cp", source, "guest:/root/renamed").returncode == 0
    assert at("cp", "guest:/root/renamed", tmp_path / "back").returncode == 0
    assert (tmp_path / "back" / "link").readlink().as_posix() == "inner/script"
    assert os.access(tmp_path / "back" / "inner" / "script", os.X_OK)


def test_output_comes_while_the_command_runs_and_ctrl_c_ends_it_in_the_guest(at, home, up):
    with subprocess.Popen(
        [KLP, "exec", "echo one; exec sleep 913"], env=home, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        assert running.stdout.readline() == "one\n"
        assert at("exec", "pgrep -x sleep", stdin=-3).stdout
        running.send_signal(signal.SIGINT)
    assert running.returncode == 130
    wait_until(
        lambda: at("exec", "pgrep -x sleep", stdin=-3).returncode == 1,
        what="end",
        timeout_s=60,
        every_s=0.1,
    )


def test_an_armed_probe_shows_a_transition_without_being_compiled(at, home, samples, tmp_path):
    at("cp", samples["livepatch_sample"].file, "guest:/root/")
    said = tmp_path / "said"
    with said.open("w") as errors, subprocess.Popen(
        [KLP, "exec", "klptransition"], env=home, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
    ) as tracing:  # fmt: skip
        assert tracing.stdout.readline() == "Tracing the livepatch core... Hit Ctrl-C to end.\n"
        assert tracing.stdout.readline().startswith("TIME(s)")
        wait_until(lambda: "ready" in said.read_text(), what="probe", timeout_s=60, every_s=0.05)
        assert at("exec", "insmod /root/livepatch-sample.ko", stdin=-3).returncode == 0
        shown = next(line for line in tracing.stdout if " complete" in line)
        tracing.send_signal(signal.SIGINT)
    assert "livepatch_sample" in shown
    assert "compiling" not in said.read_text()


@pytest.fixture
def cold(klp, home):
    """A guest in which no probe is armed."""
    assert klp("up", "--cold", "--name", "cold", env=home).returncode == 0

    def run(command, *words):
        return klp(command, "--name", "cold", *words, env=home, stdin=-3)

    yield run
    assert run("down").returncode == 0


def test_the_exported_probes_run_where_klp_is_not(cold, klp, tmp_path):
    assert cold("exec", "klpshadow --help").stdout.startswith("usage: klpshadow")
    folder, file = tmp_path / "probes", tmp_path / "klp-probes.pyz"
    assert klp("probes", "--export", folder, "--zipapp", file).returncode == 0
    for each in (folder, file):
        assert cold("cp", each, "guest:/root/").returncode == 0
    assert cold("exec", "rm -r /run/klp /usr/bin/klp*").returncode == 0
    for command in ("/root/probes/klpcallbacks.py", "python3 /root/klp-probes.pyz klpcallbacks"):
        done = cold("exec", f"{command} -d 0.1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Tracing the livepatch core")
        words = [line.partition(": ")[2].split()[0] for line in done.stderr.splitlines() if ": " in line]
        assert words[:2] == ["compiling", "attaching"]
        assert done.stderr.splitlines()[-1] == "ready"
