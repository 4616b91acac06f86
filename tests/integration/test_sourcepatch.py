# SPDX-License-Identifier: Apache-2.0
"""Livepatches made of source patches: each case of tests/sourcepatch comes out right on each kernel."""

from __future__ import annotations

import json
import re

import pytest

from klp import settings
from klp.progress import Silent
from klp.sourcepatch.prepared import prepared_tree
from tests.sourcepatch.cases import CASES

KERNELS = ("6.1", "6.12", "7.2")
# What stands in code in place of an address that the kernel writes as it boots (asm/runtime-const.h).
PLACEHOLDER = 0x0123456789ABCDEF.to_bytes(8, "little")
# Those that a guest runs, all at once.
RUN = {
    "6.12": ("cmdline", "dup", "two", "nftchain", "xfstrace", "userread"),
    "6.1": ("dup",),
    "7.2": ("sched", "newref", "userread"),
}


@pytest.fixture(scope="session")
def tree(library):
    """The prepared source of a kernel."""
    return lambda kernel: prepared_tree(library.ensure(kernel).kernel, Silent())


@pytest.fixture
def patch(tree, tmp_path):
    """A case as a file for one kernel, with a plan beside it where it can be seen in a guest."""

    def write(name, kernel):
        case, file = CASES[name], tmp_path / f"{name}.patch"
        file.write_text(case.patch(tree(kernel).tree))
        if case.command:
            shows = json.dumps(case.shows)
            file.with_suffix(".toml").write_text(
                f"[[observe]]\ncommand = {json.dumps(case.command)}\nenabled = {shows}\n"
            )
        return file

    return write


def of_kernels():
    return [
        pytest.param(kernel, name, id=f"{kernel}-{name}", marks=pytest.mark.xdist_group(f"make-{kernel}"))
        for kernel in KERNELS
        for name, case in CASES.items()
        if kernel in case.kernels
    ]


@pytest.mark.parametrize(("kernel", "name"), of_kernels())
def test_each_case_comes_out_right(klp, patch, tmp_path, kernel, name):
    file, out = patch(name, kernel), tmp_path / "out"
    done = klp("make", file, "-k", kernel, "-o", out)
    wanted = CASES[name].refusal(kernel)
    if wanted:
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search(wanted, done.stderr), done.stderr
        assert not out.exists()
        return
    assert done.returncode == 0, done.stdout + done.stderr
    for line in CASES[name].made:
        assert re.search(f"^  {line}", done.stdout, re.MULTILINE), done.stdout
    [made] = json.loads((out / "made.json").read_text())["made"]
    assert PLACEHOLDER not in (out / made["release"] / made["file"]).read_bytes()


@pytest.mark.parametrize("kernel", [pytest.param(each, marks=pytest.mark.vm(each)) for each in KERNELS])
def test_what_was_made_runs(klp, patch, tmp_path, kernel):
    files = [patch(name, kernel) for name in RUN[kernel]]
    done = klp("run", *files, "-k", kernel, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    plans = json.loads((tmp_path / "run/run.json").read_text())["plans"]
    assert len(plans) == len(files)
    assert all(each["error"] in ("", None) for each in plans)


def test_a_patch_that_does_not_apply_is_refused_with_its_hunk(klp, patch, tmp_path):
    file = patch("cmdline", settings.load().kernel)
    file.write_text(
        file.read_text().replace("seq_puts(m, saved_command_line)", "seq_puts(m, another_line)")
    )
    done = klp("make", file, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert re.search(r"fs/proc/cmdline\.c", done.stderr)
    assert re.search(r"hunk", done.stderr, re.IGNORECASE)
    assert "another_line" in done.stderr


@pytest.mark.parametrize("kernel", [pytest.param(each, marks=pytest.mark.vm(each)) for each in KERNELS])
def test_a_source_patch_is_checked(klp, patch, tmp_path, kernel):
    done = klp("check", patch("cmdline", kernel), "-k", kernel, "--quick", "-o", tmp_path / "check")
    assert done.returncode == 0, done.stdout + done.stderr
    checked = json.loads((tmp_path / "check/check.json").read_text())
    assert checked["verdict"] == "held"


def test_an_object_that_comes_later_is_patched_then(klp, patch, tmp_path):
    kernel = settings.load().kernel
    done = klp(
        "check", patch("two", kernel), "-k", kernel, "-s", "target-comes-and-goes", "-o", tmp_path / "check"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "check/check.json").read_text())["outcomes"]
    assert [each["verdict"] for each in outcomes] == ["held", "held"]


def test_a_later_version_replaces_the_one_before(klp, patch, tmp_path):
    kernel = settings.load().kernel
    first, second = patch("cmdline", kernel), patch("dup", kernel)
    done = klp("make", "--cumulative", first, second, "-k", kernel, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    done = klp("run", tmp_path / "out/dup.patch", "-k", kernel, "-o", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    [plan] = json.loads(done.stdout)["plans"]
    assert plan["livepatch"] == "livepatch_dup"
    assert [each["object"] for each in plan["objects"]] == ["vmlinux"]
    [functions] = [each["functions"] for each in plan["objects"]]
    assert {"cmdline_proc_show", "type_show"} <= {each.partition(",")[0] for each in functions}


def test_callbacks_and_states_of_the_author(klp, patch, tmp_path):
    kernel = settings.load().kernel
    file = patch("cmdline", kernel)
    (tmp_path / "calls.c").write_text(
        "static int pre_patch(struct klp_object *obj) { return 0; }\n"
        "static void post_unpatch(struct klp_object *obj) { }\n"
    )
    with file.with_suffix(".toml").open("a") as beside:
        beside.write('[make]\ncallbacks = "calls.c"\nstate = [{ id = 7, version = 2 }]\n')
    done = klp("run", file, "-k", kernel, "-o", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    [plan] = json.loads(done.stdout)["plans"]
    assert {each["kind"] for each in plan["callbacks"]} == {"pre_patch", "post_unpatch"}
