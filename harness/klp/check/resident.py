# SPDX-License-Identifier: Apache-2.0
"""Modules of the guest's own kernel, such as one that a livepatch changes."""

from __future__ import annotations

from pathlib import Path

from klp.drive.case import Case
from klp.drive.subject import ModuleSubject
from klp.images.kmods import module_on_disk
from klp.model import Kernel, Module
from klp.modules.modinfo import read_module
from klp.modules.plan import module_name


def module_of_the_kernel(case: Case, name: str) -> ModuleSubject | None:
    """Return a module of the guest's kernel, with what it needs loaded; None if there is none.

    Raises:
        CheckFailed: what it needs cannot be loaded.
    """
    # As modprobe would load it whatever modprobe.d has for it: the last file is its own.
    plan = case.guest.run(["modprobe", "--ignore-install", "--show-depends", name])
    files = [line.split()[1] for line in plan.stdout.splitlines() if line.startswith("insmod ")]
    if not files:
        return None
    # Each by modprobe, for some may be loaded already; insmod would fail for those.
    for file in files[:-1]:
        case.guest.run(["modprobe", Path(file).name.partition(".")[0]]).must(f"loading {file}")
    own = Module(
        name=module_name(name), file=Path(files[-1]), vermagic=case.guest.release, livepatch=False,
        depends=(), licence="", sha256="",
    )  # fmt: skip
    return case.resident(own, files[-1])


def fetched_module(kernel: Kernel, name: str, folder: Path) -> Module:
    """Put a module of a kernel into `folder`, decompressed.

    Raises:
        UsageError: the kernel has none of that name.
        HostLacks: there is no debugfs(8) here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.ko"
    file.write_bytes(module_on_disk(kernel, name))
    return read_module(file)
