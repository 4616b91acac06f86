# SPDX-License-Identifier: Apache-2.0
"""The choice between KVM and TCG: from what can be seen, and from what was seen to boot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from klp import doctor
from klp.errors import BootFailed, HostLacks
from klp.files import digest_of
from klp.lab import warm
from klp.model import Accelerator, Image, Kernel
from klp.paths import CacheLayout
from klp.settings import Settings
from klp.vm import accel
from klp.vm.accel import choose_accelerator, forget_failure, host_cpu, kvm_obstacle
from klp.vm.request import MachineRequest

CPUINFO = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu {} sse2\nbugs\t\t: vmx svm\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a host with or without KVM, as choose_accelerator() looks at it."""
    kvm, cpuinfo, boot_id = tmp_path / "kvm", tmp_path / "cpuinfo", tmp_path / "boot_id"

    def make(*, device: bool = True, flag: str = "vmx", boot: str = "boot-1") -> None:
        kvm.unlink(missing_ok=True)
        if device:
            kvm.touch()
        cpuinfo.write_text(CPUINFO.format(flag))
        boot_id.write_text(f"{boot}\n")

    monkeypatch.setattr(accel, "_BOOT_ID", boot_id)
    monkeypatch.setattr(accel, "kvm_obstacle", lambda: kvm_obstacle(kvm, cpuinfo, "x86_64"))
    make()
    return make


Host = Callable[..., None]


@pytest.fixture
def layout(tmp_path: Path) -> CacheLayout:
    (tmp_path / "cache").mkdir()
    return CacheLayout(tmp_path / "cache")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    kernel = Kernel(
        name="6.12", release="6.12", digest="0", image=tmp_path, initrd=tmp_path, disk=tmp_path,
        build=tmp_path, toolchain=tmp_path, source=None,
    )  # fmt: skip
    return Image(name="6.12", digest="0", kernel=kernel, root_disk=tmp_path, ssh_key=tmp_path, host_key="")


class Machines:
    """Stands in for Machine: boots, or fails to, and counts."""

    def __init__(self, failure: Exception | None) -> None:
        self.specs: list[object] = []
        self._failure = failure

    def __call__(self, spec: object, *_: object) -> Machines:
        self.specs.append(spec)
        return self

    def __enter__(self) -> Machines:
        if self._failure:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], Machines]:
    def install(failure: Exception | None = None) -> Machines:
        made = Machines(failure)
        monkeypatch.setattr(accel, "Machine", made)
        monkeypatch.setattr(accel, "make_overlay", lambda *_: None)
        return made

    return install


Install = Callable[..., Machines]


def obstacle(tmp_path: Path, flags: str, machine: str = "x86_64") -> str | None:
    (tmp_path / "kvm").touch()
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags))
    return kvm_obstacle(tmp_path / "kvm", tmp_path / "cpuinfo", machine)


@pytest.mark.parametrize("flags", ["vmx", "svm", "ept vmx pae"])
def test_nothing_speaks_against_a_cpu_with_the_flag(tmp_path: Path, flags: str) -> None:
    assert obstacle(tmp_path, flags) is None


@pytest.mark.parametrize("flags", ["", "hypervisor", "vmxnet svm_lock"])
def test_a_cpu_without_the_flag_is_refused_although_kvm_opens(tmp_path: Path, flags: str) -> None:
    said = obstacle(tmp_path, flags)
    assert said is not None
    assert "neither vmx nor svm" in said


def test_a_cpuinfo_without_flags(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    (tmp_path / "cpuinfo").write_text("processor: 0\n")
    assert kvm_obstacle(tmp_path / "kvm", tmp_path / "cpuinfo", "x86_64") is not None


def test_no_kvm(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert kvm_obstacle(missing, tmp_path / "cpuinfo", "x86_64") == f"{missing} does not exist"


def test_a_kvm_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root every file may be
    said = obstacle(tmp_path, "vmx")
    assert said == f"{tmp_path / 'kvm'} may not be opened by this user"


def test_settings_may_ask_for_tcg(host: Host, layout: CacheLayout, image: Image, machines: Install) -> None:
    host()
    tried = machines()
    verdict = choose_accelerator(Settings(accelerator="tcg"), layout, image)
    assert verdict.accelerator is Accelerator.TCG
    assert verdict.reason == "the settings ask for it"
    assert verdict.proven
    assert tried.specs == []


def test_without_kvm_it_is_tcg_and_says_why(host: Host, layout: CacheLayout) -> None:
    host(device=False)
    verdict = choose_accelerator(Settings(), layout)
    assert verdict.accelerator is Accelerator.TCG
    assert verdict.proven
    assert "does not exist" in verdict.reason


@pytest.mark.parametrize("lack", [{"device": False}, {"flag": ""}])
def test_kvm_that_is_demanded_and_cannot_be_had(
    host: Host, layout: CacheLayout, lack: dict[str, object]
) -> None:
    host(**lack)
    with pytest.raises(HostLacks, match=r"^KVM was asked for: ") as caught:
        choose_accelerator(Settings(accelerator="kvm"), layout)
    assert caught.value.hint is not None
    assert "KLP_ACCELERATOR" in caught.value.hint


@pytest.mark.usefixtures("host")
def test_kvm_is_unproven_until_a_guest_has_booted(layout: CacheLayout) -> None:
    verdict = choose_accelerator(Settings(), layout)
    assert verdict.accelerator is Accelerator.KVM
    assert not verdict.proven
    assert not layout.accelerator.exists()


@pytest.mark.parametrize("demanded", ["auto", "kvm"])
@pytest.mark.usefixtures("host")
def test_a_boot_proves_kvm_once(
    layout: CacheLayout, image: Image, machines: Install, demanded: str
) -> None:
    tried = machines()
    for _ in range(2):
        verdict = choose_accelerator(Settings(accelerator=demanded), layout, image)
        assert verdict.accelerator is Accelerator.KVM
        assert verdict.proven
    assert len(tried.specs) == 1
    assert choose_accelerator(Settings(), layout).proven


@pytest.mark.usefixtures("host")
def test_a_boot_that_fails_is_remembered_with_its_reason(
    layout: CacheLayout, image: Image, machines: Install
) -> None:
    tried = machines(BootFailed("the guest's SSH server did not listen within 15 s"))
    for _ in range(2):
        verdict = choose_accelerator(Settings(), layout, image)
        assert verdict.accelerator is Accelerator.TCG
        assert "no guest boots with it (the guest's SSH server did not listen" in verdict.reason
    assert len(tried.specs) == 1
    with pytest.raises(HostLacks, match="no guest boots with it"):
        choose_accelerator(Settings(accelerator="kvm"), layout, image)


def test_a_proof_holds_for_one_boot_of_the_host(
    host: Host, layout: CacheLayout, image: Image, machines: Install
) -> None:
    machines(BootFailed("hung"))
    assert choose_accelerator(Settings(), layout, image).accelerator is Accelerator.TCG
    host(boot="boot-2")
    tried = machines()
    assert choose_accelerator(Settings(), layout, image).accelerator is Accelerator.KVM
    assert len(tried.specs) == 1


@pytest.mark.parametrize("text", [b"", b"{", b'{"boot_id": 1}', b"[]"])
@pytest.mark.usefixtures("host")
def test_a_damaged_proof_is_none(layout: CacheLayout, image: Image, machines: Install, text: bytes) -> None:
    layout.accelerator.write_bytes(text)
    tried = machines()
    assert choose_accelerator(Settings(), layout, image).proven
    assert len(tried.specs) == 1
    assert msgspec.json.decode(layout.accelerator.read_bytes())["booted"] is True


# --- what failed once may work later --------------------------------------------------------------------


@pytest.mark.usefixtures("host")
def test_a_failure_can_be_forgotten_and_is_tried_again(
    layout: CacheLayout, image: Image, machines: Install
) -> None:
    machines(BootFailed("hung"))
    assert choose_accelerator(Settings(), layout, image).accelerator is Accelerator.TCG
    assert "no guest boots with it (hung)" in forget_failure(layout)
    tried = machines()
    assert choose_accelerator(Settings(), layout, image).accelerator is Accelerator.KVM
    assert len(tried.specs) == 1


@pytest.mark.usefixtures("host")
def test_a_success_is_not_forgotten(layout: CacheLayout, image: Image, machines: Install) -> None:
    tried = machines()
    choose_accelerator(Settings(), layout, image)
    assert forget_failure(layout) == ""
    choose_accelerator(Settings(), layout, image)
    assert len(tried.specs) == 1
    layout.accelerator.unlink()
    assert forget_failure(layout) == ""


def test_the_doctor_forgets_it_when_asked(
    host: Host, layout: CacheLayout, image: Image, machines: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    host()
    monkeypatch.setattr("klp.doctor.kvm_obstacle", accel.kvm_obstacle)
    machines(BootFailed("hung"))
    settings = Settings(cache=str(layout.root))
    choose_accelerator(settings, layout, image)
    [before] = [each for each in doctor.examine(settings).checks if each.name == "accelerator"]
    assert before.ok
    assert before.mend.startswith("klp doctor --retry-kvm: ")
    assert "hung" in doctor.retry_kvm(settings)
    [after] = [each for each in doctor.examine(settings).checks if each.name == "accelerator"]
    assert after.detail.startswith("kvm: ")
    assert after.mend == ""


# --- a guest that was saved under KVM has the host's CPU ------------------------------------------------


def test_what_tells_cpus_apart(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"

    def cpu(flags: str, mhz: str = "2000", more: str = "") -> str:
        file.write_text(f"{CPUINFO.format(flags)}cpu MHz\t\t: {mhz}\n\nprocessor\t: 1\n{more}")
        return host_cpu(file)

    assert "vendor_id=GenuineIntel" in cpu("vmx")
    assert cpu("vmx") == cpu("vmx", mhz="800", more="flags\t\t: other\n")
    assert cpu("vmx") != cpu("vmx avx512f")


@pytest.mark.parametrize("accelerator", list(Accelerator))
def test_a_saved_guests_key_has_the_hosts_cpu_under_kvm(
    image: Image, monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator
) -> None:
    monkeypatch.setattr(warm, "qemu_version", lambda architecture: "10.0")
    keys = []
    for cpu in ("one", "another"):
        monkeypatch.setattr(warm, "host_cpu", lambda cpu=cpu: cpu)
        keys.append(digest_of(warm._inputs(MachineRequest(image, accelerator), ())))
    assert (keys[0] != keys[1]) is (accelerator is Accelerator.KVM)
