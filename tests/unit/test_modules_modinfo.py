# SPDX-License-Identifier: Apache-2.0
"""A .ko is read without trusting a byte of it: whatever is damaged ends in one line, never a traceback."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from klp.errors import NotALivepatch, UsageError
from klp.model import Kernel, Module
from klp.modules.modinfo import can_be_removed, check_loadable, pins_itself, read_module
from klp.modules.plan import LogLine, LogPhase, PatchPlan, as_built
from tests.unit.objectfiles import Content, Made, object_bytes

RELEASE = "6.12.117+deb13-amd64"
KO = Path(__file__).parents[1] / "data/modules/klp_version_banner.ko"
CONTENT = KO.read_bytes()


# An init function of 16 bytes, from 8 on, and another function after it.
def pinning(tmp_path: Path, *used: tuple[int, str]) -> bool:
    names = sorted({name for _, name in used})
    code = {".init.text": Content(bytes(64), relocations=[(at, name, 0) for at, name in used])}
    made = [Made("init_module", ".init.text", 8, 16, "FUNC"), *map(Made, names)]
    file = tmp_path / "made.ko"
    file.write_bytes(object_bytes(code, made))
    return pins_itself(file)


def test_a_module_that_pins_itself_in_its_init_function(tmp_path: Path) -> None:
    own = (8, "__this_module")
    assert pinning(tmp_path, own, (12, "__module_get"))
    assert pinning(tmp_path, own, (12, "try_module_get"), (16, "module_put"))
    assert not pinning(tmp_path, own, (12, "klp_enable_patch"))
    assert not pinning(tmp_path, (8, "other_module"), (12, "__module_get"))
    assert not pinning(tmp_path, own, (12, "__module_get"), (40, "module_put"))
    assert not pinning(tmp_path, (24, "__this_module"), (32, "__module_get"))
    assert not pins_itself(KO)


@pytest.mark.parametrize(
    ("called", "changes", "why"),
    [
        (
            "__module_get",
            {},
            "its init function takes a reference of its own module, and nothing puts it back",
        ),
        ("klp_enable_patch", {}, ""),
        ("__module_get", {"stays": "for good"}, "for good"),
        ("__module_get", {"log": (LogLine(when=LogPhase.UNLOADED, pattern="gone"),)}, ""),
    ],
)
def test_one_that_pins_itself_stays_unless_its_author_says_otherwise(
    tmp_path: Path, called: str, changes: dict[str, Any], why: str
) -> None:
    pinning(tmp_path, (8, "__this_module"), (12, called))
    own = PatchPlan(name="x", summary="x", livepatch="klp_x", **changes)
    module = Module(
        name="klp_x",
        file=tmp_path / "made.ko",
        vermagic="",
        livepatch=True,
        depends=(),
        licence="",
        sha256="",
    )
    assert as_built(own, module).stays == why


def kernel(release: str) -> Kernel:
    nowhere = Path("/nonexistent")
    return Kernel(
        name="6.12", release=release, digest="0", image=nowhere, initrd=nowhere, disk=nowhere,
        build=nowhere, toolchain=nowhere, source=None,
    )  # fmt: skip


def refusal(file: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_module(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_tells_what_modinfo_tells() -> None:
    module = read_module(KO)
    assert module.name == "klp_version_banner"
    assert module.file == KO
    assert module.vermagic.startswith(f"{RELEASE} SMP ")
    assert module.livepatch
    assert module.depends == ()
    assert module.licence == "GPL"
    assert len(module.sha256) == 64


def test_dependencies_are_told_apart(tmp_path: Path) -> None:
    changed = tmp_path / "a.ko"
    # Same length, so that nothing else moves: an empty depends= and the key after it make room.
    before = b"depends=\0name=klp_version_banner\0"
    assert before in CONTENT
    after = b"depends=a,bc\0name=klp_versi\0\0\0\0\0\0"
    changed.write_bytes(CONTENT.replace(before, after[: len(before)].ljust(len(before), b"\0")))
    assert read_module(changed).depends == ("a", "bc")


def test_a_truncated_module_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.ko"
    for length in range(4, len(CONTENT), 97):
        file.write_bytes(CONTENT[:length])
        error = refusal(file)
        assert isinstance(error, NotALivepatch)
        assert f"truncated, {length} bytes of at least" in error.message


def test_flipped_bytes_never_surprise(tmp_path: Path) -> None:
    """Every byte of the ELF header, and a sample of the rest: either still a module, or one line."""
    chance = random.Random(1)
    file = tmp_path / "a.ko"
    section_table = len(CONTENT) - 64 * 40
    places = [*range(64), *chance.sample(range(section_table, len(CONTENT)), 250)]
    places += chance.sample(range(64, section_table), 60)
    messages = []
    for place in places:
        damaged = bytearray(CONTENT)
        damaged[place] ^= chance.choice((0x01, 0x80, 0xFF))
        file.write_bytes(damaged)
        try:
            read_module(file)
        except NotALivepatch as error:
            messages.append(error.message)
    assert len(messages) > 40
    assert all(each.startswith(f"{file}: ") and "\n" not in each for each in messages)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF", "truncated"),
        (b"\xfd7zXZ\0rest", "compressed"),
        (b"\x1f\x8brest", "compressed"),
        (b"\x28\xb5\x2f\xfdrest", "compressed"),
        (CONTENT.replace(b".modinfo\0", b".modinfX\0"), "has no .modinfo section"),
        (CONTENT[:4] + b"\x01" + CONTENT[5:], "NotALivepatch"),  # 32 bits
        (CONTENT[:16] + b"\x02" + CONTENT[17:], "not a relocatable object"),  # ET_EXEC
        (CONTENT[:18] + b"\xb7" + CONTENT[19:], "not built for x86-64"),  # EM_AARCH64
        (CONTENT.replace(b"name=klp_version", b"name=../klp_vers"), "its name is"),
        (CONTENT.replace(b"name=klp_version", b"name=$(reboot);x"), "its name is"),
    ],
)
def test_what_is_no_module_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "a.ko"
    file.write_bytes(content)
    error = refusal(file)
    assert isinstance(error, NotALivepatch)
    assert says in (error.message, type(error).__name__) or says in error.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.ko").message
    assert "not a file" in refusal(tmp_path).message
    os.mkfifo(tmp_path / "pipe.ko")
    assert "not a file" in refusal(tmp_path / "pipe.ko").message
    (tmp_path / "loop.ko").symlink_to("loop.ko")
    assert "symbolic links" in refusal(tmp_path / "loop.ko").message


def test_a_module_for_another_kernel_is_refused() -> None:
    module = read_module(KO)
    check_loadable(module, kernel(RELEASE))
    with pytest.raises(NotALivepatch, match=r"built for 6\.12\.117\+deb13-amd64.* 7\.2\.0") as caught:
        check_loadable(module, kernel("7.2.0"))
    assert "klp build" in str(caught.value.hint)
    with pytest.raises(NotALivepatch):  # a release that merely begins the same
        check_loadable(module, kernel(RELEASE + "-dbg"))


def test_a_module_without_the_mark_is_no_livepatch(tmp_path: Path) -> None:
    unmarked = tmp_path / "a.ko"
    unmarked.write_bytes(CONTENT.replace(b"livepatch=Y\0", b"livepatch=N\0"))
    assert read_module(KO).livepatch
    assert not read_module(unmarked).livepatch


def test_a_module_without_an_exit_function_can_never_be_removed(tmp_path):
    assert can_be_removed(KO)
    file = tmp_path / "no_exit.ko"
    file.write_bytes(KO.read_bytes().replace(b"cleanup_module\0", b"cleanup_modulx\0"))
    assert not can_be_removed(file)
    file.write_bytes(file.read_bytes().replace(b"init_module\0", b"init_modulx\0"))
    assert can_be_removed(file)
