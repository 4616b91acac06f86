# SPDX-License-Identifier: Apache-2.0
"""A cache may lie in a folder with a blank in its name; its keys are closed; releases are asked for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from klp.errors import HostLacks
from klp.images import debian, disk, keys, source
from klp.images.definition import definition
from klp.images.library import Library
from klp.images.newest import NewestReleases
from klp.paths import CacheLayout
from klp.process import run
from klp.progress import Silent
from klp.settings import Settings

# --- blanks ----------------------------------------------------------------------------------------------


def test_what_mmdebstrap_copies_out_goes_to_a_folder_with_a_blank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], **_: object) -> None:
        commands.append(command)

    monkeypatch.setattr(debian, "run", record)
    into = tmp_path / "my disk"
    debian.fetch_packages(definition("6.12"), "", ["a"], into)
    [hook] = [each for each in commands[0] if each.startswith("--customize-hook=copy-out")]
    # mmdebstrap takes it apart as a shell does (Text::ParseWords).
    assert shlex.split(hook.partition("=")[2]) == ["copy-out", "/klp", str(into)]


def test_mmdebstrap_copies_into_a_folder_with_a_blank(tmp_path: Path, tool: object) -> None:
    assert callable(tool)
    tool("mmdebstrap")
    into = tmp_path / "my disk"
    into.mkdir()
    (tmp_path / "Packages").touch()
    (tmp_path / "Release").write_text("Suite: x\nArchitectures: amd64\n")
    done = run(
        ["mmdebstrap", "--mode=root", "--variant=custom", "--format=null", "--architectures=amd64",
         '--customize-hook=mkdir -p "$1/klp"; echo 6.12 >"$1/klp/release"',
         f"--customize-hook=copy-out /klp {shlex.quote(str(into))}", "", "-",
         f"deb [trusted=yes] copy://{tmp_path} ./"],
        check=False,
    )  # fmt: skip
    if "must be root" in done.stderr or "unshare" in done.stderr:
        pytest.skip("only root may have mmdebstrap make a root without a user namespace")
    assert done.status == 0, done.stderr
    assert (into / "klp" / "release").read_text() == "6.12\n"


def test_debugfs_writes_into_a_folder_with_a_blank(tmp_path: Path) -> None:
    folder, image, into = tmp_path / "src", tmp_path / "disk.ext4", tmp_path / 'my "new" disk'
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_text("content")
    into.mkdir()
    disk.make_ext4(folder, image, label="x", spare_mib=2)
    run(["debugfs", "-R", f"rdump /a {disk.quoted(into)}", image])
    assert (into / "a" / "file").read_text() == "content"


@pytest.mark.parametrize("name", ["my cache", "a:b", "tab\there"])
def test_where_no_kernel_can_be_built_that_is_said_first(name: str) -> None:
    with pytest.raises(HostLacks, match="no kernel can be built where the path has a blank") as caught:
        source.check_path(Path("/x", name, "tree"))
    assert "KLP_CACHE" in str(caught.value.hint)
    source.check_path(Path("/x/my-cache/tree"))


# --- keys ------------------------------------------------------------------------------------------------


def test_a_key_that_others_may_read_is_closed(tmp_path: Path) -> None:
    """As of a cache that was copied: ssh refuses such a key, and others could open guests by it."""
    for layout_key in (CacheLayout(tmp_path).ssh_key, CacheLayout(tmp_path).host_key):
        line = keys.ensure_key(layout_key)
        assert layout_key.stat().st_mode & 0o777 == 0o600
        layout_key.chmod(0o644)
        assert keys.ensure_key(layout_key) == line
        assert layout_key.stat().st_mode & 0o777 == 0o600


# --- releases --------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Settings(cache=str(tmp_path / "cache")), Silent())


def built(library: Library, release: str) -> None:
    """Have the entry that is asked for now made, of what the archive has: `release`."""
    builder = library.builder("6.12")
    library.cache.ensure(builder.kind, builder.inputs(), lambda into: ({"release": release}, ()))


def test_a_release_that_is_taken_is_another_kernel(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its inputs: a guest that was saved of the old one must not be started for the new one."""
    assert library.release_of("6.12") == ""
    before = library.builder("6.12").inputs()
    built(library, "6.12.1")
    monkeypatch.setattr(debian, "newest_release", lambda *_: "6.12.2")
    monkeypatch.setattr(library, "ensure", lambda kernel: built(library, "6.12.2"))
    library.update("6.12")
    assert library.release_of("6.12") == "6.12.2"
    after = library.builder("6.12").inputs()
    assert after != before
    assert before.items() <= after.items()
    assert {m.facts["release"] for _, m in library.parts("6.12")} == {"6.12.1", "6.12.2"}
    assert NewestReleases(library.layout).taken("6.1") == ""


def test_what_is_the_newest_already_stays(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    built(library, "6.12.1")
    before = library.builder("6.12").inputs()
    monkeypatch.setattr(debian, "newest_release", lambda *_: "6.12.1")
    monkeypatch.setattr(library, "ensure", lambda kernel: None)
    library.update("6.12")
    assert library.builder("6.12").inputs() == before
    assert NewestReleases(library.layout).seen("6.12") == "6.12.1"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"seen": 1}'])
def test_what_cannot_be_read_is_looked_for_again(library: Library, text: bytes) -> None:
    known = NewestReleases(library.layout)
    known.saw("6.12", "6.12.1")
    known.layout.newest.write_bytes(text)
    assert known.seen("6.12") == ""
    known.saw("6.12", "6.12.2")
    known.take("6.1", "6.1.1")
    assert (known.seen("6.12"), known.taken("6.1")) == ("6.12.2", "6.1.1")


def test_the_hook_tells_the_release_without_fetching(root: Path, tmp_path: Path) -> None:
    """Its own commands, with stand-ins for those of apt: with a source it fetches, without it does not."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    lines = "\\n".join(f"linux-headers-6.12.{n}+deb13-amd64 - x" for n in (9, 117, 20))
    for name, text in {
        "apt-cache": f'[ "$1" = search ] && printf "{lines}\\n"; exit 0',
    }.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_folder / name).chmod(0o755)
    hook = 'download() { echo "$@" >fetched; }\n' + (root / "vm-images/hooks/fetch-kernel.sh").read_text()
    for wanted, fetched in (("", False), ("linux-source-6.12", True)):
        into = tmp_path / (wanted or "look")
        into.mkdir()
        run(
            ["sh", "-c", hook, "exec", into],
            env={"PATH": f"{bin_folder}:/usr/bin:/bin",
                 "SERIES": "6.12", "ARCH": "amd64", "SOURCE": wanted, "TOOLS": ""},
        )  # fmt: skip
        assert (into / "klp" / "release").read_text() == "6.12.117+deb13-amd64\n"
        assert (into / "klp" / "fetched").exists() is fetched
    assert re.search(r"linux-image-6\.12\.117\+deb13-amd64", (into / "klp" / "fetched").read_text())
