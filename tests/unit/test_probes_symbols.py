# SPDX-License-Identifier: Apache-2.0
"""The probes' view of /proc/kallsyms: suffixes, duplicates, modules that come and go."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpsymbols
from klpsymbols import Symbols

CORE = """\
ffffffff81000000 T _stext
ffffffff81000fe0 t __pfx_enabled_store
ffffffff81001000 t enabled_store
ffffffff81002000 t klp_complete_transition.isra.0
ffffffff81003000 T klp_start_transition
ffffffff81004000 t enabled_store
ffffffff81005000 t klp_start_transition.part.0
ffffffff81005800 t klp_only_cold.cold
ffffffff81006000 T _etext
"""
MODULE = "ffffffffc0001000 t demo_init\t[demo]\nffffffffc0001080 t demo_exit\t[demo]\n"


@pytest.fixture
def kernel(monkeypatch):
    """A kernel whose text and modules a test can change."""
    state = {"text": CORE + MODULE, "modules": frozenset({"demo 8192 0xffffffffc0001000"})}
    monkeypatch.setattr(klpsymbols, "_modules", lambda: state["modules"])
    return state


@pytest.fixture
def symbols(kernel):
    return Symbols(lambda: kernel["text"])


def test_finds_a_function_under_the_compilers_name(symbols):
    assert symbols.resolve("klp_complete_transition") == "klp_complete_transition.isra.0"
    assert symbols.resolve("klp_start_transition") == "klp_start_transition"
    assert symbols.resolve("klp_absent") is None


def test_a_cold_fragment_is_not_the_function(symbols):
    assert symbols.resolve("klp_only_cold") is None


def test_the_body_of_a_split_function_is_its_part(symbols):
    assert symbols.body("klp_start_transition") == "klp_start_transition.part.0"
    assert symbols.body("klp_complete_transition") == "klp_complete_transition.isra.0"


def test_a_span_ends_where_the_next_symbol_begins(symbols):
    assert symbols.span("klp_complete_transition") == (0xFFFFFFFF81002000, 0xFFFFFFFF81003000)
    assert symbols.span("klp_absent") == (0, 0)


def test_finds_symbols_by_a_part_of_their_names(symbols):
    assert [found.address for found in symbols.named("enabled")] == [0xFFFFFFFF81001000, 0xFFFFFFFF81004000]
    assert symbols.named("__pfx_") == symbols.named("demo_init") == []


def test_a_functions_span_ends_where_the_next_function_begins(kernel):
    kernel["text"] = CORE.replace("t enabled_store", "d enabled_store")
    found = list(Symbols(lambda: kernel["text"]).spans("klp_"))
    assert found[0] == ("klp_complete_transition.isra.0", 0xFFFFFFFF81002000, 0xFFFFFFFF81003000)
    assert found[1] == ("klp_start_transition", 0xFFFFFFFF81003000, 0xFFFFFFFF81005000)
    assert list(Symbols(lambda: "ffffffff81000000 t klp_last\n").spans("klp_")) == []


def test_variables_behind_the_last_function_are_not_searched_for_one(kernel, monkeypatch):
    variables = [f"{0xFFFFFFFF82000000 + 8 * number:016x} d klp_{number}\n" for number in range(200)]
    kernel["text"] = CORE + "".join(variables)
    symbols, parsed = Symbols(lambda: kernel["text"]), []
    parse = klpsymbols.parse
    monkeypatch.setattr(klpsymbols, "parse", lambda line: parsed.append(line) or parse(line))
    assert [name for name, _, _ in symbols.spans("klp_start")] == [
        "klp_start_transition",
        "klp_start_transition.part.0",
    ]
    assert list(symbols.spans("klp_1")) == []
    assert len(parsed) < 2 * len(variables)


def test_an_anchor_has_a_name_of_its_own(symbols):
    assert symbols.anchor(0xFFFFFFFF81004010).name == "klp_start_transition"
    assert symbols.anchor(0xFFFFFFFF81001010).name == "_stext"
    with pytest.raises(LookupError):
        symbols.anchor(0x1000)


def test_describes_addresses_as_the_kernel_does(symbols):
    assert symbols.describe(0xFFFFFFFF81003024) == "klp_start_transition+0x24"
    assert symbols.describe(0xFFFFFFFFC0001004) == "demo_init+0x4 [demo]"
    assert symbols.describe(0x10) == "0x10"


def named(*functions, module="late", begin=0xFFFFFFFFC0009000):
    """What the kernel calls addresses in a module whose functions are told as (name, size)."""
    spans, at = [], begin
    for name, size in functions:
        spans.append((at, size, name))
        at += size

    def name_of(address):
        for first, size, name in spans:
            if first <= address < first + size:
                return f"{name}+0x{address - first:x}/0x{size:x} [{module}]"
        if at <= address < at + 0x1000 and spans:  # the last one is all that comes before nothing
            first, size, name = spans[-1]
            return f"{name}+0x{address - first:x}/0x{size:x} [{module}]"
        return f"0x{address:x}"

    return name_of


def test_learns_a_module_that_came_and_keeps_one_that_went(kernel, symbols):
    symbols.ask(named(("late_init", 0x40)))
    assert symbols.describe(0xFFFFFFFFC0009001) == "0xffffffffc0009001"  # demo is not that long
    kernel["modules"] = frozenset({"late 4096 0xffffffffc0009000"})
    assert symbols.describe(0xFFFFFFFFC0009001) == "late_init+0x1 [late]"
    assert symbols.describe(0xFFFFFFFFC0001081) == "demo_exit+0x1 [demo]"


def test_a_module_that_took_the_place_of_another_takes_its_names(kernel, symbols):
    symbols.ask(named(("other_init", 0x90), module="other", begin=0xFFFFFFFFC0001000))
    kernel["modules"] = frozenset({"other 4096 0xffffffffc0001000"})
    assert symbols.describe(0xFFFFFFFFC0001084) == "other_init+0x84 [other]"


def walked(name_of, size=0x2000):
    text = klpsymbols.Text(0xFFFFFFFFC0009000, size, "late")
    return [(each.name, each.address & 0xFFF) for each in klpsymbols.walk(text, name_of)]


def test_walks_from_function_to_function_without_their_padding():
    functions = (("__pfx_one", 0x10), ("one", 0x90), ("two.isra.0", 0x11), ("three", 0xF4F))
    assert walked(named(*functions)) == [("one", 0x10), ("two.isra.0", 0xA0), ("three", 0xB1)]


def test_walks_over_what_has_no_name_before_the_first_function():
    assert walked(named(("one", 0x40), begin=0xFFFFFFFFC0009020)) == [("one", 0x20)]


def test_walks_no_further_than_the_module():
    assert walked(named(("one", 0x40), ("two", 0x40)), size=0x40) == [("one", 0)]
    assert walked(named(("one", 0x40), module="next")) == []
    assert walked(lambda address: f"0x{address:x}") == []


def test_names_the_module_of_an_address_whose_symbols_were_never_read(kernel, symbols):
    kernel["modules"] = frozenset({"brief 8192 0xffffffffc0020000", "later 4096 0xffffffffc0021000"})
    symbols.notice()
    kernel["modules"] = frozenset()
    symbols.notice()
    assert symbols.describe(0xFFFFFFFFC0020010) == ".text+0x10 [brief]"
    assert symbols.describe(0xFFFFFFFFC0021010) == ".text+0x10 [later]"  # sizes overlap, beginnings do not
    assert symbols.describe(0xFFFFFFFFC0022010) == "0xffffffffc0022010"
    kernel["modules"] = frozenset({"other 4096 0xffffffffc0020000"})
    symbols.notice()
    assert symbols.describe(0xFFFFFFFFC0020010) == ".text+0x10 [other]"


def test_tells_modules_apart_by_address_too(tmp_path, monkeypatch):
    listing = tmp_path / "modules"
    listing.write_text("demo 16384 0 - Live 0xffffffffc0001000 (OE)\n")
    monkeypatch.setattr(klpsymbols, "MODULES", listing)
    assert klpsymbols._modules() == {"demo 16384 0xffffffffc0001000"}
    listing.unlink()
    assert klpsymbols._modules() == frozenset()
