# SPDX-License-Identifier: Apache-2.0
"""What a real guest tells just after a refusal: whatever stood in the way is named."""

from __future__ import annotations

from contextlib import contextmanager

import msgspec
import pytest

from klp import progress, settings
from klp.analysis.refusal_causes import causes_of
from klp.drive.refusal_facts import gather_refusal_facts
from klp.lab.warm import ensure_warm, restored
from klp.modules.build import build
from klp.modules.sources import find_source
from klp.paths import RunLayout
from klp.vm.accel import choose_accelerator
from klp.vm.request import MachineRequest
from tests.integration.conftest import FAULTS

NAME, FUNCTION = "klp_version_banner", "version_proc_show"
MODULES = "/run/klp/modules"
KERNELS = [
    pytest.param("6.12", marks=pytest.mark.vm("6.12")),
    *(pytest.param(each, marks=[pytest.mark.vm(each), pytest.mark.elsewhere]) for each in ("6.1", "7.2")),
]


@pytest.fixture(scope="module", params=KERNELS)
def guest(request, library, tmp_path_factory):
    """A guest that has the livepatch and what stands in its way as files."""
    wanted = msgspec.structs.replace(settings.load(), kernel=request.param)
    image = library.ensure(request.param)
    accelerator = choose_accelerator(wanted, library.layout, image).accelerator
    machine = MachineRequest.from_settings(image, wanted, accelerator)
    bare = ensure_warm(library.cache, machine, progress=progress.Silent(), probes=())
    with restored(bare, RunLayout(tmp_path_factory.mktemp("guest"))) as lab:
        for word in ("version-banner", str(FAULTS)):
            out = tmp_path_factory.mktemp("modules")
            for module in build(find_source(word), image.kernel, out, progress.Silent()):
                lab.guest.put(module.file, f"{MODULES}/{module.name}.ko")
        yield lab.guest


@pytest.fixture
def refused(guest):
    """Have the livepatch refused with an errno; return what is said of it."""

    def load(errno: str, words: str) -> str:
        done = guest.run(f"insmod {MODULES}/{NAME}.ko")
        assert done.status
        assert words in done.stderr
        facts = gather_refusal_facts(guest, NAME)
        return causes_of("load", NAME, errno, faults=(), functions=(FUNCTION,), facts=facts)

    return load


@contextmanager
def loaded(guest, name):
    guest.run(f"insmod {MODULES}/{name}.ko").must("loading")
    yield
    if name == NAME:
        guest.run(f"echo 0 >/sys/kernel/livepatch/{NAME}/enabled").must("disabling")
        ended = f"while [ -e /sys/kernel/livepatch/{NAME} ]; do read -t 0.1 <>/run/klp/silence; done; true"
        guest.run(ended).must("waiting for the end of the transition")
    guest.run(f"rmmod {name}").must("unloading")


def test_where_nothing_stands_in_its_way_nothing_is_told(guest):
    facts = gather_refusal_facts(guest, NAME)
    assert (facts.livepatches, facts.module, facts.ftrace_enabled) == ((), "", True)
    assert (facts.modules_disabled, facts.signed_only) == (False, False)
    assert facts.lockdown in ("", "none")  # empty where nothing has mounted securityfs
    assert FUNCTION not in facts.redirected | facts.probed
    assert facts.available_kib


def test_ftrace_that_is_off(guest, refused):
    guest.run("echo 0 >/proc/sys/kernel/ftrace_enabled").must("switching ftrace off")
    try:
        said = refused("EBUSY", "Device or resource busy")
    finally:
        guest.run("echo 1 >/proc/sys/kernel/ftrace_enabled").must("switching ftrace on")
    assert said.startswith("kernel.ftrace_enabled is 0")


def test_a_kprobe_that_may_change_where_the_function_goes(guest, refused):
    with loaded(guest, "klp_post_handler"):
        said = refused("EBUSY", "Device or resource busy")
    assert said.startswith(f"a kprobe with a post-handler redirects {FUNCTION}")


def test_one_that_is_loaded_already(guest, refused):
    with loaded(guest, NAME):
        said = refused("EEXIST", "File exists")
        facts = gather_refusal_facts(guest, NAME)
    assert said.startswith(f"the livepatch {NAME} is loaded and enabled already")
    assert facts.module == "live"
    assert FUNCTION in facts.redirected


def test_one_in_use_is_told_by_who_uses_it(guest):
    with loaded(guest, NAME):
        guest.run(f"rmmod {NAME}")
        facts = gather_refusal_facts(guest, NAME)
        said = causes_of("unload", NAME, "EAGAIN", faults=(), functions=(), facts=facts)
    assert said.startswith("it is still enabled")
