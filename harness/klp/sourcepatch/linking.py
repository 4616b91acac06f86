# SPDX-License-Identifier: Apache-2.0
"""Differences to a folder that Kbuild makes a module of, and that module to a livepatch.

The objects lie in the folder as ``NAME.o_shipped``, Kbuild's way for objects that come from elsewhere.
What they refer to in the kernel stands in sections of their own, which a link leaves alone; a program of
the same origin turns them into livepatch relocations (Documentation/livepatch/module-elf-format.rst).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from klp.errors import BuildFailed, PatchRefused, UsageError
from klp.sourcepatch.livepatch_source import LivepatchSource, callbacks_in, livepatch_source
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.tools import failed, in_root
from klp.sourcepatch.values import PreparedTree, Unit, UnitDifference, Way
from klp.sourcepatch.verifying import verify

_MODULE_NAME = re.compile(r"[A-Za-z0-9_-]+")
_UNDEFINED = re.compile(r'"([^"]+)" \[[^]]*\] undefined!')
# create-klp-module turns these into livepatch relocations, and names symbols by the last.
_KPATCH_SECTIONS = (".kpatch.relocations", ".kpatch.symbols", ".kpatch.strings")

# Where the kernel has indirect branch tracking, Kbuild has objtool go over what is linked of all objects.
_OBJTOOL = {
    Way.OBJTOOL_KLP: """\
# The shipped objects have no unwind tables: objtool goes over what is linked of all.
$(obj)/{name}.o: private override objtool-enabled := y
""",
    Way.CREATE_DIFF_OBJECT: """\
# objtool has been over the shipped objects: it goes over the C file alone, and never over what is linked.
$(obj)/{name}-main.o: private objtool-enabled := y
$(obj)/{name}.o: private override objtool-enabled :=
""",
}


def write_folder(
    name: str,
    differences: Sequence[UnitDifference],
    tree: PreparedTree,
    into: Path,
    *,
    replace: bool = False,
    states: Sequence[tuple[int, int]] = (),
    callbacks: Path | None = None,
    called_for: Sequence[str] = (),
    description: str = "Livepatch",
) -> None:
    """Write a folder that Kbuild builds anywhere by ``make -C HEADERS M=FOLDER modules``.

    Args:
        name: of the module.
        differences: of all units.
        tree: what the differences were found in.
        into: the folder, which is made.
        replace: whether the livepatch replaces all others.
        states: system states that it changes: id and version of each.
        callbacks: an author's C file with functions named as in `CALLBACKS`.
        called_for: the objects that they are called for; empty means the first.
        description: in one line, for modinfo.

    Raises:
        UsageError: no module can have that name; the author's C file cannot be read, or has no callback.
    """
    if not _MODULE_NAME.fullmatch(name):
        raise UsageError(f"{name}: no name for a module", hint="take letters, digits, - and _")
    into.mkdir(parents=True, exist_ok=True)
    names = dict(zip(differences, shipped_names([each.unit for each in differences]), strict=True))
    for each, object_name in names.items():
        shutil.copyfile(each.file, into / f"{object_name}.o_shipped")
    # Under a name of ours, for theirs may be anything.
    included = f"{name}-callbacks.c"
    source = LivepatchSource(
        tuple(function for each in differences for function in each.functions),
        replace=replace,
        states=tuple(states),
        callbacks=included if callbacks else "",
        called=_called(callbacks, into / included) if callbacks else (),
        called_for=tuple(called_for),
        description=description,
    )
    (into / f"{name}-main.c").write_text(livepatch_source(source), encoding="utf-8")
    (into / "Kbuild").write_text(kbuild_text(name, list(names.values()), tree.way), encoding="utf-8")


def _called(callbacks: Path, copy: Path) -> tuple[str, ...]:
    try:
        text = callbacks.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{callbacks}: {error.strerror or error}") from None
    found = callbacks_in(text)
    if not found:
        raise UsageError(
            f"{callbacks}: defines no callback",
            hint="int pre_patch(struct klp_object *), void post_patch(…), pre_unpatch(…), post_unpatch(…)",
        )
    shutil.copyfile(callbacks, copy)
    return found


def shipped_names(units: Sequence[Unit]) -> list[str]:
    """Return a file name without ending for the object of each unit: its path, in one word."""
    names: list[str] = []
    for each in units:
        plain = wanted = re.sub(r"[^A-Za-z0-9_]", "-", each.stem)
        number = 2
        while wanted in names:
            wanted, number = f"{plain}-{number}", number + 1
        names.append(wanted)
    return names


def kbuild_text(name: str, objects: Sequence[str], way: Way) -> str:
    """Return the text of the Kbuild of a livepatch.

    Args:
        name: of the module.
        objects: file names without ending of the objects that lie beside it.
        way: how they were made.
    """
    shipped = " ".join(f"{each}.o" for each in objects)
    return f"""\
# SPDX-License-Identifier: GPL-2.0-only
obj-m := {name}.o
{name}-y := {name}-main.o {shipped}

{_OBJTOOL[way].format(name=name)}
# As Kbuild's own rule for shipped files, but it leaves the .cmd file that modpost asks for.
shipped-objects := {shipped}
quiet_cmd_object_shipped = SHIPPED $@
      cmd_object_shipped = cat $< > $@
$(addprefix $(obj)/,$(shipped-objects)): $(obj)/%.o: $(src)/%.o_shipped FORCE
\t$(call if_changed,object_shipped)
targets += $(shipped-objects)
"""


def refused_by_modpost(error: BuildFailed) -> PatchRefused | None:
    """Return why a livepatch cannot be linked, if Kbuild failed for want of symbols; else None."""
    missing = tuple(dict.fromkeys(_UNDEFINED.findall(f"{error.message}\n{error.output}")))
    if not missing:
        return None
    return PatchRefused(
        f"{', '.join(missing)}: this kernel exports no such symbol to modules",
        output=error.output,
        hint="new code can use what the kernel exports, and what the unit's own object has",
    )


def finish(module: Path, tree: PreparedTree, parts: Iterable[Path] | None = None) -> None:
    """Make a livepatch of what Kbuild linked, in place: references to the kernel become its relocations.

    Args:
        module: the .ko; its folder can be written to.
        parts: the objects that it was linked of: nothing of them may be lost. None: those beside it.

    Raises:
        PatchRefused: a program failed, or something of the objects is not in the module.
    """
    beside = sorted(module.parent.glob("*.o_shipped")) if parts is None else parts
    held = [ObjectFile.of(each) for each in beside]
    if ObjectFile.of(module).section(".BTF"):
        # Of types that the kernel has, too; a configuration that differs a little makes it unreadable.
        _run(tree, module, ["objcopy", "--remove-section=.BTF", "--remove-section=.BTF.base", module.name])
    match tree.way:
        case Way.OBJTOOL_KLP:
            _run(tree, module, [tree.objtool, "klp", "post-link", module.name])
        case Way.CREATE_DIFF_OBJECT:
            _by_kpatch(module, tree)
    verify(ObjectFile.of(module), held, module.name)


def _by_kpatch(module: Path, tree: PreparedTree) -> None:
    held = ObjectFile.of(module)
    relocations = held.section(_KPATCH_SECTIONS[0])
    if relocations is None or not relocations.size:
        # create-klp-module wants some to work on. New code may refer to nothing but exported symbols.
        cut = [f"--remove-section={each}" for each in _KPATCH_SECTIONS if held.section(each)]
        if cut:
            _run(tree, module, ["objcopy", *cut, module.name])
        return
    assert tree.kpatch is not None
    linked = module.with_name(f"{module.name}.linked")
    module.rename(linked)
    try:
        # Since v5.8 the kernel applies all relocations of a livepatch in time: .klp.arch is of before.
        _run(
            tree, module,
            [tree.kpatch / "create-klp-module", "--no-klp-arch-sections", linked.name, module.name],
        )  # fmt: skip
    finally:
        if not module.exists():
            linked.rename(module)
    linked.unlink(missing_ok=True)


def _run(tree: PreparedTree, module: Path, argv: Sequence[str | Path]) -> None:
    finished = in_root(tree, argv, module.parent)
    if finished.status:
        raise failed(module.name, Path(argv[0]).name, finished)
