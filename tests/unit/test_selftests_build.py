# SPDX-License-Identifier: Apache-2.0
"""Finding the selftests of a kernel's source, the old layout and the new; nothing is built here."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.analysis.selftest_output import PlannedCase
from klp.errors import UsageError
from klp.model import Kernel
from klp.selftests.build import find_selftests

MAKEFILE = """\
TEST_PROGS_EXTENDED := functions.sh
TEST_PROGS := \\
\ttest-b.sh \\
\ttest-a.sh
TEST_PROGS += extra.sh not-there.sh
"""


def kernel(source: Path | None) -> Kernel:
    nowhere = Path("/nowhere")
    return Kernel(
        name="6.x", release="6.x.1", digest="0", image=nowhere, initrd=nowhere, disk=nowhere, build=nowhere,
        toolchain=nowhere, source=source,
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "tools/testing/selftests/livepatch"
    (folder / "test_modules").mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    for name in ("functions.sh", "test-a.sh", "test-b.sh", "extra.sh", "stray.sh"):
        (folder / name).write_text(f'start_test "of {name}"\n')
    return tmp_path


def test_all_of_the_makefile_in_its_order(source: Path) -> None:
    found = find_selftests(kernel(source))
    assert [script.name for script in found.scripts] == ["test-b.sh", "test-a.sh", "extra.sh"]
    assert found.scripts[0].cases == (PlannedCase("of test-b.sh", conditional=False),)
    assert not found.by_modprobe


def test_modules_of_the_kernels_own_library(source: Path) -> None:
    (source / "tools/testing/selftests/livepatch/test_modules").rmdir()
    with pytest.raises(UsageError, match="without the selftests' modules"):
        find_selftests(kernel(source))
    (source / "lib/livepatch").mkdir(parents=True)
    found = find_selftests(kernel(source))
    assert found.by_modprobe
    assert found.modules == source / "lib/livepatch"


@pytest.mark.parametrize("word", ["a", "test-a", "test-a.sh"])
def test_a_script_by_name(source: Path, word: str) -> None:
    assert [script.name for script in find_selftests(kernel(source), [word, word]).scripts] == ["test-a.sh"]


def test_a_script_of_ones_own(source: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.sh"
    own.write_text('start_test "mine"\n')
    found = find_selftests(kernel(source), ["b", str(own)])
    assert [script.file for script in found.scripts][1] == own
    twin = tmp_path / "test-b.sh"
    twin.write_text("")
    with pytest.raises(UsageError, match=r"two scripts are called test-b\.sh"):
        find_selftests(kernel(source), ["b", str(twin)])


def test_an_unknown_script_names_the_known(source: Path) -> None:
    with pytest.raises(UsageError, match=r"no-such: no such selftest of kernel 6\.x") as caught:
        find_selftests(kernel(source), ["no-such"])
    assert caught.value.hint == "has test-b.sh, test-a.sh, extra.sh"


def test_a_kernel_without_selftests(tmp_path: Path) -> None:
    for nothing in (None, tmp_path):
        with pytest.raises(UsageError, match="comes without tools/testing/selftests/livepatch"):
            find_selftests(kernel(nothing))
