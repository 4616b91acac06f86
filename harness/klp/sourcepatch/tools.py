# SPDX-License-Identifier: Apache-2.0
"""Programs that work on objects, run in a prepared tree's root folder; fields of objects set in place."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from klp.errors import PatchRefused
from klp.images.sandbox import inside
from klp.process import Completed, run
from klp.sourcepatch.complaints import complaint_in
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.values import CompiledUnit, PreparedTree, Unit


def in_root(
    tree: PreparedTree,
    argv: Sequence[str | Path],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program of a prepared tree's root folder; whether it failed is for the caller to see.

    Args:
        folder: where it starts; all that it can write to.
        env: more of the environment.
    """
    readable = [tree.tree, *([tree.kpatch] if tree.kpatch else [])]
    words = [str(word) for word in argv]
    command = inside(tree.root, words, cwd=folder, writable=[folder], readable=readable)
    # The user's TMPDIR is passed on to commands, and need not be there inside the root.
    return run(command, check=False, env={"TMPDIR": "/tmp", **(env or {})})


def said_by(finished: Completed) -> str:
    """Return all that a program said."""
    return "\n".join(each for each in (finished.stdout.strip(), finished.stderr.strip()) if each)


def must(tree: PreparedTree, argv: Sequence[str | Path], folder: Path, subject: str) -> None:
    """Run a program as `in_root` does, which must not fail.

    Args:
        subject: what it works on, for the message.

    Raises:
        PatchRefused: it failed, with the first line of what it said of an error.
    """
    finished = in_root(tree, argv, folder)
    if finished.status:
        program = " ".join([Path(argv[0]).name, *(str(word) for word in argv[1:3] if str(word).isalpha())])
        raise failed(subject, program, finished)


def failed(subject: str, program: str, finished: Completed) -> PatchRefused:
    """Return the error of a program that failed, in words of ours, or by its own first line of an error.

    Args:
        subject: what it worked on.
        program: what it is called.
    """
    output = said_by(finished)
    if known := complaint_in(output):
        return PatchRefused(f"{subject}: {known.reason}", output=output, hint=known.hint or None)
    lines = [line for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.casefold()] or lines[-1:] or ["it said nothing"]
    return PatchRefused(f"{subject}: {program}: {telling[0].strip()}", output=output)


def objcopy(tree: PreparedTree, unit: Unit, file: Path, options: Iterable[str]) -> None:
    """Change an object in place by objcopy; nothing is done without options.

    Raises:
        PatchRefused: objcopy refused.
    """
    if words := list(options):
        must(tree, ["objcopy", *words, file], file.parent, unit.source)


def write_fields(file: Path, fields: Mapping[int, bytes]) -> None:
    """Put bytes into a file, each at its offset."""
    with file.open("r+b") as stream:
        for offset, content in fields.items():
            stream.seek(offset)
            stream.write(content)


def string_at(held: ObjectFile, section: int, offset: int) -> str:
    """Return the string that begins at an offset of a section."""
    content = held.content(section)
    return content[offset : content.index(b"\0", offset)].decode()


def staged(compiled: CompiledUnit, tree: PreparedTree, scratch: Path) -> tuple[Path, Path, Path]:
    """Copy a unit's objects to where programs may change them; return before, after, and the result to be.

    Beside them goes the list of exported symbols, which the programs read from the current folder.
    """
    before, after, out = (scratch / name for name in ("before.o", "after.o", "difference.o"))
    shutil.copyfile(compiled.before, before)
    shutil.copyfile(compiled.after, after)
    shutil.copyfile(tree.tree / "Module.symvers", scratch / "Module.symvers")
    return before, after, out
