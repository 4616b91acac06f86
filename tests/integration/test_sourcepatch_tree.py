# SPDX-License-Identifier: Apache-2.0
"""Source patches for a user's own build tree, and what of them `klp image rm` takes away."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from klp import settings
from klp.process import run
from klp.progress import Silent
from klp.sourcepatch.prepared import prepared_tree
from tests.sourcepatch.cases import CASES

from .trees import copy_modules, removed_after

pytestmark = pytest.mark.vm("6.12")


@pytest.fixture(scope="module")
def tree(library, image, tmp_path_factory):
    """The stock kernel's source as its build would have left it: the kernel in it is the stock one."""
    folder = tmp_path_factory.mktemp("tree") / "linux"
    prepared = prepared_tree(image.kernel, Silent()).tree
    run(["cp", "--archive", "--reflink=auto", prepared, folder])
    (folder / "include/config/kernel.release").write_text(f"{image.kernel.release}\n")
    shutil.copyfile(image.kernel.image, folder / "vmlinux")
    copy_modules(image, folder)
    with removed_after(library, folder):
        yield folder


@pytest.fixture
def write(tree, tmp_path):
    """Write the patch for the tree as it stands."""

    def patch():
        case, file = CASES["cmdline"], tmp_path / "cmdline.patch"
        file.write_text(case.patch(tree))
        words = {"command": case.command, "enabled": case.shows}
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in words.items())
        file.with_suffix(".toml").write_text(f"[[observe]]\n{lines}")
        return file

    return patch


@pytest.fixture
def patch(write):
    return write()


def stamps(folder):
    return {each: each.lstat().st_mtime_ns for each in folder.rglob("*")}


def test_a_livepatch_is_made_for_it_and_the_tree_is_not_written_to(klp, tree, patch, tmp_path):
    before, out = stamps(tree), tmp_path / "out"
    done = klp("make", patch, "-k", tree, "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vmlinux: changes cmdline_proc_show" in done.stdout
    [made] = json.loads((out / "made.json").read_text())["made"]
    assert (out / made["release"] / made["file"]).is_file()
    assert stamps(tree) == before


def test_it_runs_on_its_kernel(klp, tree, patch, tmp_path):
    done = klp("run", patch, "-k", tree, "-o", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    [plan] = json.loads((tmp_path / "run/run.json").read_text())["plans"]
    assert plan["error"] in ("", None)


def test_a_function_that_is_not_the_built_one_is_refused(klp, tree, write, tmp_path):
    """The source was edited after the kernel was built, and the patch was made from what it is now."""
    file = tree / "fs/proc/cmdline.c"
    kept, times = file.read_text(), file.stat()
    edited = kept.replace("seq_puts(m, saved_command_line);", "seq_puts(m, saved_command_line + 1);", 1)
    assert edited != kept
    file.write_text(edited)
    try:
        done = klp("make", write(), "-k", tree, "-o", tmp_path / "out")
    finally:
        file.write_text(kept)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert done.returncode == 2
    assert "fs/proc/cmdline.c: cmdline_proc_show: is not what this kernel runs" in done.stderr
    assert "edited after the kernel was built" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_tree_built_with_o_is_refused(klp, library, tree, patch, tmp_path):
    (tree / "source").symlink_to(tree)
    try:
        with removed_after(library, tree):
            done = klp("make", patch, "-k", tree, "-o", tmp_path / "out")
    finally:
        (tree / "source").unlink()
    assert done.returncode == 2
    assert "built with O=" in done.stderr


def test_image_rm_takes_the_prepared_source_of_its_kernel_alone(klp, library, tree, tmp_path):
    """In a cache of its own, whose entries are what the shared one's say of themselves."""
    shared, cache, kernel = library.cache.layout.root, tmp_path / "cache", settings.load().kernel
    for manifest in shared.glob("*/manifest.json"):
        (cache / manifest.parent.name).mkdir(parents=True)
        shutil.copy2(manifest, cache / manifest.parent.name)
    there = {each.name for each in cache.iterdir()}
    of_kernel = {entry.name for entry, _ in library.parts(kernel)}
    assert any(each.startswith("prepared-") for each in of_kernel)
    done = klp("image", "rm", kernel, env={**os.environ, "KLP_CACHE": str(cache)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert there - {each.name for each in cache.iterdir()} == of_kernel
