# SPDX-License-Identifier: Apache-2.0
"""The probes' BPF programs, compiled on this machine's CPU by the guest's own BCC, for the guest's kernel.

In an emulated guest BCC takes 20 s for each, here one or two. What a probe asks of a kernel before it
compiles (where its symbols and its structures' members are) stands in the kernel's file, and a folder that
looks to it like the guest's is a folder of files. A probe in a guest checks that the program it finds was
compiled for that kernel, and compiles it itself if not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from klp import arch, paths
from klp.errors import KlpError
from klp.files import file_digest, remove_tree
from klp.images.cache import Cache, EntryKind, Filled
from klp.images.disk import quoted
from klp.images.guest_compiler import CompilerEntry, GuestCompiler
from klp.images.kconfig import compiler_of, read_config
from klp.images.sandbox import inside
from klp.model import Kernel
from klp.process import run
from klp.progress import Progress
from klp.sourcepatch.shipped import kernel_section, kernel_table
from klp.trace.tracer import GUEST_PROBES
from klp.vm.request import MachineRequest

# Raised whenever this module makes another program of the same text.
_RECIPE = "2"
_AS_GUEST = Path(__file__).with_name("as_guest.c")


def ensure_programs(
    cache: Cache, request: MachineRequest, probes: tuple[str, ...], progress: Progress
) -> tuple[Path, ...]:
    """Return the programs of some probes, compiled; none, and say why, if it cannot be done here.

    Beside each probe's BPF program that is the bytecode of its Python.

    Args:
        request: the machine whose guest is to load them: they depend on its kernel and on how many CPUs
            it has.
    """
    try:
        compiler = GuestCompiler(request.image.root_disk)
        root, _ = cache.ensure(compiler.kind, compiler.inputs(), compiler.fill)
        maker = _Maker(request.image.kernel, request.cpus, CompilerEntry(root).root, probes)
        entry, made = cache.ensure(EntryKind.PROGRAMS, _inputs(request, root.name, probes), maker.fill)
    except KlpError as error:
        progress.note(f"the guest compiles its probes itself, which takes minutes: {error.message}")
        return ()
    return tuple(entry / name for name in made.files)


def _file(probe: str) -> str:
    """Return the name under which a probe looks for its program."""
    return f"{probe}.compiled"


def _inputs(request: MachineRequest, compiler: str, probes: tuple[str, ...]) -> dict[str, str]:
    """Return all that compiled programs depend on."""
    return {
        "kernel": request.image.kernel.digest,
        "compiler": compiler,
        "cpus": str(request.cpus),
        "probes": " ".join(probes),
        "as_guest": file_digest(_AS_GUEST),
        "recipe": _RECIPE,
        **{probe.name: file_digest(probe) for probe in paths.probe_files()},
    }


@dataclass(frozen=True, slots=True)
class _Maker:
    """Compiles for one kernel.

    Attributes:
        root: the guest's BCC.
    """

    kernel: Kernel
    cpus: int
    root: Path
    probes: tuple[str, ...]

    def fill(self, into: Path) -> Filled:
        """Compile all probes, side by side."""
        scratch = into / "scratch"
        scratch.mkdir()
        over = self._seen(scratch)
        preloaded = self._preloaded(scratch)
        with ThreadPoolExecutor(len(self.probes)) as pool:
            list(pool.map(partial(self._compile, into, scratch, over, preloaded), self.probes))
        bytecode = self._bytecode(into, scratch / "probes")
        remove_tree(scratch)
        return {"release": self.kernel.release}, (*map(_file, self.probes), *bytecode)

    def _seen(self, scratch: Path) -> dict[Path, Path]:
        """Make what a probe sees of the kernel; return each place with what is to be seen there."""
        image, architecture = self.kernel.image, arch.of(self.kernel.architecture)
        table = kernel_table(image, architecture)
        content = {
            "/proc/kallsyms": "".join(
                f"{at:016x} {letter} {name}\n" for at, letter, name in table
            ).encode(),
            "/sys/kernel/btf/vmlinux": kernel_section(image, ".BTF"),
            "/sys/kernel/notes": kernel_section(image, ".notes"),
            "/sys/devices/system/cpu/possible": f"0-{self.cpus - 1}\n".encode(),
        }
        seen = {Path(place): scratch / place.strip("/").replace("/", "-") for place in content}
        for (_, file), text in zip(seen.items(), content.values(), strict=True):
            file.write_bytes(text)
        return seen | self._headers(scratch)

    def _headers(self, scratch: Path) -> dict[Path, Path]:
        """Return where the kernel's headers are to be seen."""
        sources, modules = Path("/usr/src"), Path("/usr/lib/modules")
        if self.kernel.tree is None:
            tools = self.kernel.toolchain
            return {sources: tools / "usr/src", modules: tools / "usr/lib/modules"}
        # As the guest has them: with O= from two folders, one over the other.
        run(["debugfs", "-R", f"rdump /src {quoted(scratch)}", self.kernel.disk])
        links = scratch / "modules" / self.kernel.release
        links.mkdir(parents=True)
        for link in ("build", "source"):
            (links / link).symlink_to(f"/usr/src/linux-headers-{self.kernel.release}")
        return {sources: scratch / "src", modules: scratch / "modules"}

    def _preloaded(self, scratch: Path) -> Path:
        """Compile what is put in front of the guest's libraries."""
        kernel, made = self.kernel, scratch / "as_guest.so"
        config = kernel.config or Path()
        argv = [
            compiler_of(read_config(config)), "-shared", "-fPIC", "-O1",
            f'-DRELEASE="{kernel.release}"', "-o", str(made), str(_AS_GUEST),
        ]  # fmt: skip
        run(
            inside(kernel.toolchain, argv, cwd=scratch, writable=[scratch], readable=[_AS_GUEST.parent]),
            env={"TMPDIR": "/tmp"},
        )
        return made

    def _bytecode(self, into: Path, folder: Path) -> list[str]:
        """Compile the probes' Python as well, for the place that it has in a guest; return the files."""
        folder.mkdir()
        for source in paths.PROBE_SOURCES.glob("*.py"):
            shutil.copyfile(source, folder / source.name)
        # With a hash of the source, which is another file in the guest, of another time.
        argv = [
            "python3", "-m", "compileall", "-q", "--invalidation-mode", "checked-hash",
            "-s", str(folder), "-p", GUEST_PROBES, str(folder),
        ]  # fmt: skip
        run(inside(self.root, argv, cwd=folder, writable=[folder]), env={"TMPDIR": "/tmp"})
        made = sorted((folder / "__pycache__").iterdir())
        for file in made:
            shutil.copyfile(file, into / file.name)
        return [file.name for file in made]

    def _compile(
        self, into: Path, scratch: Path, over: Mapping[Path, Path], preloaded: Path, probe: str
    ) -> None:
        folder = paths.PROBE_SOURCES
        program = [str(folder / f"{probe}.py"), "-j", "--compile", str(into / _file(probe))]
        # -B: it is not to write beside the probes, and could not.
        argv = ["env", f"LD_PRELOAD={preloaded}", "python3", "-B", *program]
        run(
            inside(self.root, argv, cwd=into, writable=[into], readable=[folder, scratch], over=over),
            env={"TMPDIR": "/tmp"},
        )
