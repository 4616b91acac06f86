# SPDX-License-Identifier: Apache-2.0
"""The C source of a livepatch: which functions it replaces, in arrays that people and programs can read.

kpatch and klp-build fill these structures when the module is loaded; arrays in its data can be read from
the file, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from klp.sourcepatch.values import VMLINUX, NewFunction

# Members of struct klp_callbacks (include/linux/livepatch.h), and what an author's functions are called.
CALLBACKS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
_DEFINED = re.compile(
    rf"^[ \t]*(?:static[ \t]+)?(?:int|void)\s+({'|'.join(CALLBACKS)})\s*\([^;{{]*\)\s*\{{",
    re.MULTILINE,
)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LivepatchSource:
    """What the C source of a livepatch is made of.

    Attributes:
        functions: all that it replaces.
        replace: whether it replaces all livepatches that are loaded (cumulative).
        states: system states that it changes: id and version of each (struct klp_state).
        callbacks: the name of an author's C file in the same folder, with functions that `CALLBACKS` names;
            empty for none.
        called: which of them it defines.
        called_for: the objects that they are called for; empty means the first.
        description: in one line, for modinfo.
    """

    functions: tuple[NewFunction, ...]
    replace: bool = False
    states: tuple[tuple[int, int], ...] = ()
    callbacks: str = ""
    called: tuple[str, ...] = ()
    called_for: tuple[str, ...] = ()
    description: str = "Livepatch"

    @property
    def objects(self) -> dict[str, tuple[NewFunction, ...]]:
        """The functions of each object, vmlinux first: the order in which the kernel patches them."""
        named = [each.object for each in self.functions] + list(self.called_for)
        ordered = sorted(dict.fromkeys(named), key=lambda each: each != VMLINUX)
        return {name: tuple(each for each in self.functions if each.object == name) for name in ordered}


def callbacks_in(text: str) -> tuple[str, ...]:
    """Return which callbacks an author's C file defines, in the order of `CALLBACKS`."""
    defined = set(_DEFINED.findall(_COMMENT.sub(" ", text)))
    return tuple(each for each in CALLBACKS if each in defined)


def livepatch_source(source: LivepatchSource) -> str:
    """Return the C text of a livepatch."""
    names = dict(_names(source.functions))
    objects = source.objects
    called_for = source.called_for or tuple(objects)[:1]
    parts = [
        _HEAD,
        f'\n#include "{source.callbacks}"\n' if source.callbacks else "",
        _declarations(names),
        *(_array(name, functions, names) for name, functions in objects.items()),
        _objects(objects, dict.fromkeys(called_for, source.called)),
        _states(source.states),
        _patch(source),
        _tail(source.description),
    ]
    return "".join(parts)


_HEAD = """\
// SPDX-License-Identifier: GPL-2.0-only
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
"""


def _names(functions: Iterable[NewFunction]) -> Iterator[tuple[str, str]]:
    """Yield a name in C for the symbol of each new function."""
    taken: set[str] = set()
    for new in dict.fromkeys(each.new for each in functions):
        plain = wanted = f"new_{_identifier(new)}"
        number = 2
        while wanted in taken:
            wanted, number = f"{plain}_{number}", number + 1
        taken.add(wanted)
        yield new, wanted


def _identifier(name: str) -> str:
    # A module may be called 9pnet, and no variable may.
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if plain[:1].isdigit() else plain


def _declarations(names: Mapping[str, str]) -> str:
    if not names:
        return ""
    head = "\n/* In the objects beside this file, under names that C may not know. */\n"
    return head + "".join(f'extern char {name}[] asm("{new}");\n' for new, name in names.items())


def _array(name: str, functions: Sequence[NewFunction], names: Mapping[str, str]) -> str:
    rows = "".join(
        f'\t{{\n\t\t.old_name = "{each.name}",\n\t\t.new_func = {names[each.new]},\n'
        + (f"\t\t.old_sympos = {each.position},\n" if each.position else "")
        + "\t},\n"
        for each in functions
    )
    return f"\nstatic struct klp_func {_identifier(name)}_funcs[] = {{\n{rows}\t{{ }}\n}};\n"


def _objects(objects: Iterable[str], called: Mapping[str, Sequence[str]]) -> str:
    rows = "".join(
        "\t{\n"
        + (f'\t\t.name = "{name}",\n' if name != VMLINUX else "\t\t/* vmlinux has no name. */\n")
        + f"\t\t.funcs = {_identifier(name)}_funcs,\n"
        + "".join(f"\t\t.callbacks.{each} = {each},\n" for each in called.get(name, ()))
        + "\t},\n"
        for name in objects
    )
    return f"\nstatic struct klp_object objs[] = {{\n{rows}\t{{ }}\n}};\n"


def _states(states: Sequence[tuple[int, int]]) -> str:
    if not states:
        return ""
    rows = "".join(f"\t{{ .id = {id_}, .version = {version} }},\n" for id_, version in states)
    return f"\nstatic struct klp_state states[] = {{\n{rows}\t{{ }}\n}};\n"


def _patch(source: LivepatchSource) -> str:
    members = ["\t.mod = THIS_MODULE,", "\t.objs = objs,"]
    members += ["\t.states = states,"] if source.states else []
    members += ["\t.replace = true,"] if source.replace else []
    return "\nstatic struct klp_patch patch = {\n" + "\n".join(members) + "\n};\n"


def _tail(description: str) -> str:
    # JSON's strings are C's, but for what no line of text should hold.
    words = json.dumps(" ".join(description.split()), ensure_ascii=False)
    return f"""
static int __init livepatch_init(void)
{{
\treturn klp_enable_patch(&patch);
}}

static void __exit livepatch_exit(void)
{{
}}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION({words});
"""
