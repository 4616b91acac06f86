# SPDX-License-Identifier: Apache-2.0
"""virtme-ng (vng), the tool kernel developers boot a kernel with today, on the very kernel klp boots.

vng shares the host's root with the guest, so the kernel's modules must lie in the host's /lib/modules;
they are linked there for the length of the benchmark.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from klp.errors import HostLacks
from klp.images import debian
from klp.images.definition import definition
from klp.process import run, which
from klp.settings import Settings

_VENV = Path(__file__).resolve().parent / ".venv"
_HOST_MODULES = Path("/lib/modules")


@dataclass(frozen=True, slots=True)
class Peer:
    """An installed vng and the kernel it boots."""

    vng: Path
    vmlinuz: Path

    def boot(self) -> None:
        """Boot, run uname, and end, as `klp` would be asked to: no KVM, two CPUs, the same memory."""
        run([
            self.vng, "--disable-kvm", "--memory", "1G", "--cpus", "2", "-r", self.vmlinuz,
            "--user", "root", "--", "uname", "-a",
        ], env={"PATH": f"{self.vng.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}, timeout_s=300)  # fmt: skip


def _installed() -> Path:
    vng = _VENV / "bin" / "vng"
    if not vng.exists():
        run([sys.executable, "-m", "venv", _VENV])
        run([_VENV / "bin" / "pip", "install", "--quiet", "-r", _VENV.parent / "requirements.txt"])
    for command in ("busybox", "udevadm"):
        if which(command) is None:
            raise HostLacks(
                f"vng needs {command}",
                hint="apt-get install -y busybox-static udev (for `make bench` only)",
            )
    return vng


@contextmanager
def peer(settings: Settings, release: str) -> Iterator[Peer]:
    """Have vng, the kernel of `release`, and its modules in the host's /lib/modules, for a block.

    Raises:
        HostLacks: /lib/modules cannot be written, or the archive's kernel is another by now.
    """
    vng = _installed()
    with tempfile.TemporaryDirectory(prefix="klp-bench-") as folder:
        fetched = debian.fetch_kernel(definition(settings.kernel), settings.mirror, Path(folder))
        if fetched != release:
            raise HostLacks(
                f"the archive has {fetched}, the image {release}", hint="klp image rm, then build"
            )
        root = Path(folder, "root")
        for package in Path(folder, "klp").glob("linux-[!s]*.deb"):
            debian.unpack_package(package, root)
        found = [*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz")]
        modules = next(iter([*root.glob("usr/lib/modules/*"), *root.glob("lib/modules/*")]))
        run(["depmod", "--basedir", modules.parents[2], release])
        link = _HOST_MODULES / release
        try:
            _HOST_MODULES.mkdir(exist_ok=True)
            link.symlink_to(modules)
        except OSError as error:
            raise HostLacks(f"{link}: {error.strerror}", hint="run the benchmark as root") from error
        try:
            yield Peer(vng, found[0])
        finally:
            link.unlink()
