# SPDX-License-Identifier: Apache-2.0
"""Kernels that look for faults in memory: what each is given, and that whoever reads a check is told."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from klp.analysis.checked import CheckedKernel, CheckResult
from klp.analysis.evidence import Verdict
from klp.check.candidate import livepatches_of
from klp.check.plan import CheckOrder, TargetKernel, outcome_of, planned_units
from klp.cli.check import check_alike
from klp.cli.main import klp
from klp.errors import UsageError
from klp.model import Accelerator, Image, Kernel
from klp.paths import CheckLayout, RunLayout
from klp.records.sets import compare_records
from klp.records.writing import write_check
from klp.report.check_junit import check_junit
from klp.report.check_table import check_table
from klp.report.html import report_page
from klp.settings import Settings
from klp.vm.debugging import MemoryDebugging, debugging_of
from klp.vm.request import MachineRequest
from klp.vm.spec import kernel_command_line
from tests.unit.comparisons import check_of, check_run, outcome

HERE = Path("/cache")
KERNEL = Kernel("6.12", "6.12.1", "0", HERE / "k", HERE / "i", HERE / "k.ext4", HERE, HERE, None)
IMAGE = Image("6.12", "1", KERNEL, root_disk=HERE / "root", ssh_key=HERE / "key", host_key="ssh-ed25519 A")
DEBUG = Settings(debug=True)
WORDS = "slub_debug=FZPU page_poison=1 kfence.sample_interval=1"


def with_config(folder: Path, *options: str) -> Image:
    config = folder / "config"
    config.write_text("".join(f"CONFIG_{each}\n" for each in options))
    return replace(IMAGE, kernel=replace(KERNEL, config=config))


def request(image: Image, settings: Settings = DEBUG) -> MachineRequest:
    return MachineRequest.from_settings(image, settings, Accelerator.TCG)


def line(wanted: MachineRequest) -> str:
    return kernel_command_line(wanted.spec(RunLayout(Path("/run"))))


def test_what_a_kernel_has_built_in_is_what_it_is_given() -> None:
    assert debugging_of({}) == MemoryDebugging((), kfence=False)
    assert not debugging_of({"SLUB_DEBUG": "n", "PAGE_POISONING": "0", "KFENCE": "m"}).summary
    assert debugging_of({"SLUB_DEBUG": "y"}).summary == "slub_debug=FZPU"
    assert debugging_of({"PAGE_POISONING": "y"}).summary == "page_poison=1"
    assert debugging_of({"KFENCE": "y"}).summary == "kfence.sample_interval=1"
    whole = debugging_of({"SLUB_DEBUG": "y", "PAGE_POISONING": "y", "KFENCE": "y"})
    assert whole.summary == WORDS


def test_it_boots_with_them_but_for_kfence(tmp_path: Path) -> None:
    image = with_config(tmp_path, "SLUB_DEBUG=y", "PAGE_POISONING=y", "KFENCE=y")
    wanted = request(image)
    assert line(wanted).endswith(" slub_debug=FZPU page_poison=1")
    assert wanted.looking is not None
    assert wanted.looking.kfence
    plain = request(image, Settings())
    assert plain.looking is None
    assert line(wanted).startswith(line(plain))


def test_a_kernel_that_has_nothing_is_refused(tmp_path: Path) -> None:
    for image in (with_config(tmp_path, "SLUB=y", "KFENCE=m"), IMAGE):
        with pytest.raises(UsageError, match=r"kernel 6\.12\.1 cannot look for faults in memory"):
            request(image)


def test_the_request_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    wanted = request(with_config(tmp_path, "SLUB_DEBUG=y", "KFENCE=y"))
    text = msgspec.json.encode(wanted, enc_hook=str)
    read = msgspec.json.decode(text, type=MachineRequest, dec_hook=lambda kind, value: kind(value))
    assert read == wanted


def debugged(*, debug: str = WORDS) -> CheckedKernel:
    return CheckedKernel(
        name="6.12", release="6.12.1", kernel_digest="a", image_digest="b", accelerator="tcg", debug=debug
    )


def checked(*, debug: str = WORDS) -> CheckResult:
    return check_of(outcome("life"), kernels=(debugged(debug=debug),))


def test_a_check_says_that_its_kernels_looked() -> None:
    assert checked().debug
    assert not checked(debug="").debug
    for debug, title in ((WORDS, "6.12.1 (debug)"), ("", "scenario  6.12.1\n")):
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(check_table(checked(debug=debug)))
        assert title in console.export_text()
    assert f'name="debug" value="{WORDS}"' in check_junit(checked()).decode()


def test_the_page_says_so() -> None:
    page = report_page([check_run(checked())])
    assert f"looking for faults in memory ({WORDS})" in page
    assert "looking for faults" not in report_page([check_run(checked(debug=""))])


def test_a_check_goes_on_as_it_began(tmp_path: Path) -> None:
    layout = CheckLayout(tmp_path / "check")
    layout.root.mkdir()
    write_check(layout, checked(debug=""))
    found = CliRunner().invoke(klp, ["check", "--debug", "--resume", str(layout.root)])
    assert isinstance(found.exception, UsageError)
    assert "begun without --debug" in found.exception.message


@pytest.mark.parametrize(("was", "now"), [(WORDS, ""), ("", WORDS)])
def test_only_like_is_compared_with_like(was: str, now: str) -> None:
    base = check_run(checked(debug=was))
    with pytest.raises(UsageError, match=f"was checked with{'' if was else 'out'} --debug"):
        check_alike(base, order(now))
    check_alike(base, order(was))
    check_alike(None, order(now))


def test_a_comparison_names_the_kind_of_kernel() -> None:
    looking, plain = (check_run(checked(debug=each)) for each in (WORDS, ""))
    found = compare_records(looking, plain, Settings())
    assert (found.base.kernels, found.new.kernels) == (("6.12.1 (debug)",), ("6.12.1",))


def order(debug: str) -> CheckOrder:
    return CheckOrder((), (TargetKernel(IMAGE, "tcg", "6.12", debug),), ("life",))


@pytest.mark.parametrize("debug", [False, True])
def test_the_command_that_repeats_it_asks_for_the_same(debug: bool) -> None:
    wanted = CheckOrder(livepatches_of(["version-banner"]), order("").kernels, ("life",))
    [unit] = planned_units(wanted, Settings(debug=debug), Path("/check"))
    assert unit.settings.debug == debug
    assert ("--debug" in outcome_of(unit, Verdict.HELD).command) == debug
