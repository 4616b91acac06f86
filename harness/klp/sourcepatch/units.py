# SPDX-License-Identifier: Apache-2.0
"""Translation units that a patch touches, each compiled as the kernel's build did, before and after it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from klp import arch
from klp.errors import BuildFailed, PatchRefused
from klp.sourcepatch.applying import PatchedFile
from klp.sourcepatch.includes import index_of, units_including
from klp.sourcepatch.kbuild import built_units, in_tree, not_built, objtool_flags
from klp.sourcepatch.lines import hold_lines
from klp.sourcepatch.values import VMLINUX, CompiledUnit, PreparedTree, Unit

# Asking Kbuild takes a second for some dozen folders: a header in more files than this is refused unasked.
_ASKED = 10
_INCLUDED_C = re.compile(rb'#[ \t]*include[ \t]*"([^"\n]+\.c)"')
# Fixes bring tests and documents along, of which nothing is in the kernel.
_NOT_IN_THE_KERNEL = ("Documentation/", "samples/", "tools/")
# A section for each function and variable, so that what is equal can be left where it is.
_SECTIONS = "-ffunction-sections -fdata-sections"
_LINES_TOLD = 40


def units_of(
    files: Sequence[PatchedFile],
    tree: PreparedTree,
    *,
    header_limit: int,
    index: Callable[[], Mapping[str, list[str]]] | None = None,
) -> tuple[Unit, ...]:
    """Return the units that see a change of `files`, by their names.

    A C file that others include is compiled as those, and as itself where Kbuild does so, too. Files that
    are new or removed are not looked at, nor those that are neither C nor a header, nor tests and tools.

    Args:
        header_limit: how many units a header may touch.
        index: gives what `index_of` makes of the tree, where that is kept; asked for headers only.

    Raises:
        PatchRefused: this configuration does not build a C file, or a header touches too many units.
    """
    changed = [
        each.path
        for each in files
        if each.before is not None and each.after is not None
        if not each.path.startswith(_NOT_IN_THE_KERNEL)
    ]
    headers = [each for each in changed if each.endswith((".h", ".inc"))]
    sources = [each for each in changed if each.endswith(".c")]
    wanted = {each: _compiled_as(each, tree.tree) for each in sources}
    if headers:
        found = index() if index else index_of(tree.tree, arch.of(tree.kernel.architecture).kernel)
        wanted |= {each: _of_header(each, found, header_limit) for each in headers}
    asked = sorted({source for each in wanted.values() for source in each})
    units = {each.source: each for each in built_units(asked, tree)}
    for path, compiled in wanted.items():
        built = [each for each in compiled if each in units]
        if path in headers and len(built) > header_limit:
            raise _too_many(path, len(built), header_limit)
        if path in sources and not built:
            raise not_built(path, tree)
    return tuple(units[each] for each in sorted(units))


def _too_many(header: str, count: int, limit: int) -> PatchRefused:
    return PatchRefused(
        f"{header}: {count} C files see this header, and klp compiles up to {limit}",
        output="",
        hint="change the functions that need it, by a declaration of their own; or raise the limit",
    )


def _of_header(header: str, index: Mapping[str, list[str]], limit: int) -> list[str]:
    found = units_including(index, header)
    if len(found) > limit * _ASKED:
        raise _too_many(header, len(found), limit)
    return found


def _compiled_as(source: str, tree: Path) -> list[str]:
    """Return a C file and those that include it, which stand in its folder or below."""
    folder = (tree / source).parent
    including: dict[Path, list[Path]] = {}
    for each in sorted(folder.rglob("*.c")):
        for name in _INCLUDED_C.findall(each.read_bytes()):
            # Only within the folder; by words, as a link may lead on.
            place = Path(*_plain((each.parent / name.decode(errors="replace")).parts))
            including.setdefault(place, []).append(each)
    found = [tree / source]
    for each in found:
        found += [one for one in including.get(each, ()) if one not in found]
    return [str(each.relative_to(tree)) for each in found]


def _plain(parts: Iterable[str]) -> list[str]:
    """Return the parts of a path without ``..`` and what it takes back."""
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept:
            kept.pop()
        else:
            kept.append(part)
    return kept


def compile_unit(
    unit: Unit, files: Sequence[PatchedFile], tree: PreparedTree, scratch: Path
) -> CompiledUnit:
    """Compile a unit plainly, before and after the patch, and let objtool go over the three.

    Each goes by the same command in the same folder, in which patched files are seen in place of the
    tree's: so nothing but the patch makes a difference.

    Args:
        files: what the patch changes, of this unit and others.
        scratch: a folder that is there; objects come to ``plain``, ``before`` and ``after`` in it, sources
            to ``held``.

    Raises:
        BuildFailed: the compiler or objtool refused it; has their lines.
    """
    flags = objtool_flags(tree)
    made = _made_first(unit, tree, scratch / "made")
    jobs = [_Job(unit, tree, flags, scratch / "plain", made), *_compared(unit, files, tree, scratch, made)]
    plain, before, after = _performed(jobs)
    return CompiledUnit(unit, plain, before, after)


def compile_again(
    compiled: CompiledUnit,
    files: Sequence[PatchedFile],
    tree: PreparedTree,
    scratch: Path,
    over: Mapping[Path, Path],
) -> CompiledUnit:
    """Compile a unit anew before and after the patch, both with other files in place of the tree's.

    Args:
        scratch: a folder of its own.
        over: what is seen in place of the tree's files.

    Raises:
        BuildFailed: the compiler or objtool refused it; has their lines.
    """
    unit = compiled.unit
    made = {**_made_first(unit, tree, scratch / "made"), **over}
    before, after = _performed(_compared(unit, files, tree, scratch, made))
    return CompiledUnit(unit, compiled.plain, before, after)


def _compared(
    unit: Unit, files: Sequence[PatchedFile], tree: PreparedTree, scratch: Path, made: Mapping[Path, Path]
) -> list[_Job]:
    """Return what makes the two objects that are compared."""
    flags, patched = objtool_flags(tree), _held(files, tree.tree, scratch / "held")
    return [
        _Job(unit, tree, flags, scratch / "before", made, _SECTIONS),
        _Job(unit, tree, flags, scratch / "after", {**made, **patched}, _SECTIONS, "the patched source"),
    ]


def _performed(jobs: Sequence[_Job]) -> list[Path]:
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(_Job.perform, jobs))


@dataclass(frozen=True, slots=True)
class _Job:
    """One object to be made.

    Attributes:
        flags: objtool's.
        folder: where the object comes to.
        over: what is seen in place of the tree's files.
        options: of the compiler, beside the kernel's own.
        what: the source, in words.
    """

    unit: Unit
    tree: PreparedTree
    flags: Sequence[str]
    folder: Path
    over: Mapping[Path, Path]
    options: str = ""
    what: str = "the unpatched source"

    def perform(self) -> Path:
        """Make the object, and return its file.

        Raises:
            BuildFailed: the compiler or objtool refused it.
        """
        file = self.folder / f"{self.unit.stem}.o"
        file.parent.mkdir(parents=True, exist_ok=True)
        self._run(["sh", "-c", redirected(self.unit, file, self.options)], "does not compile")
        module = () if self.unit.object == VMLINUX else ("--module",)
        self._run([str(self.tree.objtool), *self.flags, *module, str(file)], "is refused by objtool")
        return file

    def _run(self, argv: Sequence[str], failure: str) -> None:
        done = in_tree(argv, self.tree, writable=[self.folder], over=self.over)
        if done.status:
            output = done.stderr.replace(str(self.folder), "").strip() or done.stdout
            lines = output.splitlines()[:_LINES_TOLD]
            raise BuildFailed(f"{self.unit.source}: {self.what} {failure}", output="\n".join(lines))


def redirected(unit: Unit, file: Path, options: str) -> str:
    """Return a unit's command with more options, its object put into `file`, and no list of headers."""
    ending = f" -c -o {unit.stem}.o {unit.stem}.c"
    command = unit.command.removesuffix(ending)
    # The list would be written beside the tree's object.
    command = re.sub(r" -Wp,-MM?D,\S+", "", command)
    return f"{command}{options and ' '}{options} -c -o '{file}' {unit.stem}.c"


def _made_first(unit: Unit, tree: PreparedTree, folder: Path) -> dict[Path, Path]:
    """Make what the unit includes and the tree has not, in a copy of its folder; return what is seen where.

    Raises:
        BuildFailed: it cannot be made.
    """
    if not unit.first:
        return {}
    place, copy = tree.tree / unit.folder, folder / unit.folder
    shutil.copytree(place, copy, symlinks=True, dirs_exist_ok=True)
    for command in unit.first:
        done = in_tree(["sh", "-c", command], tree, writable=[copy], over={place: copy})
        if done.status:
            raise BuildFailed(
                f"{unit.source}: what it includes cannot be made in {unit.folder}", output=done.stderr
            )
    return {place: copy}


def _held(files: Sequence[PatchedFile], tree: Path, folder: Path) -> dict[Path, Path]:
    """Write the patched files with their lines held still; return them by the tree's that they replace."""
    over = {}
    for each in files:
        if each.before is None or each.after is None:
            continue
        code = each.path.endswith((".c", ".h", ".inc"))
        copy = folder / each.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(hold_lines(each.before, each.after) if code else each.after)
        over[tree / each.path] = copy
    return over
