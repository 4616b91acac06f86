# SPDX-License-Identifier: Apache-2.0
"""Kbuild and the compiler of the default kernel, at work on real sources; needs the built image alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from klp import paths, settings
from klp.errors import BuildFailed, NotALivepatch
from klp.images.library import Library
from klp.model import Kernel, Module
from klp.modules.build import build
from klp.modules.modinfo import check_loadable, read_module
from klp.modules.module_cache import ModuleCache
from klp.modules.plan import read_plan
from klp.modules.sources import find_source
from klp.progress import Silent

DEMAND_ONE_ERROR = "static int f(void)\n{\n\treturn undeclared;\n}\n"


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return Library(settings.load(), Silent()).ensure("6.12").kernel


def built(word: str | Path, kernel: Kernel, out: Path) -> dict[str, Module]:
    return {module.name: module for module in build(find_source(str(word)), kernel, out, Silent())}


def test_all_samples_are_built(kernel: Kernel, tmp_path: Path) -> None:
    modules = built("samples", kernel, tmp_path)
    assert {name: module.livepatch for name, module in modules.items()} == {
        "livepatch_sample": True,
        "livepatch_shadow_mod": False,
        "livepatch_shadow_fix1": True,
        "livepatch_shadow_fix2": True,
        "livepatch_callbacks_demo": True,
        "livepatch_callbacks_mod": False,
        "livepatch_callbacks_busymod": False,
    }
    for module in modules.values():
        assert module.file.parent == tmp_path
        check_loadable(read_module(module.file), kernel)


@pytest.mark.parametrize("folder", sorted(paths.PATCHES.glob("*/Kbuild")), ids=lambda f: f.parent.name)
def test_every_patch_is_built_as_planned(kernel: Kernel, tmp_path: Path, folder: Path) -> None:
    plan = read_plan(folder.with_name("patch.toml"))
    modules = built(plan.name, kernel, tmp_path)
    assert set(modules) >= {plan.livepatch, *(each.module for each in plan.load)} - {""}
    for module in modules.values():
        if module.livepatch:
            assert not module.depends  # a livepatch must not pin its target
    if plan.livepatch:
        assert modules[plan.livepatch].livepatch


def test_the_same_sources_make_the_same_module(kernel: Kernel, tmp_path: Path) -> None:
    first = built("version-banner", kernel, tmp_path / "first")
    second = built(paths.PATCHES / "version-banner/klp_version_banner.c", kernel, tmp_path / "second")
    assert {m.sha256 for m in first.values()} == {m.sha256 for m in second.values()}
    content = first["klp_version_banner"].file.read_bytes()
    assert b"klp_version_banner.c" in content
    assert b"klp-build-" not in content


def test_a_compile_error_is_told_in_the_users_path(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my patch").mkdir()
    Path("my patch/broken.c").write_text(DEMAND_ONE_ERROR)
    Path("my patch/Kbuild").write_text("obj-m += broken.o\n")
    for word in ("my patch", "my patch/broken.c", str(tmp_path / "my patch")):
        with pytest.raises(BuildFailed) as caught:
            built(word, kernel, tmp_path / "out")
        folder = word.removesuffix("/broken.c")
        assert caught.value.message.startswith(f"{folder}/broken.c:3: 'undeclared' undeclared")
        assert f"{folder}/broken.c:3:16: error: " in caught.value.output
        for noise in ("klp-build-", "make: ", "make["):
            assert noise not in caught.value.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kbuild", "says"),
    [
        ("obj-m += nothere.o\n", "my: No rule to make target"),
        ("obj-m += a.o\nendif\n", "my/Kbuild:2: "),
        ("obj-$(CONFIG_NO_SUCH) += a.o\n", "my: Kbuild made no module"),
    ],
)
def test_a_broken_kbuild_is_told(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kbuild: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    Path("my/a.c").write_text('#include <linux/module.h>\nMODULE_LICENSE("GPL");\n')
    Path("my/Kbuild").write_text(kbuild)
    with pytest.raises(BuildFailed) as caught:
        built("my", kernel, tmp_path / "out")
    assert caught.value.message.startswith(says)


def test_an_unresolved_symbol_is_told(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.c").write_text(
        '#include <linux/module.h>\nvoid gone(void);\nMODULE_LICENSE("GPL");\n'
        "static int __init a_init(void)\n{\n\tgone();\n\treturn 0;\n}\nmodule_init(a_init);\n"
    )
    with pytest.raises(BuildFailed, match=r'"gone" \[.*a\.ko\] undefined'):
        built("a.c", kernel, tmp_path / "out")


def test_a_module_is_refused_by_another_kernel(kernel: Kernel, tmp_path: Path) -> None:
    [module] = built("version-banner", kernel, tmp_path).values()
    path = tmp_path / "other.ko"
    content = module.file.read_bytes()
    path.write_bytes(content.replace(b"vermagic=6", b"vermagic=5"))
    with pytest.raises(NotALivepatch, match=f"the kernel is {kernel.release}".replace("+", r"\+")):
        built(path, kernel, tmp_path / "out")


def test_a_build_is_kept_until_a_source_changes(kernel: Kernel, tmp_path: Path) -> None:
    folder = tmp_path / "banner"
    shutil.copytree(paths.PATCHES / "version-banner", folder)
    cache = ModuleCache(tmp_path / "kept")

    def again(out: str) -> bytes:
        source = find_source(str(folder))
        [module] = build(source, kernel, tmp_path / out, Silent(), cache)
        return module.file.read_bytes()

    first = again("first")
    [place] = (tmp_path / "kept").iterdir()
    [file] = place.iterdir()
    file.write_bytes(first + b"kept")  # only what was kept ends so
    assert again("second") == first + b"kept"
    source = folder / "klp_version_banner.c"
    source.write_text(source.read_text().replace("livepatched", "patched alive"))
    assert again("third") not in (first, first + b"kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_what_nobody_asked_for_in_a_month_is_not_kept(kernel: Kernel, tmp_path: Path) -> None:
    cache = ModuleCache(tmp_path)
    [module] = build(find_source("version-banner"), kernel, tmp_path / "out", Silent())
    for name in ("old", "new"):
        cache.keep([module], tmp_path / name)
    os.utime(tmp_path / "old", (0, 0))
    cache.keep([module], tmp_path / "newer")
    assert cache.files(tmp_path / "old") == []
    assert [file.name for file in cache.files(tmp_path / "new")] == [module.file.name]
