# SPDX-License-Identifier: Apache-2.0
"""A copy of a module whose init function fails: what struct module leads to, and what stays as it was."""

from __future__ import annotations

import io

import pytest
from elftools.elf.elffile import ELFFile

from klp import arch
from klp.errors import NotALivepatch
from klp.modules.failing import init_failing
from tests.unit.madeelf import Made, data, made_object, text

CODE = arch.DEFAULT.returns_enodev
OWN = b"\x90" * 37
THIS = ".gnu.linkonce.this_module"


def module(*relocations: tuple[int, int, str, int]) -> bytes:
    init = Made(
        OWN, text("x", b"").flags, {"init_module": (5, 20, "FUNC"), "cleanup_module": (0, 5, "FUNC")}
    )
    return made_object({".init.text": init, THIS: data("__this_module", bytes(64), *relocations)})


def led_to(content: bytes, offset: int) -> bytes:
    """Return the code that the relocation at an offset of struct module leads to, to its section's end."""
    elf = ELFFile(io.BytesIO(content))
    symbols = elf.get_section_by_name(".symtab")
    [entry] = [
        each
        for each in elf.get_section_by_name(f".rela{THIS}").iter_relocations()
        if each["r_offset"] == offset
    ]
    symbol = symbols.get_symbol(entry["r_info_sym"])
    return elf.get_section(symbol["st_shndx"]).data()[symbol["st_value"] + entry["r_addend"] :]


def test_struct_module_is_led_to_the_function_that_fails_and_to_nothing_else() -> None:
    whole = module((8, 1, "init_module", 0), (16, 1, "cleanup_module", 0))
    changed = init_failing(whole, CODE, said="x")
    assert changed is not None
    assert led_to(whole, 8) == OWN[5:]
    assert led_to(changed, 8) == CODE
    assert led_to(changed, 16).startswith(OWN)


def test_the_function_is_one_that_returns_the_error() -> None:
    """As the CPU reads it: mov eax, imm32; the number is -ENODEV."""
    assert int.from_bytes(CODE[5:9], "little", signed=True) == -19


def test_all_other_sections_stay() -> None:
    whole = module((8, 1, "init_module", 0))
    changed = init_failing(whole, CODE, said="x")
    assert changed is not None
    before, after = (ELFFile(io.BytesIO(each)) for each in (whole, changed))
    differing = {
        one.name
        for one, other in zip(before.iter_sections(), after.iter_sections(), strict=True)
        if one.data() != other.data()
    }
    assert differing == {".init.text", f".rela{THIS}"}


def test_a_module_without_init_has_none_that_could_fail() -> None:
    assert init_failing(module((16, 1, "cleanup_module", 0)), CODE, said="x") is None


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(NotALivepatch, match="no relocations of"):
        init_failing(made_object({".text": text("f", OWN)}), CODE, said="x")
