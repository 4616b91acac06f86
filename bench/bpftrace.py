# SPDX-License-Identifier: Apache-2.0
"""bpftrace, what people trace a kernel with by hand, in a guest of klp's.

It is no part of klp's images: it comes from the same Debian suite, with the libraries the guest lacks.
"""

from __future__ import annotations

import io
import shlex
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from klp import arch
from klp.guest.ssh import Guest
from klp.images import debian
from klp.images.definition import definition
from klp.settings import Settings
from klp.waiting import wait_until

_SCRIPT = Path(__file__).with_name("probes.bt")
_INSIDE = "/run/klp/bpftrace"
_ATTACH_S = 300.0


@contextmanager
def bpftrace_files(settings: Settings) -> Iterator[Path]:
    """Have a folder with bpftrace and every library it needs, for a block.

    Raises:
        HostLacks: the archive cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="klp-bench-") as folder:
        root = Path(folder, "root")
        root.mkdir()
        debian.make_root(definition(settings.kernel), settings.mirror, ("bpftrace",), root)
        yield root


def _needed(binary: Path) -> list[str]:
    with binary.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".dynamic")
        tags = section.iter_tags() if isinstance(section, DynamicSection) else ()
        return [str(vars(tag)["needed"]) for tag in tags if tag.entry.d_tag == "DT_NEEDED"]


def _closure(root: Path, binary: Path) -> dict[str, Path]:
    """Return the libraries `binary` needs, by the name it knows them by."""
    found: dict[str, Path] = {}
    waiting = _needed(binary)
    while waiting:
        name = waiting.pop()
        file = root / "usr/lib" / arch.DEFAULT.triplet / name
        if name not in found and file.exists():
            found[name] = file.resolve()
            waiting += _needed(found[name])
    return found


def ship(guest: Guest, root: Path) -> None:
    """Copy bpftrace, what it needs and the guest has not, and the script into a guest."""
    binary = root / "usr/bin/bpftrace"
    libraries = _closure(root, binary)
    folders = [f"{top}/{arch.DEFAULT.triplet}" for top in ("/usr/lib", "/lib")]
    has = set(guest.run(["ls", *folders]).stdout.split())
    guest.run(["mkdir", "-p", _INSIDE]).must("making room for bpftrace")
    packed = io.BytesIO()  # 200 MB of libraries, and an emulated guest decrypts what it is sent
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, file in {"bpftrace": binary, "probes.bt": _SCRIPT, **libraries}.items():
            if name not in has:
                archive.add(file, name)
    guest.run(["tar", "xz", "-C", _INSIDE], stdin=packed.getvalue()).must("shipping bpftrace")


@contextmanager
def tracing(guest: Guest) -> Iterator[None]:
    """Have the script run in a guest that it was shipped to, for a block."""
    out = f"{_INSIDE}/out"
    command = f"env LD_LIBRARY_PATH={_INSIDE} {_INSIDE}/bpftrace {_INSIDE}/probes.bt"
    started = guest.run(f"setsid {command} >{out} 2>{out}.err </dev/null & echo $!")
    pid = started.must("starting bpftrace").stdout.strip()

    def attached() -> bool:
        guest.run(["kill", "-0", pid]).must(f"bpftrace ({guest.run(['cat', out + '.err']).stdout.strip()})")
        return "Attaching" in guest.read(out) or "Attached" in guest.read(out)

    wait_until(attached, what="bpftrace", timeout_s=_ATTACH_S, every_s=0.5)
    # It says so before it has attached them all; then the last one is in the list of the enabled.
    listing = "/sys/kernel/debug/kprobes/list"
    wait_until(
        lambda: "klp_shadow_free_struct" in guest.read(listing),
        what="bpftrace's last probe",
        timeout_s=_ATTACH_S,
        every_s=0.5,
    )
    try:
        yield
    finally:
        guest.run(f"kill -INT {shlex.quote(pid)}; while kill -0 {shlex.quote(pid)} 2>/dev/null; do :; done")
