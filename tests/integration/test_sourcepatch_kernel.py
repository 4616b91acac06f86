# SPDX-License-Identifier: Apache-2.0
"""What is read out of a kernel's files is what the kernel itself says when it runs."""

from __future__ import annotations

import pytest

from klp import progress, settings
from klp.lab.warm import ensure_warm, restored
from klp.paths import RunLayout
from klp.sourcepatch.shipped import ShippedKernel
from klp.vm.request import MachineRequest

# Every guest has it loaded: its disk is ext4.
MODULE = "ext4"
KERNELS = [
    pytest.param(each, marks=[] if each == settings.load().kernel else [pytest.mark.elsewhere])
    for each in ("6.1", "6.12", "7.2")
]


@pytest.fixture(scope="module", params=KERNELS)
def running(request, library, accelerator, tmp_path_factory):
    """A kernel as its files have it, and the lines of its /proc/kallsyms."""
    image = library.ensure(request.param)
    wanted = MachineRequest.from_settings(image, settings.load(), accelerator)
    saved = ensure_warm(library.cache, wanted, progress=progress.Silent(), probes=())
    with restored(saved, RunLayout(tmp_path_factory.mktemp("lab"))) as lab:
        listed = lab.guest.run(["cat", "/proc/kallsyms"]).stdout
    return ShippedKernel(image.kernel), [line.split() for line in listed.splitlines()]


def test_vmlinux_has_the_symbols_that_it_shows(running):
    shipped, lines = running
    # QEMU starts the kernel where it was linked to: nothing moves it. Lines of modules have a word more.
    shown = [
        (int(each[0], 16), each[1].islower(), each[1] in "tTwW", each[2])
        for each in lines
        if len(each) == 3
    ]
    symbols = shipped.object("vmlinux").symbols
    assert len(symbols) > 50_000
    assert [(each.address, each.local, each.kind == "FUNC", each.name) for each in symbols] == shown


def test_a_modules_symbols_are_in_the_order_that_it_shows(running):
    shipped, lines = running
    shown = [each[2] for each in lines if each[3:] == [f"[{MODULE}]"]]
    # Those of its .init sections are gone by now.
    names = iter(each.name for each in shipped.object(MODULE).symbols)
    assert len(shown) > 500
    assert all(each in names for each in shown)
