# SPDX-License-Identifier: Apache-2.0
"""The probes' programs that this machine compiles are those that BCC compiles in the guest."""

from __future__ import annotations

import json
import struct

import pytest

from klp import paths, progress, settings
from klp.lab.programs import ensure_programs
from klp.lab.warm import ensure_warm, restored
from klp.paths import RunLayout
from klp.trace.events import Header
from klp.trace.store import EventStore
from klp.trace.tracer import PROBES, Tracer
from klp.vm.request import MachineRequest

KERNELS = ("6.1", "6.12", "7.2")
INSTRUCTION = struct.Struct("<BBhi")
LOAD_64, PSEUDO_MAP = 0x18, 1


def named(program):
    """Return a program in which an instruction that takes a map has its name, not a descriptor."""
    names = {made.pop("descriptor"): made["name"] for made in program["maps"]}

    def instructions(code):
        for operation, registers, offset, value in INSTRUCTION.iter_unpack(bytes.fromhex(code)):
            takes_map = operation == LOAD_64 and registers >> 4 == PSEUDO_MAP
            yield operation, registers, offset, names[value] if takes_map else value

    program["functions"] = {name: list(instructions(code)) for name, code in program["functions"].items()}
    return program


@pytest.mark.parametrize("kernel", [pytest.param(each, marks=pytest.mark.vm(each)) for each in KERNELS])
def test_compiled_here_is_what_the_guest_compiles(kernel, library, accelerator, tmp_path):
    wanted = MachineRequest.from_settings(library.ensure(kernel), settings.load(), accelerator)
    here = ensure_programs(library.cache, wanted, PROBES, progress.Silent())
    by_name = {file.stem: file for file in here if file.suffix == ".compiled"}
    saved = ensure_warm(library.cache, wanted, progress=progress.Silent(), probes=())

    with restored(saved, RunLayout(tmp_path)) as lab:
        lab.guest.run("mkdir -p /run/klp/probes").must("making room for probes")
        for file in paths.probe_files():
            lab.guest.put(file, f"/run/klp/probes/{file.name}")
        for probe in PROBES:
            made = f"/run/klp/{probe}.compiled"
            command = f"python3 /run/klp/probes/{probe}.py -j --compile {made}"
            lab.guest.run(command, timeout_s=600).must(command)

            in_guest, ours = (
                named(json.loads(each)) for each in (lab.guest.read(made), by_name[probe].read_text())
            )
            assert ours["functions"].keys() == in_guest["functions"].keys()
            for name, instructions in in_guest["functions"].items():
                assert ours["functions"][name] == instructions, f"{probe}: {name}"
            assert ours == in_guest


@pytest.mark.vm("6.12")
@pytest.mark.parametrize("cpus", [1, 4])
def test_guests_load_what_was_compiled_for_so_many_cpus(cpus, library, image, accelerator, tmp_path):
    wanted = MachineRequest(image, accelerator, cpus=cpus)
    here = ensure_programs(library.cache, wanted, PROBES, progress.Silent())
    saved = ensure_warm(library.cache, wanted, progress=progress.Silent(), probes=())

    with restored(saved, RunLayout(tmp_path)) as lab, EventStore(tmp_path / "events.jsonl") as store:
        tracer = Tracer(lab.guest, store)
        tracer.arm(programs=here)
        recompiled = tracer.recompiled()
        libraries = lab.guest.run("cat /proc/[0-9]*/maps | grep -c libLLVM").stdout
        heads = [store.header(probe) for probe in PROBES]
        tracer.stop()

    assert recompiled == ()
    assert libraries.strip() == "0"
    assert all(isinstance(head, Header) and head.attached for head in heads)


@pytest.mark.vm("6.12")
def test_a_program_for_so_many_cpus_is_refused_by_a_guest_with_others_which_says_so(
    library, image, accelerator, machine_request, tmp_path
):
    wanted = MachineRequest(image, accelerator, cpus=4)
    here = ensure_programs(library.cache, wanted, ("klpcallbacks",), progress.Silent())
    saved = ensure_warm(library.cache, machine_request, progress=progress.Silent(), probes=())

    with restored(saved, RunLayout(tmp_path)) as lab, EventStore(tmp_path / "events.jsonl") as store:
        tracer = Tracer(lab.guest, store)
        tracer.arm(("klpcallbacks",), programs=here)
        recompiled, head = tracer.recompiled(), store.header("klpcallbacks")
        tracer.stop()

    assert recompiled == (
        "klpcallbacks: klpcallbacks.compiled was compiled for another kernel, text or number of CPUs; "
        "compiling it here",
    )
    assert head is not None
    assert head.attached
