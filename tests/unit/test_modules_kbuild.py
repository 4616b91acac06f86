# SPDX-License-Identifier: Apache-2.0
"""All of a build but the compiler, which a stand-in for `run` plays."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from test_modules_modinfo import KO, RELEASE, kernel

from klp.errors import BuildFailed, HostLacks, NotALivepatch, UsageError
from klp.modules import build as under_test
from klp.modules import kbuild
from klp.modules.diagnostics import Diagnostics
from klp.modules.recipe import Recipe
from klp.modules.sources import ModuleSource, SourceFolder, find_source
from klp.process import Completed
from klp.progress import Silent

KERNEL = kernel(RELEASE)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


class FakeMake:
    """Plays make: leaves `modules` in the scratch folder and says `stderr`."""

    def __init__(self, *modules: Path, status: int = 0, stderr: str = "") -> None:
        self.modules, self.status, self.stderr = modules, status, stderr
        self.scratch, self.flags = Path(), ""
        self.seen: dict[str, str] = {}

    def __call__(self, argv: list[str], **_: object) -> Completed:
        self.scratch = Path(next(word for word in argv if word.startswith("M="))[2:])
        self.flags = next(word for word in argv if word.startswith("KCFLAGS="))
        files = (each for each in self.scratch.rglob("*") if each.is_file())
        self.seen = {str(each.relative_to(self.scratch)): each.read_text() for each in files}
        folders = (each for each in self.scratch.rglob("*") if each.is_dir())
        assert all(each.stat().st_mode & 0o200 for each in folders)  # root would not notice
        for number, module in enumerate(self.modules):
            shutil.copy(module, self.scratch / f"{number}.ko")
        said = self.stderr.replace("SCRATCH", str(self.scratch))
        return Completed(tuple(argv), self.status, "", said)


@pytest.fixture(autouse=True)
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toolchain").mkdir()
    monkeypatch.setattr(f"{__name__}.KERNEL", dataclasses.replace(KERNEL, toolchain=tmp_path / "toolchain"))


@pytest.fixture
def source(tmp_path: Path) -> SourceFolder:
    folder = tmp_path / "my patch"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.c").write_text("int x;\n")
    (folder / "a.ko").write_text("old")
    (folder / "sub/b.h").write_text("\n")
    (folder / "sub").chmod(0o555)
    (folder / "nowhere").symlink_to("nonexistent")
    (tmp_path / "shared").write_text("\n")
    (folder / "shared").symlink_to("../shared")
    (folder / "Kbuild").write_text("obj-m += a.o\n")
    found = find_source(str(folder))
    assert isinstance(found, SourceFolder)
    return found


def build(
    source: ModuleSource, out: Path, make: FakeMake, monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[kbuild.Module, ...], list[str]]:
    monkeypatch.setattr(kbuild, "run", make)
    notes = Notes()
    return under_test.build(source, KERNEL, out, notes), notes.lines


def test_modules_end_up_in_out(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FakeMake(KO)
    [module], _ = build(source, tmp_path / "x/out", make, monkeypatch)
    assert module.file == tmp_path / "x/out/0.ko"
    assert module.file.read_bytes() == KO.read_bytes()
    assert set(make.seen) == {"a.c", "sub/b.h", "shared", "Kbuild"}
    assert not make.scratch.exists()
    # The folder itself, which debug info names since 6.13, and what is in it.
    assert f"={make.scratch}=. " in make.flags
    assert make.flags.endswith(f"={make.scratch}/=")
    assert [each.name for each in (tmp_path / "x/out").iterdir()] == ["0.ko"]


def test_a_kbuild_made_on_the_fly_replaces_the_folders_own(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FakeMake(KO)
    monkeypatch.setattr(kbuild, "run", make)
    recipe = Recipe(source.folder, kbuild="obj-m += z.o\n")
    under_test.build_recipe("z", recipe, KERNEL, tmp_path / "out", progress=Silent())
    assert make.seen["Kbuild"] == "obj-m += z.o\n"
    assert (source.folder / "Kbuild").read_text() == "obj-m += a.o\n"


def test_one_file_takes_only_its_headers_along(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FakeMake(KO)
    build(find_source(str(source.folder / "a.c")), tmp_path / "out", make, monkeypatch)
    assert make.seen == {"a.c": "int x;\n", "Kbuild": "obj-m += a.o\n"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (FakeMake(status=2, stderr="SCRATCH/a.c:3:1: error: what\n"), "my patch/a.c:3: what"),
        (FakeMake(), "made no module"),
        (FakeMake(KO, KO, status=2, stderr="oh\nmake: *** [x] Error 2\n"), "my patch: oh"),
    ],
)
def test_a_failure_leaves_out_as_it_was(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: FakeMake, says: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.ko").write_text("earlier")
    with pytest.raises(BuildFailed, match=says):
        build(source, out, make, monkeypatch)
    assert {each.name: each.read_text() for each in out.iterdir()} == {"0.ko": "earlier"}
    assert not make.scratch.exists()


def test_a_module_for_another_kernel_fails_the_build(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.ko"
    other.write_bytes(KO.read_bytes().replace(b"vermagic=6.12.117", b"vermagic=6.12.118"))
    with pytest.raises(BuildFailed, match=r"built for 6\.12\.118\S*, not for 6\.12\.117"):
        build(source, tmp_path / "out", FakeMake(other), monkeypatch)
    assert not (tmp_path / "out").exists()


def test_a_built_module_is_checked_and_copied(tmp_path: Path) -> None:
    given = find_source(str(KO))
    [module] = under_test.build(given, KERNEL, tmp_path / "out", Silent())
    assert module.file.read_bytes() == KO.read_bytes()
    [again] = under_test.build(find_source(str(module.file)), KERNEL, tmp_path / "out", Silent())
    assert again == module  # out is where it already was
    with pytest.raises(NotALivepatch, match="the kernel is 7"):
        under_test.build(given, kernel("7.2"), tmp_path / "out", Silent())


def test_a_broken_sandbox_is_not_the_sources_fault(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FakeMake(status=1, stderr="bwrap: setting up uid map: Permission denied\n")
    with pytest.raises(HostLacks, match="setting up uid map"):
        build(source, tmp_path / "out", make, monkeypatch)


def test_what_is_in_the_way_is_told(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out/0.ko").mkdir(parents=True)
    for out in ("file", "file/below", "out"):
        with pytest.raises(UsageError, match="in the way"):
            build(source, tmp_path / out, FakeMake(KO), monkeypatch)
    with pytest.raises(HostLacks, match="cannot be written"):
        build(source, Path("/proc/nowhere"), FakeMake(KO), monkeypatch)


def test_sources_that_vanish_are_told(
    source: SourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = find_source(str(source.folder / "a.c"))
    (source.folder / "a.c").unlink()
    with pytest.raises(UsageError, match=r"a\.c: No such file"):
        build(one, tmp_path / "out", FakeMake(KO), monkeypatch)


def test_a_kernel_tree_can_be_read_with_its_source(tmp_path: Path) -> None:
    tree, sources = tmp_path / "o", tmp_path / "linux"
    tree.mkdir()
    sources.mkdir()
    assert kbuild.readable_for(KERNEL) == []
    of_tree = dataclasses.replace(KERNEL, tree=tree)
    assert kbuild.readable_for(of_tree) == [tree]
    (tree / "source").symlink_to("../linux")
    assert kbuild.readable_for(of_tree) == [tree, sources]
    (tree / "source").unlink()
    (tree / "source").symlink_to(".")
    assert kbuild.readable_for(of_tree) == [tree]


GCC = """\
make[2]: Entering directory '{scratch}'
In file included from {at}a.c:2:
{at}sub/a.h: In function 'f':
{at}sub/a.h:7:5: warning: unused variable 'x' [-Wunused-variable]
    7 |     int x;
{at}a.c:12:9: error: 'y' undeclared
   12 |         y = '{scratch}';
make[2]: *** [/usr/src/l/scripts/Makefile.build:234: {at}a.o] Error 1
make[2]: *** Waiting for unfinished jobs....
Skipping BTF generation for {at}a.ko due to unavailability of vmlinux
"""


@pytest.mark.parametrize("relative", [False, True], ids=["before 6.13", "since 6.13"])
@pytest.mark.parametrize(("folder", "prefix"), [("p q", "p q/"), ("/abs", "/abs/"), (".", ""), ("/", "/")])
def test_the_compiler_speaks_in_the_users_paths(
    tmp_path: Path, relative: bool, folder: str, prefix: str
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.c", "sub/a.h"):
        (tmp_path / name).write_text("\n")
    said = GCC.format(scratch=tmp_path, at="" if relative else f"{tmp_path}/")
    told = Diagnostics(tmp_path, Path(folder))
    assert told.readable(said).splitlines() == [
        f"In file included from {prefix}a.c:2:",
        f"{prefix}sub/a.h: In function 'f':",
        f"{prefix}sub/a.h:7:5: warning: unused variable 'x' [-Wunused-variable]",
        "    7 |     int x;",
        f"{prefix}a.c:12:9: error: 'y' undeclared",
        f"   12 |         y = '{folder}';",
    ]
    assert list(told.warnings(said)) == [
        f"{prefix}sub/a.h:7:5: warning: unused variable 'x' [-Wunused-variable]"
    ]
    failure = told.failure(Completed((), 2, "", said))
    assert failure.message == f"{prefix}a.c:12: 'y' undeclared"
    assert failure.output == told.readable(said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('ERROR: modpost: "f" [a.ko] undefined!\nmake: *** [x] Error 1', 'p: "f" [a.ko] undefined!'),
        ('ERROR: modpost: "f" [a.ko] undefined!\nERROR: modpost: "g" [a.ko] undefined!',
         'p: "f" [a.ko] undefined!'),
        ("make[3]: *** No rule to make target 'n.o'.  Stop.\nmake: *** [x] Error 2",
         "p: No rule to make target 'n.o'.  Stop."),
        ("SCRATCH/Kbuild:3: *** missing separator.  Stop.", "p/Kbuild:3: missing separator.  Stop."),
        ("SCRATCH/a.c:1:10: fatal error: n.h: No such file", "p/a.c:1: n.h: No such file"),
        ("", "p: make exited 2"),
    ],
)  # fmt: skip
def test_other_failures_name_their_cause(tmp_path: Path, said: str, message: str) -> None:
    finished = Completed((), 2, "", said.replace("SCRATCH", str(tmp_path)))
    assert Diagnostics(tmp_path, Path("p")).failure(finished).message == message
