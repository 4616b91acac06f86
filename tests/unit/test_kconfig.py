# SPDX-License-Identifier: Apache-2.0
"""What a kernel's .config says, and what of that klp needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.images.definition import definitions
from klp.images.kconfig import REQUIRED, compiler_of, missing_options, read_config

WHOLE = {name: "y" for names in REQUIRED.values() for name in names}


def test_reads_a_config(tmp_path: Path) -> None:
    file = tmp_path / ".config"
    file.write_bytes(
        b"#\n# Linux/x86 6.12 Kernel Configuration\n#\n"
        b'CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"\n'
        b'CONFIG_EMPTY=""\nCONFIG_LIVEPATCH=y\nCONFIG_EXT4_FS=m\nCONFIG_HZ=250\n'
        b'# CONFIG_SAMPLES is not set\n CONFIG_INDENTED=y\nCONFIG_ODD="a=\\"b\\""\nCONFIG_BYTE="\xff"\n'
    )
    config = read_config(file)
    assert config["LIVEPATCH"] == "y"
    assert config["EXT4_FS"] == "m"
    assert config["HZ"] == "250"
    assert config["EMPTY"] == ""
    assert config["CC_VERSION_TEXT"].endswith("14.2.0")
    assert config["ODD"] == r"a=\"b\""
    assert {"SAMPLES", "INDENTED"}.isdisjoint(config)


def test_nothing_is_missing_of_a_whole_config() -> None:
    assert missing_options(WHOLE) == {}
    assert missing_options({**WHOLE, "EXT4_FS": "m"}) == {}


@pytest.mark.parametrize("value", [None, "n", "", "123"])
def test_a_missing_option_is_named_with_its_reason(value: str | None) -> None:
    config = {**WHOLE, "LIVEPATCH": value, "KPROBES": value, "BPF_SYSCALL": value}
    given = {name: each for name, each in config.items() if each is not None}
    assert missing_options(given) == {
        "livepatches": ("LIVEPATCH",),
        "probes": ("BPF_SYSCALL", "KPROBES"),
    }


def test_every_reason_is_told_for_an_empty_config() -> None:
    assert missing_options({}) == dict(REQUIRED)


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", "gcc-14"),
        ("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-12"),
        ("gcc (Debian 14.2.0-19) 14.2.0", "gcc-14"),
        ("gcc (GCC) 15.1.1 20250521 (Red Hat 15.1.1-2)", "gcc-15"),
        ("gcc (Ubuntu 9.4.0-1ubuntu1~20.04.2) 9.4.0", "gcc-9"),
        ("Debian clang version 19.1.7 (3+b1)", "clang-19"),
        ("clang version 18.1.3 (https://github.com/llvm/llvm-project 1234)", "clang-18"),
        ("tcc version 0.9.27", ""),
        ("", ""),
    ],
)
def test_the_compiler_is_named_as_its_package(text: str, package: str) -> None:
    assert compiler_of({"CC_VERSION_TEXT": text}) == package


def test_no_compiler_is_told_of() -> None:
    assert compiler_of({}) == ""


def test_each_definition_has_a_compiler_of_such_a_name() -> None:
    for each in definitions().values():
        assert [p for p in each.toolchain_packages if p.startswith("gcc-") or "-gcc-" in p], each.name
