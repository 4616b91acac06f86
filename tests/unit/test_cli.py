# SPDX-License-Identifier: Apache-2.0
"""The command line: every command is listed and explained, and misuse ends in one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from klp import paths
from klp.analysis.rules.registry import RULES
from klp.cli.main import _COMMANDS, _SECTIONS, klp, main
from klp.errors import ExitCode
from klp.images.definition import definitions
from klp.version import __version__
from tests.unit.everything import everything


@dataclass(frozen=True)
class Done:
    """What a `klp` left."""

    returncode: int
    stdout: str
    stderr: str


Klp = Callable[..., Done]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Klp]:
    """Run `klp` here, as a user with nothing of their own."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    for name in [each for each in os.environ if each.startswith(("KLP_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)

    def call(*words: str, **variables: str) -> Done:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["klp", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, *capfd.readouterr())

    yield call
    for each, handler in handlers.items():
        signal.signal(each, handler)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, with the words that lead to it."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


ALL = commands(klp)
IDS = [" ".join(path) for path, _ in ALL]


def test_help_lists_every_command_below_what_people_do(run: Klp) -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    below = done.stdout.partition("--help ")[2].partition("Examples:")[0]
    listed = [line.split()[0] for line in below.splitlines() if re.match(r"  \w", line)]
    assert listed == list(_COMMANDS)
    titles = [line for line in below.splitlines() if re.match(r"\w.*:$", line)]
    assert [each.rstrip(":") for each in titles] == list(_SECTIONS)


EXAMPLE = re.compile(r"Example:\n +(.+)")
# Whose default is no setting, and nothing that could be said in a word.
NO_DEFAULT = {"--junit", "--resume", "--against", "--parquet", "--perfetto", "--scenario", "--livepatch",
              "--base", "--new", "--rule", "--script", "--verdict", "--since", "--export",
              "--zipapp", "--function"}  # fmt: skip


@pytest.mark.parametrize(("path", "command"), ALL, ids=IDS)
def test_every_command_has_an_example_that_can_be_typed(
    path: tuple[str, ...], command: click.Command, tmp_path: Path
) -> None:
    help_text = CliRunner().invoke(klp, [*path, "--help"]).output
    [shown] = EXAMPLE.findall(help_text)
    typed = shlex.split(shown)
    if typed[0] != "klp":  # what a shell does with it
        assert f"klp {' '.join(path)}" in shown
        return
    words = typed[1:]
    while words and (words[0] in path):
        words.pop(0)
    if isinstance(command, click.Group) and words and command.get_command(click.Context(command), words[0]):
        return
    command.make_context(" ".join(path), words, parent=click.Context(klp))


@pytest.mark.parametrize(("path", "command"), ALL, ids=IDS)
def test_help_shows_defaults(path: tuple[str, ...], command: click.Command) -> None:
    with click.Context(klp, show_default=True) as above, click.Context(command, parent=above) as context:
        for each in command.params:
            if not isinstance(each, click.Option) or each.is_flag or NO_DEFAULT & set(each.opts):
                continue
            record = each.get_help_record(context)
            assert record is not None
            assert "default: " in record[1], each.opts


def test_every_room_of_commands_is_reachable() -> None:
    assert {path[0] for path, _ in ALL} == set(_COMMANDS)


@pytest.mark.parametrize(("path", "command"), ALL, ids=IDS)
def test_every_command_has_help(path: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(klp, [*path, "--help"])
    assert result.exit_code == 0
    assert command.help
    assert command.help.splitlines()[0].endswith((".", ":")) or "." in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize(("path", "command"), ALL, ids=IDS)
def test_names_are_short_and_lower_case(path: tuple[str, ...], command: click.Command) -> None:
    names = [path[-1], *(o for p in command.params if isinstance(p, click.Option) for o in p.opts)]
    for name in names:
        assert name == name.lower(), name
        assert "_" not in name, name


def error_line(done: Done) -> str:
    """The one line that tells what went wrong."""
    [line] = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frobnicate"], "error: No such command 'frobnicate'."),
        (["--frobnicate"], "error: No such option '--frobnicate'."),
        (["run", "--frobnicate"], "error: No such option '--frobnicate'."),
        (["image", "frobnicate"], "error: No such command 'frobnicate'."),
        (["run", "--deadline", "soon"], "error: Invalid value for '--deadline'"),
        (["run", "--deadline"], "error: Option '--deadline' requires an argument."),
        (["cp"], "error: Missing argument 'SOURCE'."),
        (["ps", "extra"], "error: Got unexpected extra argument (extra)"),
    ],
)
def test_misuse_ends_in_one_line(run: Klp, words: list[str], says: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert error_line(done).startswith(says)
    assert "--help)" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--memory", "1"], "memory_mib 1: Expected `int` >= 256"),
        (["--cpus", "0"], "cpus 0: Expected `int` >= 1"),
        (["--cpus", "-3"], "cpus -3: Expected `int` >= 1"),
        (["--deadline", "0"], "deadline_s 0.0: Expected `float` > 0.0"),
        (["--deadline", "-1"], "deadline_s -1.0: Expected `float` > 0.0"),
        (["--deadline", "nan"], "deadline_s nan: Expected `float` > 0.0"),
    ],
)
def test_limits_of_the_command_line_are_those_of_the_settings(
    run: Klp, words: list[str], says: str
) -> None:
    done = run("run", *words, "--kernel", "0.0")  # unknown: whatever gets past the check, nothing is built
    assert done.returncode == 2
    assert error_line(done) == f"error: {says}"


@pytest.mark.parametrize("words", [[], ["image"]])
def test_no_command_shows_help(run: Klp, words: list[str]) -> None:
    done = run(*words)
    assert done.stderr.startswith(f"Usage: {' '.join(['klp', *words])} ")
    assert (done.returncode, done.stdout) == (2, "")


def test_version(run: Klp) -> None:
    assert __version__ in run("--version").stdout


def test_kernels_as_json(run: Klp) -> None:
    done = run("kernels", "--json", KLP_KERNEL="6.1")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [each["name"] for each in told] == list(definitions())
    assert [each["name"] for each in told if each["default"]] == ["6.1"]
    assert {each["release"] for each in told} == {None}  # this user has built nothing


def test_kernels_as_a_table(run: Klp) -> None:
    done = run("kernels")
    assert done.returncode == 0
    assert "6.12 (default)" in done.stdout
    assert done.stdout.count("not built") == len(definitions())


@pytest.mark.parametrize(
    ("words", "note"),
    [("kernels", "stack_order: "), ("probes", f"in {shlex.quote(str(paths.PROBE_SOURCES))}; ")],
)
def test_a_table_is_explained_below_it_but_not_to_programs(run: Klp, words: str, note: str) -> None:
    said, plain = run(words).stdout.splitlines(), run(words, "--plain").stdout.splitlines()
    assert said[-1].startswith(note)
    assert len({line.count("\t") for line in plain}) == 1


def test_probes_are_a_table_that_fits_with_their_manuals_by_name(run: Klp) -> None:
    *rows, note = run("probes").stdout.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == [f"{row.split()[0]}.8" for row in rows]
    manual = Path(shlex.split(note)[-1].replace("PROBE", rows[0].split()[0]))
    assert manual.is_file()


@pytest.mark.parametrize("words", [["image", "list", "--json"], ["ps", "--json"]])
def test_other_lists_as_json(run: Klp, words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    "words",
    [["kernels"], ["image", "list"], ["ps"], ["--help"], ["run", "version-banner", "--dry-run"]],
)
def test_looking_makes_nothing(run: Klp, tmp_path: Path, words: list[str]) -> None:
    assert run(*words).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["image", "verify", "6.1"], ["image", "rm", "6.1"]])
def test_what_is_not_built(run: Klp, words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert error_line(done) == "error: 6.1: not built"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["exec", "true"], "no guest is up"),
        (["ssh"], "no guest is up"),
        (["down", "-n", "x"], "no guest x is up"),
        (["cp", "a", "b"], "one of the two must be in the guest"),
        (["cp", "guest:a", "guest:b"], "one of the two must be in the guest"),
        (["cp", "missing", "guest:b"], "missing: no such file or folder"),
    ],
)
def test_guests_that_are_not_there(run: Klp, words: list[str], says: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert error_line(done) == f"error: {says}"


@pytest.mark.parametrize("words", ["kernels --json", "kernels"])
def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path, words: str) -> None:
    program = Path(sys.executable).with_name("klp")
    script = f'{program} {words} | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_help_is_quick_to_import() -> None:
    """`klp --help` loads neither QEMU's nor SSH's libraries."""
    script = "import sys, klp.cli.main; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"paramiko", "qemu.qmp", "elftools", "rich"} & set(done.stdout.split())


# --- rules and analyze --------------------------------------------------------------------------------


def test_rules_are_listed_with_their_sources(run: Klp) -> None:
    listed = json.loads(run("rules", "--json").stdout)
    assert [each["id"] for each in listed] == list(RULES)
    assert all(each["text"].endswith(".") and "Documentation/" in each["source"] for each in listed)
    assert "klp_init_transition" in run("rules").stdout


def recorded(folder: Path, name: str = "events.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return everything().write(folder / name)


def test_a_run_in_which_all_holds(run: Klp, tmp_path: Path) -> None:
    recorded(tmp_path)
    done = run("analyze", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith(f"{len(RULES)} held, 0 violated, 0 not observed")


def test_a_run_that_breaks_a_rule(run: Klp, tmp_path: Path) -> None:
    file = recorded(tmp_path)
    file.write_text(file.read_text().replace('"child_pending":true', '"child_pending":false'))
    done = run("analyze", str(file), "--rule", "T11")
    assert done.returncode == 1
    assert "T11 violated: A task forked in a transition" in done.stdout
    assert "(#18)" in done.stdout
    [verdict] = json.loads(run("analyze", str(file), "--json", "--rule", "T11").stdout)
    assert (verdict["verdict"], verdict["evidence"][0]["events"]) == ("violated", [18])


def test_a_run_is_named_as_for_other_commands(
    run: Klp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLP_RUNS", str(tmp_path / "runs"))
    assert error_line(run("analyze", "latest")).endswith("no runs yet")
    recorded(tmp_path / "runs" / "a")
    for word in ("latest", "a", str(tmp_path / "runs" / "a")):
        assert run("analyze", word).returncode == 0
    assert error_line(run("analyze", "b")) == "error: b: no such run"


def test_a_run_with_two_guests(run: Klp, tmp_path: Path) -> None:
    recorded(tmp_path)
    second = recorded(tmp_path, "events-2.jsonl")
    second.write_text(second.read_text().replace('"child_pending":true', '"child_pending":false'))
    done = run("analyze", str(tmp_path), "--rule", "T11")
    assert done.returncode == 1
    assert "events-2.jsonl: " in done.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "not a run folder: neither run.json nor events.jsonl is in it"),
        ("", "no events in it"),
        ("{\n", "events.jsonl:1: torn"),
        (
            '{"type":"header","probe":"a","seq":0,"ts_ns":1,"schema":1}\n',
            "events.jsonl:1: events of schema version 1; this klp reads version 2",
        ),
    ],
)
def test_a_run_that_cannot_be_judged(run: Klp, tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "events.jsonl").write_text(content)
    done = run("analyze", str(tmp_path))
    assert done.returncode == 2
    assert says in error_line(done)


def test_a_rule_that_does_not_exist(run: Klp, tmp_path: Path) -> None:
    recorded(tmp_path)
    done = run("analyze", str(tmp_path), "--rule", "X1")
    assert (done.returncode, error_line(done)) == (2, "error: X1: no such rule")


def test_a_first_build_says_what_it_will_take(
    run: Klp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It cannot be built here: there is no mmdebstrap, nor would it find packages.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KLP_MIRROR", "http://127.0.0.1:9/debian")
    result = run("image", "build", "6.1")
    first = result.stderr.splitlines()[0]
    assert first.startswith("first build of 6.1, once: about "), result.stderr
    assert "MB to download" in first
    assert result.returncode == ExitCode.HOST_LACKS
