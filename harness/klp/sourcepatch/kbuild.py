# SPDX-License-Identifier: Apache-2.0
"""What Kbuild tells of a prepared tree: how it compiles a file and for which object, or why it does not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from klp import arch
from klp.errors import BuildFailed, HostLacks, PatchRefused
from klp.images.kconfig import read_config
from klp.images.sandbox import inside
from klp.process import Completed, run
from klp.sourcepatch.values import VMLINUX, PreparedTree, Unit, Way

# Probes of the compiler write to a folder of this name; the tree is read-only, and without them Kbuild
# takes every option that is probed for as unknown (scripts/Makefile.compiler).
_PROBES = "TMPOUT=/tmp/.tmp_$$$$"


# Even a dry run goes into these, which have rules of their own: until about v6.10 they are built anew once
# the tree has another path than when it was prepared, and it is read-only.
_BUILT_TOOLS = ("--assume-old=tools/objtool", "--assume-old=tools/bpf/resolve_btfids")


def built_units(sources: Sequence[str], tree: PreparedTree) -> list[Unit]:
    """Return the units among C files: those that are in the kernel or a module by this configuration."""
    texts = {source: _kept_rule(source, tree.tree) for source in sources}
    unknown = [source for source, text in texts.items() if text is None]
    output = _dry_run(unknown, tree) if unknown else ""
    found = []
    for source in sources:
        if rule := rule_of(texts[source] or output, source):
            found.append(_unit(source, *rule))
    members = {folder: _objects_of(folder, tree) for folder in {each.folder for each in found} - {""}}
    # A rule is not enough: by a pattern, Kbuild compiles what is in no list, too.
    return [
        each for each in found
        if each.source not in unknown or f"{each.stem}.o" in members.get(each.folder, ())
    ]  # fmt: skip


def _objects_of(folder: str, tree: PreparedTree) -> set[str]:
    """Return the objects that the makefile of a folder lists for the kernel or for modules.

    Raises:
        BuildFailed: Kbuild does not tell.
    """
    which = arch.of(tree.kernel.architecture).kernel
    rule = "klp-objects: ; @echo $(real-obj-y) $(real-obj-m) $(lib-y) $(extra-y) $(always-y)"
    # What the kernel's own makefile would hand down.
    given = ("srctree=.", "srcroot=.", "objtree=.", f"SRCARCH={which}", f"ARCH={which}", "BITS=64",
             "CONFIG_SHELL=sh", "need-builtin=", _PROBES)  # fmt: skip
    argv = [
        *tree.make,
        "-f",
        "scripts/Makefile.build",
        f"obj={folder}",
        *given,
        "--eval",
        rule,
        "klp-objects",
    ]
    done = in_tree(argv, tree)
    if done.status:
        raise BuildFailed(f"Kbuild does not tell what is built in {folder}", output=done.stderr)
    return set(done.stdout.split())


def _kept_rule(source: str, tree: Path) -> str | None:
    """Return the commands that a tree's own build has left beside an object; None without them."""
    place = tree / source
    kept = place.with_name(f".{place.stem}.o.cmd")
    if not place.with_suffix(".o").is_file() or not kept.is_file():
        return None
    # As make reads it: $$ is a dollar, \# no comment.
    text = kept.read_text(errors="replace").replace("$$", "$").replace("\\#", "#")
    found = re.search(r"^(?:saved)?cmd_\S+ := (.*)$", text, re.MULTILINE)
    return found[1] if found else None


def _dry_run(sources: Sequence[str], tree: PreparedTree) -> str:
    """Return what make would run to build the objects; the tree stays as it is."""
    objects = [f"{each.removesuffix('.c')}.o" for each in sources]
    argv = [*tree.make, _PROBES, "V=1", "--dry-run", "--keep-going", *_BUILT_TOOLS, *objects]
    # A file that is not built is an error of make's, and is seen by its absence.
    done = in_tree(argv, tree)
    if done.status and "No rule to make target" not in done.stderr:
        raise BuildFailed(
            f"Kbuild cannot tell how {sources[0]} is compiled", output=done.stderr,
            hint="the prepared source may be damaged: `klp image rm KERNEL` removes it",
        )  # fmt: skip
    return done.stdout


def compile_command(text: str, source: str) -> str | None:
    """Return the compiler's command for a source among all that make prints; None where it is not there."""
    stem = re.escape(source.removesuffix(".c"))
    # A rule is `set -e; …; gcc … -c -o x.o x.c ; objtool … ; fixdep … 'gcc …'`, in one line.
    found = re.search(rf"(?:^|;)[ \t]*([^;\n]* -c -o {stem}\.o {stem}\.c)[ \t]*(?:;|$)", text, re.MULTILINE)
    return found[1] if found else None


def rule_of(text: str, source: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return how a source is compiled: the command, the folder of the makefile, and what goes before.

    The latter are rules that make tables and headers, and the programs that write them; what is compiled
    for the kernel is not among them. Of several makefiles the one that is nearest counts: those above know
    the file by a pattern only. None where no rule compiles it.
    """
    best: tuple[str, str, tuple[str, ...]] | None = None
    folder = ""
    rules: list[str] = []
    objects: set[str] = set()
    for line in text.splitlines():
        if found := re.match(r"make -f \S*scripts/Makefile\.build obj=(\S+)", line):
            if source.startswith(f"{found[1]}/") and len(found[1]) > len(folder):
                folder, rules = found[1], []
        elif command := compile_command(line, source):
            if best is None or len(folder) > len(best[1]):
                # A folder below may have been entered in between.
                own = rf"(?<![\w./-]){re.escape(folder)}/"
                best = command, folder, tuple(each for each in rules if re.search(own, each))
        elif folder and line.startswith("set -e;"):
            # What is removed when the rule is interrupted is what it makes.
            target = "".join(re.findall(r"trap 'rm -f (\S+?);", line)[:1])
            if "-D__KERNEL__" in line:
                objects.add(target)
            elif target not in objects:
                rules.append(line)
    return best


def _unit(source: str, command: str, folder: str, first: tuple[str, ...]) -> Unit:
    words = shlex.split(command)
    names = [each.partition("=")[2] for each in words if each.startswith("-DKBUILD_MODNAME=")]
    module = names[0].removeprefix("kmod_").strip('"') if names else ""
    if "-DMODULE" not in words:
        return Unit(source, VMLINUX, command, folder, first)
    if not re.fullmatch(r"\w+", module):
        raise PatchRefused(
            f"{source}: is a part of several modules: {module or 'none is named'}",
            output="",
            hint="klp makes livepatches of code that is in one module",
        )
    return Unit(source, module, command, folder, first)


def not_built(source: str, tree: PreparedTree) -> PatchRefused:
    """Return the refusal of a C file that this configuration leaves out: it has the reason."""
    config = read_config(tree.tree / ".config")
    off = [each for each in _options_for(source, tree.tree) if each not in config]
    if off:
        return PatchRefused(
            f"{source}: {tree.kernel.release} is built without this file: CONFIG_{off[0]} is not set",
            output="", hint="leave it out of the patch: this kernel has no code of it",
        )  # fmt: skip
    return PatchRefused(
        f"{source}: no makefile of its own folder, or of one above it, builds it for {tree.kernel.release}",
        output="",
        hint="if another folder's makefile takes it, as virt/kvm's and amdgpu's display code, klp can make "
        "no livepatch of it; else this kernel has no code of it: leave it out of the patch",
    )


def _options_for(source: str, tree: Path) -> list[str]:
    """Return the options by which the makefile of its folder, or of one above it, builds a file."""
    found: list[str] = []
    place, name = Path(source).parent, f"{Path(source).stem}.o"
    while place != Path():
        text = "".join(_makefile(tree / place))
        names = [
            name,
            *re.findall(rf"^(\S+?)-(?:y|objs)\s*[:+]?=.*(?<![\w./-]){re.escape(name)}", text, re.M),
        ]
        for each in names:
            target = re.escape(each if each.endswith((".o", "/")) else f"{each}.o")
            line = rf"^\S+-\$\(CONFIG_(\w+)\)\s*[:+]?=.*(?<![\w./-]){target}(?![\w-])"
            found += re.findall(line, text, re.MULTILINE)
        place, name = place.parent, f"{place.name}/"
    return found


def _makefile(folder: Path) -> list[str]:
    files = [folder / each for each in ("Kbuild", "Makefile")]
    # Lines that go on are one.
    return [each.read_text(errors="replace").replace("\\\n", " ") for each in files if each.is_file()]


def in_tree(
    argv: Sequence[str],
    tree: PreparedTree,
    *,
    writable: Sequence[Path] = (),
    over: Mapping[Path, Path] | None = None,
) -> Completed:
    """Run a command in the prepared tree, which is read-only, and return how it ended.

    Args:
        over: files and folders of the tree, each with what is seen in its place.

    Raises:
        HostLacks: the sandbox does not work here.
    """
    command = inside(
        tree.root, ["nice", *argv], cwd=tree.tree, writable=writable, readable=[tree.tree], over=over
    )
    done = run(command, check=False, env={"TMPDIR": "/tmp"})
    said = done.stderr.strip().partition("\n")[0]
    if done.status and said.startswith("bwrap: "):
        raise HostLacks(
            f"the sandbox does not work here: {said.removeprefix('bwrap: ')}",
            hint="klp doctor says what to allow",
        )
    return done


def objtool_flags(tree: PreparedTree) -> list[str]:
    """Return the arguments that this kernel's Kbuild gives to objtool for the configuration.

    Where it waits for vmlinux.o and whole modules (for IBT), objtool goes over each unit all the same. But
    kpatch's program takes what IBT adds for changes, and an older objtool is told nothing of it.

    Raises:
        BuildFailed: Kbuild does not tell.
    """
    rule = "klp-flags: ; @echo $(objtool-args-y) $(if $(delay-objtool),--link)"
    argv = [
        *tree.make,
        "-f",
        "include/config/auto.conf",
        "-f",
        "scripts/Makefile.lib",
        "--eval",
        rule,
        "klp-flags",
    ]
    done = in_tree(argv, tree)
    if done.status:
        raise BuildFailed("Kbuild does not tell how it runs objtool", output=done.stderr)
    # One unit alone may draw warnings that the whole kernel does not.
    unwanted = {"--werror"} | ({"--ibt", "--link"} if tree.way is Way.CREATE_DIFF_OBJECT else set())
    return [each for each in done.stdout.split() if each not in unwanted]
