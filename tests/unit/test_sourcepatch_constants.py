# SPDX-License-Identifier: Apache-2.0
"""Constants that the kernel writes into its code as it boots: where new code has their placeholders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from madeelf import Made, made_object, text

from klp.sourcepatch.changes import Changes
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.runtime_constants import placeholders

PC32 = 2
OBJECT = ObjectFile(
    made_object({
        ".text.reads": text("reads", bytes(32)),
        ".text.other": text("other", bytes(32)),
        "runtime_ptr_USER_PTR_MAX": Made(bytes(8), relocations=[(0, PC32, "=.text.reads", 10),
                                                                (4, PC32, "=.text.reads", 20)]),
        "runtime_shift_d_hash_shift": Made(bytes(4), relocations=[(0, PC32, "=.text.other", 4)]),
        "runtime": Made(bytes(4), relocations=[(0, PC32, "=.text.reads", 0)]),
    })
)  # fmt: skip


@pytest.mark.parametrize(
    ("new", "found"),
    [
        (("reads",), ("USER_PTR_MAX",)),
        (("other",), ("d_hash_shift",)),
        (("reads", "other"), ("USER_PTR_MAX", "d_hash_shift")),
        ((), ()),
    ],
)
def test_only_what_new_code_has_placeholders_for_counts(
    new: tuple[str, ...], found: tuple[str, ...]
) -> None:
    code = {name: SimpleNamespace(section=f".text.{name}") for name in new}
    assert placeholders(OBJECT, cast("Changes", SimpleNamespace(new_code=code))) == found
