# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong ends `klp` with its exit code and one line, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from klp.errors import ExitCode
from klp.images.kconfig import REQUIRED
from klp.paths import RunLayout
from klp.trace.tracer import PROBES
from klp.vm.accel import kvm_obstacle
from klp.waiting import wait_until
from tests.integration.conftest import KLP

KO = Path(__file__).parents[1] / "data/modules/klp_version_banner.ko"
QEMU = "qemu-system-x86_64"
_LOOK_S = 0.02


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in; runs would go to another, and settings are nobody's."""
    for name in ("KLP_CONFIG", "KLP_KERNEL", "KLP_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KLP_CACHE", os.environ.get("KLP_CACHE") or str(cache_here()))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("KLP_RUNS", str(tmp_path / "runs"))
    work = tmp_path / "work"
    for folder in (work, tmp_path / "runs"):
        folder.mkdir()
    monkeypatch.chdir(work)
    return work


def cache_here() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klp"


def contents(folder: Path) -> dict[str, int]:
    return {
        str(each.relative_to(folder)): 0 if each.is_dir() else each.lstat().st_size
        for each in folder.rglob("*")
    }


def processes_of(folder: Path) -> list[str]:
    """The command lines that name a folder: QEMU's has its run folder in it."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in line:
            found.append(line)
    return found


def error_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    [line] = [each for each in stderr.splitlines() if each.startswith("error: ")]
    return line.removeprefix("error: ")


def hint(stderr: str) -> str:
    return next((each for each in stderr.splitlines() if each.startswith("  (")), "")


@pytest.fixture
def refused(klp, here):
    """Run `klp`, which must refuse; returns its line, its hint, and all it said."""

    def run(*words, code, **options):
        before = contents(here.parent)
        done = klp(*words, timeout=600, **options)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert contents(here.parent) == before
        assert processes_of(here.parent) == []
        return error_line(done.stderr), hint(done.stderr), done.stderr

    return run


@pytest.fixture(scope="module")
def plain_module(klp, tmp_path_factory):
    """A kernel module for 6.12 that is no livepatch."""
    out = tmp_path_factory.mktemp("plain")
    done = klp("build", "module-target", "--kernel", "6.12", "--out", out)
    assert done.returncode == 0, done.stderr
    return out / "klp_target.ko"


# --- modules and sources ----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["missing.ko", "missing.c", "missing", "no/where/missing.ko"])
def test_what_is_not_there(refused, word):
    line, help_line, _ = refused("run", word, code=ExitCode.USAGE)
    assert line == f"{word}: no such file or folder"
    assert "version-banner" in help_line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello\n", "not an ELF file"),
        (b"#!/bin/sh\n" * 100, "not an ELF file"),
        (b"\xfd7zXZ\0" + bytes(50), "compressed"),
        (KO.read_bytes()[:40], "truncated"),
        (KO.read_bytes()[: KO.stat().st_size // 2], "truncated"),
        (KO.read_bytes()[:-1], "truncated"),
    ],
    ids=["empty", "text", "script", "compressed", "head", "half", "last-byte"],
)
def test_a_broken_module(refused, here, content, says):
    (here / "my.ko").write_bytes(content)
    line, help_line, _ = refused("run", "my.ko", "--kernel", "6.12", code=ExitCode.USAGE)
    assert line.startswith(f"my.ko: {says}")
    assert help_line


def test_a_plain_module_is_no_livepatch(refused, plain_module):
    line, help_line, _ = refused("run", plain_module, "--kernel", "6.12", code=ExitCode.USAGE)
    assert "no livepatch" in line
    assert "klp_target" in line
    assert "MODULE_INFO(livepatch" in help_line


def test_a_module_for_another_kernel(refused):
    line, help_line, _ = refused("run", KO, "--kernel", "6.1", code=ExitCode.USAGE)
    assert line.startswith(f"{KO}: built for 6.12.117+deb13-amd64, and the kernel is 6.1.")
    assert "klp build" in help_line
    assert "--kernel 6.1" in help_line


def test_a_folder_without_a_kbuild(refused, here):
    (here / "mine").mkdir()
    (here / "mine" / "fix.c").write_text("int x;\n")
    line, help_line, _ = refused("run", "mine", code=ExitCode.USAGE)
    assert line == "mine: no Kbuild in it"
    assert "obj-m += fix.o" in help_line


@pytest.mark.parametrize("command", ["run", "build"])
def test_a_compile_error_is_told_in_the_users_path(refused, here, command):
    (here / "mine").mkdir()
    (here / "mine" / "Kbuild").write_text("obj-m += broken.o\n")
    (here / "mine" / "broken.c").write_text("static int f(void)\n{\n\treturn missing;\n}\n")
    line, _, everything = refused(command, "mine", "--kernel", "6.12", code=ExitCode.USAGE)
    assert line == "mine/broken.c:3: 'missing' undeclared (first use in this function)"
    # Last, once, and with the line of the source.
    assert everything.count("'missing' undeclared") == 1
    assert "3 |         return missing;" in everything.splitlines()[-2]
    assert "klp-build-" not in everything


def test_a_broken_plan(refused, here):
    (here / "mine").mkdir()
    (here / "mine" / "Kbuild").write_text("obj-m += fix.o\n")
    (here / "mine" / "fix.c").write_text("int x;\n")
    plan = here / "mine" / "patch.toml"
    plan.write_text('name = "mine"\nsummary = "x"\nlivepatch = "fix"\nobserved = 1\n')
    line, _, _ = refused("run", "mine", code=ExitCode.USAGE)
    assert line == "mine/patch.toml:4: unknown setting observed"


# --- kernels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["run"], ["up"], ["image", "build"]])
def test_an_unknown_kernel(refused, words):
    option = [] if words[0] == "image" else ["--kernel"]
    line, help_line, _ = refused(*words, *option, "5.4", code=ExitCode.USAGE)
    assert line == "unknown kernel 5.4"
    assert "6.12" in help_line


def make_tree(tree: Path, **options: str) -> Path:
    """What TreeKernel.definition looks at of a built kernel."""
    (tree / "include/config").mkdir(parents=True)
    (tree / "include/config/kernel.release").write_text("6.12.0\n")
    (tree / "Module.symvers").touch()
    (tree / "vmlinux").write_bytes(b"\x7fELF")
    whole = {name: "y" for names in REQUIRED.values() for name in names} | options
    text = "".join(f"CONFIG_{name}={value}\n" for name, value in whole.items() if value)
    (tree / ".config").write_text(text)
    return tree


@pytest.mark.parametrize(
    "missing", [".config", "include/config/kernel.release", "Module.symvers", "vmlinux"]
)
def test_a_tree_that_is_not_built(refused, here, missing):
    tree = make_tree(here / "linux")
    (tree / missing).unlink()
    line, help_line, _ = refused("run", "--kernel", "./linux", code=ExitCode.USAGE)
    assert line.startswith(f"{tree}: ")
    assert missing in line
    assert "make" in help_line


def test_a_kernel_without_livepatches_and_bpf(refused, here):
    tree = make_tree(here / "linux", LIVEPATCH="", BPF_SYSCALL="n", KPROBES="")
    line, _, _ = refused("run", "--kernel", tree, code=ExitCode.USAGE)
    assert line.startswith(f"{tree}: the kernel lacks ")
    assert "CONFIG_LIVEPATCH (for livepatches)" in line
    assert "CONFIG_BPF_SYSCALL, CONFIG_KPROBES (for probes)" in line
    assert "CONFIG_EXT4_FS" not in line


@pytest.mark.parametrize("compiler", ['"gcc-4.9 (GCC) 4.9.2"', '"clang version 3.0.1"', ""])
def test_a_kernel_of_another_compiler(refused, here, compiler):
    tree = make_tree(here / "linux", CC_VERSION_TEXT=compiler)
    line, help_line, _ = refused("run", "--kernel", tree, code=ExitCode.USAGE)
    assert line.startswith(f"{tree}: built with ")
    assert "gcc-14" in help_line


def test_a_folder_that_is_no_tree(refused, here):
    line, _, _ = refused("run", "--kernel", "../work", code=ExitCode.USAGE)
    assert "not a built kernel tree" in line


def test_a_tree_that_is_not_there(refused, here):
    line, _, _ = refused("run", "--kernel", "./linux", code=ExitCode.USAGE)
    assert line.startswith(f"{here}/linux: ")


# --- settings ---------------------------------------------------------------------------------------


@pytest.fixture
def config(here, monkeypatch):
    def write(text):
        file = here / "config.toml"
        file.write_text(text)
        monkeypatch.setenv("KLP_CONFIG", str(file))
        return file

    return write


@pytest.mark.parametrize("command", ["run", "kernels", "doctor"])
def test_broken_settings(refused, config, command):
    file = config('kernel = "6.12"\nmemory_mib = = 5\n')
    line, _, _ = refused(command, code=ExitCode.USAGE)
    assert line.startswith(f"{file}:2: ")


def test_an_unknown_setting(refused, config):
    file = config("# mine\nmemory = 2048\n")
    line, _, _ = refused("run", code=ExitCode.USAGE)
    assert line == f"{file}:2: unknown setting memory"


def test_a_setting_of_the_wrong_kind(refused, config):
    file = config('cpus = "many"\n')
    line, _, _ = refused("run", code=ExitCode.USAGE)
    assert line == f"{file}:1: cpus: Expected `int`, got `str`"


def test_a_variable_of_the_wrong_kind(refused, monkeypatch):
    monkeypatch.setenv("KLP_CPUS", "many")
    line, _, _ = refused("run", code=ExitCode.USAGE)
    assert line == "KLP_CPUS=many: Expected `int`, got `str`"


# --- folders and tools ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/proc/klp", "/sys/klp", "file", "file/below"])
@pytest.mark.parametrize("words", [["run"], ["build", "version-banner"], ["image", "build"]])
def test_a_cache_that_cannot_be(refused, here, monkeypatch, place, words):
    (here / "file").write_text("in the way")
    monkeypatch.setenv("KLP_CACHE", place)
    line, help_line, _ = refused(*words, code=ExitCode.HOST_LACKS)
    assert Path(place).absolute().parts[1] in line
    assert "KLP_CACHE" in help_line


@pytest.mark.parametrize("words", [["kernels"], ["image", "list"]])
def test_looking_at_a_cache_that_cannot_be(klp, here, monkeypatch, words):
    (here / "file").write_text("in the way")
    monkeypatch.setenv("KLP_CACHE", "file")
    done = klp(*words)
    assert done.returncode == 0, done.stderr


def test_a_run_folder_that_is_not_empty(refused, here):
    (here / "out").mkdir()
    (here / "out" / "mine").write_text("precious")
    line, help_line, _ = refused("run", "version-banner", "--out", "out", code=ExitCode.USAGE)
    assert line == "out: not empty"
    assert "-o DIR names another" in help_line


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/klp"])
def test_a_run_folder_that_cannot_be(refused, here, place):
    (here / "file").write_text("in the way")
    code = ExitCode.HOST_LACKS if place.startswith("/") else ExitCode.USAGE
    line, help_line, _ = refused("run", "version-banner", "--out", place, code=code)
    assert place.split("/")[-1] in line or "file" in line
    assert "--out" in help_line


def test_a_runs_folder_that_cannot_be(refused, monkeypatch):
    monkeypatch.setenv("KLP_RUNS", "/proc/klp-runs")
    line, _, _ = refused("run", "version-banner", code=ExitCode.HOST_LACKS)
    assert "/proc/klp-runs" in line


@pytest.fixture
def without(tmp_path_factory, monkeypatch):
    """Take programs off the PATH."""

    def hide(*names):
        folder = tmp_path_factory.mktemp("bin")
        for top in ("/bin", "/usr/bin", "/usr/local/bin"):
            for program in Path(top).glob("*"):
                link = folder / program.name
                if program.name not in names and not link.is_symlink():
                    link.symlink_to(program)
        monkeypatch.setenv("PATH", str(folder))

    return hide


@pytest.mark.parametrize("program", [QEMU, "qemu-img", "bwrap"])
def test_a_program_that_is_missing(refused, without, program):
    without(program)
    line, help_line, _ = refused("run", "version-banner", "--kernel", "6.12", code=ExitCode.HOST_LACKS)
    assert line == f"{program} is not installed here"
    assert "klp doctor" in help_line


def test_kvm_that_is_demanded_and_not_there(refused, monkeypatch):
    if kvm_obstacle() is None:
        pytest.skip("KVM works here")
    monkeypatch.setenv("KLP_ACCELERATOR", "kvm")
    line, help_line, _ = refused("run", "version-banner", "--kernel", "6.12", code=ExitCode.HOST_LACKS)
    assert line.startswith("KVM was asked for: ")
    assert "KLP_ACCELERATOR" in help_line


# --- interruption -----------------------------------------------------------------------------------


class Running:
    """A `klp run version-banner` at work."""

    def __init__(self, process: subprocess.Popen[bytes], layout: RunLayout, said: Path) -> None:
        self.process = process
        self.layout = layout
        self._said = said

    def stderr(self) -> str:
        return self._said.read_text()

    def launching(self) -> bool:
        """Its disk is there: QEMU is about to be started, or to answer for the first time."""
        return self.layout.disk.exists()

    def booting(self) -> bool:
        """The kernel has begun to speak, and the SSH server has not."""
        return self.layout.console.exists() and b"Linux version" in self.layout.console.read_bytes()

    def arming(self) -> bool:
        return "arming " in self.stderr()

    def loading(self) -> bool:
        """The first module is being loaded: all probes are attached."""
        return "load klp_version_banner" in self.stderr()

    def reach(self, moment: str) -> None:
        def look() -> bool:
            assert self.process.poll() is None, self.stderr()
            return bool(getattr(self, moment)())

        wait_until(look, what=moment, timeout_s=600, every_s=_LOOK_S)


@contextmanager
def running(here: Path, *options: str) -> Iterator[Running]:
    said = here / "stderr"
    layout = RunLayout(here / "run")
    command = [KLP, "run", "version-banner", "--kernel", "6.12", "--out", layout.root, *options]
    with (
        said.open("wb") as stream,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream) as process,
    ):
        try:
            yield Running(process, layout, said)
        finally:
            process.kill()


def interrupt(run: Running, number: signal.Signals) -> None:
    """Send a signal; what it started must be gone when `klp` is."""
    run.process.send_signal(number)
    assert run.process.wait(120) == ExitCode.INTERRUPTED, run.stderr()
    assert error_line(run.stderr()) == "interrupted"
    assert processes_of(run.layout.root) == []
    assert not run.layout.disk.exists()


def demand_a_record(layout: RunLayout) -> None:
    """The run folder of an interrupted run says so, and what it ran on."""
    result = json.loads(layout.summary.read_text())
    assert result["error"] == "interrupted"
    assert result["verdict"] != "held"
    assert result["provenance"]["modules"].keys() == {"klp_version_banner"}


def traced_headers(layout: RunLayout) -> int:
    return sum(json.loads(line)["type"] == "header" for line in layout.events.read_text().splitlines())


# To arm the probes takes minutes: once is enough, and a run from a saved guest is interrupted by both.
@pytest.mark.vm("6.12")
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "booting"), (signal.SIGTERM, "booting"),
        (signal.SIGINT, "arming"), (signal.SIGTERM, "arming"),
        (signal.SIGINT, "loading"),
    ],
)  # fmt: skip
def test_an_interrupted_run(here, number, moment):
    with running(here, "--cold") as run:
        run.reach(moment)
        assert processes_of(run.layout.root)  # so that none at the end means something
        assert run.layout.disk.exists()
        interrupt(run, number)
        demand_a_record(run.layout)
        assert run.layout.console.stat().st_size > 0
        if moment == "loading":
            assert traced_headers(run.layout) == len(PROBES) + 1  # and the harness's own


@pytest.mark.vm("6.12")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_from_a_saved_guest(here, number):
    with running(here) as run:
        run.reach("loading")
        assert processes_of(run.layout.root)
        interrupt(run, number)
        demand_a_record(run.layout)
        assert run.layout.console.stat().st_size > 0
        assert traced_headers(run.layout) == len(PROBES) + 1  # and the harness's own


@pytest.mark.vm("6.12")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_before_qemu_has_answered(here, number):
    with running(here) as run:
        run.reach("launching")
        interrupt(run, number)
        demand_a_record(run.layout)


@pytest.mark.vm("6.12")
def test_an_interrupt_while_a_guest_is_being_saved(here):
    """Nothing was run, so there is no run folder; and no half a snapshot that a later run would take."""
    cache = Path(os.environ["KLP_CACHE"])
    before = set(cache.glob("*-*"))
    with running(here, "--memory", "1001") as run:  # a machine of which nobody keeps a snapshot
        run.reach("arming")
        [growing] = [
            each
            for each in (cache / "building").glob("snapshot-*")
            if any("-m 1001M " in line for line in processes_of(each))  # others may be making theirs
        ]
        interrupt(run, signal.SIGINT)
        assert processes_of(growing) == []
        assert not growing.exists()
        assert not run.layout.root.exists()
    assert not [each for each in set(cache.glob("*-*")) - before if is_mine(each)]


def is_mine(entry: Path) -> bool:
    return "-m 1001M " in json.loads((entry / "manifest.json").read_text())["inputs"].get("machine", "")


@pytest.mark.vm("6.12")
@pytest.mark.parametrize("moment", ["booting", "arming"])
def test_a_user_who_cannot_wait(here, moment):
    """Ctrl-C again and again: even then QEMU does not outlive its run."""
    with running(here, "--cold") as run:
        run.reach(moment)

        def ended() -> bool:
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGINT)
            return run.process.poll() is not None

        wait_until(ended, what="end", timeout_s=120, every_s=_LOOK_S)
        assert run.process.returncode == ExitCode.INTERRUPTED, run.stderr()
        assert error_line(run.stderr()) == "interrupted"
        wait_until(lambda: not processes_of(run.layout.root), what="end", timeout_s=20, every_s=_LOOK_S)
