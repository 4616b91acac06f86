# SPDX-License-Identifier: Apache-2.0
"""The host's part of inventories: names of what a module had, and what is kept of control lives."""

from __future__ import annotations

from pathlib import Path

from klp.analysis.inventory import Variation
from klp.check.symbols import symbols_of
from klp.check.variations import Variations
from klp.model import Image, Kernel, Module
from klp.modules.functions import changed_functions
from klp.modules.modinfo import read_module
from klp.paths import CacheLayout
from tests.unit.elffiles import EXEC
from tests.unit.objectfiles import OF_LIVEPATCH, Content, Made, object_bytes

BANNER = Path(__file__).parents[1] / "data/modules/klp_version_banner.ko"


def image(digest: str) -> Image:
    nowhere = Path("nowhere")
    kernel = Kernel("6.12", "6.12.1", "k", nowhere, nowhere, nowhere, nowhere, nowhere, None)
    return Image("6.12", digest, kernel, nowhere, nowhere, "")


def test_a_modules_functions_lie_where_their_section_was_loaded() -> None:
    found = symbols_of(read_module(BANNER), {".text": 0xFFFFFFFFC0000000})
    names = {name: begin for begin, _, name in found}
    assert "klp_version_proc_show [klp_version_banner]" in names
    assert all(0xFFFFFFFFC0000000 <= begin < 0xFFFFFFFFC0001000 for begin in names.values())
    assert all(begin < end for begin, end, _ in found)


def test_data_has_names_too_and_a_section_that_is_not_there_none() -> None:
    module = read_module(BANNER)
    assert any("[klp_version_banner]" in name for _, _, name in symbols_of(module, {".data": 0x1000}))
    assert symbols_of(module, {}) == ()


def test_what_a_livepatch_refers_to_in_the_kernel_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / "fix.ko"
    symbols = [
        Made(".klp.sym.vmlinux.a,0", OF_LIVEPATCH, kind="FUNC"), Made("own", ".text", size=4, kind="FUNC"),
    ]  # fmt: skip
    file.write_bytes(object_bytes({".text": Content(bytes(16), EXEC)}, symbols))
    module = Module("fix", file, "6.12.1 SMP", True, (), "GPL", "0")
    assert symbols_of(module, {".text": 0x1000}) == ((0x1000, 0x1004, "own [fix]"),)
    assert changed_functions(module) == ()


def test_what_control_lives_showed_adds_up_for_each_image(tmp_path: Path) -> None:
    layout = CacheLayout(tmp_path)
    one, other = Variation(frozenset({"names /a"})), Variation(frozenset({"names /b"}))
    kept = Variations(layout, image("one"))
    assert kept.known() == Variation()
    assert kept.add(one) == one
    assert kept.add(other) == one | other
    assert Variations(layout, image("one")).known() == one | other
    assert Variations(layout, image("two")).known() == Variation()


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    kept = Variations(CacheLayout(tmp_path), image("one"))
    kept.add(Variation(frozenset({"names /a"})))
    [file] = (tmp_path / "variations").iterdir()
    file.write_text("{")
    assert kept.known() == Variation()
