# SPDX-License-Identifier: Apache-2.0
"""A livepatch to start from: a folder with C source, Kbuild and patch.toml that changes nothing yet."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from klp import arch
from klp.errors import BuildFailed, HostLacks, UsageError
from klp.images.prototypes import NamedType
from klp.model import Kernel
from klp.modules.build import build
from klp.modules.kbuild import scratch_folder
from klp.modules.replaceable import ReplaceableFunction, headers_with
from klp.modules.sources import find_source
from klp.progress import Progress
from klp.sourcepatch.values import VMLINUX

_TEMPLATE = Path(__file__).with_name("start.c.in")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_WIDTH = 80
_TAB = 8
# What linux/kernel.h brings.
_PLAIN_TYPES = re.compile(r"[su](8|16|32|64)|bool|s?size_t")
_SPDX = "# SPDX-License-Identifier: GPL-2.0-only\n"
_PLAN = """name = "{name}"
summary = "{function} does what it did before"
livepatch = "{module}"

# What shows that it works: a command in the guest, and what is found in its output before the livepatch is
# loaded, while it is enabled, and after it was disabled, as regular expressions. Fill this in:
#
# [[observe]]
# command = "cat /proc/…"
# before = "…"
# enabled = "…"
# after = "…"
#
# What calls {function}, for the scenario `exercise`, if klp finds nothing that does:
#
# [[workload]]
# command = "…"
"""


def check_name(folder: Path) -> None:
    """See that a livepatch can be called as a folder is to be, and that nothing is there.

    Raises:
        UsageError: it cannot, or something is.
    """
    if not _NAME.fullmatch(folder.name):
        raise UsageError(
            f"{folder.name!r} is no name for a livepatch", hint="letters, digits, - and _, a letter first"
        )
    if folder.exists():
        raise UsageError(f"{folder}: exists", hint="choose another name")


def write_start(folder: Path, function: ReplaceableFunction, kernel: Kernel, progress: Progress) -> Path:
    """Write a livepatch of a function into a new folder, once it was seen to build for a kernel.

    Returns:
        The C file.

    Raises:
        UsageError: as `check_name`; a type that the function takes as a whole is in no header.
        BuildFailed: Kbuild or the compiler refused it.
        HostLacks: the folder cannot be written.
    """
    check_name(folder)
    module = folder.name.replace("-", "_")
    for declarations in _declarations(function, kernel):
        files = _files(folder.name, module, function, kernel, declarations)
        try:
            _build(files, folder.name, kernel, progress)
            break
        except BuildFailed as failed:
            # A header that cannot be included by itself: where types are only pointed to, none is needed.
            failure = failed
    else:
        raise failure
    try:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostLacks(f"{folder}: {error.strerror}", hint="name a folder that can be made") from error
    return folder / f"{module}.c"


def _build(files: Mapping[str, str], name: str, kernel: Kernel, progress: Progress) -> None:
    with scratch_folder() as scratch, scratch_folder() as out:
        folder = scratch / name
        folder.mkdir()
        for each, text in files.items():
            (folder / each).write_text(text, encoding="utf-8")
        build(find_source(str(folder)), kernel, out, progress)


def _files(
    name: str, module: str, function: ReplaceableFunction, kernel: Kernel, declarations: str
) -> dict[str, str]:
    plan = _PLAN.format(name=name, function=function.name, module=module)
    return {
        f"{module}.c": _source(module, function, kernel, declarations),
        "Kbuild": f"{_SPDX}obj-m += {module}.o\n",
        "patch.toml": f"{_SPDX}{plan}",
    }


def _source(module: str, function: ReplaceableFunction, kernel: Kernel, declarations: str) -> str:
    entry = arch.of(kernel.architecture).traced_entry
    own = f"livepatch_{function.name}"
    if function.object == VMLINUX:
        name = "\t\t/* name being NULL means vmlinux */"
    else:
        name = f'\t\t.name = "{function.object}",'
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        module=module,
        function=function.name,
        object=function.object,
        declarations=declarations,
        prototype=_folded(function.prototype.declared(own)),
        arguments=", ".join(function.prototype.arguments),
        name=name,
        call=hex(entry.call[0]),
        landing=len(entry.landing),
        size=entry.size,
        **{"return": "return " if function.prototype.returns else ""},
        **{f"nop{at}": f"0x{byte:02x}" for at, byte in enumerate(entry.nop)},
    )


def _folded(declaration: str) -> str:
    """Break a declaration after its commas, the rest below what is behind the first parenthesis."""
    line = f"static {declaration}"
    column = line.index("(") + 1
    first = textwrap.TextWrapper(
        width=_WIDTH - 1, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False
    ).wrap(line.replace(" ", "\0").replace(",\0", ", "))
    lines = [each.replace("\0", " ") for each in first]
    tabs = "\t" * (column // _TAB) + " " * (column % _TAB)
    return "\n".join([lines[0], *(tabs + each.strip() for each in lines[1:])]).removeprefix("static ")


def _declarations(function: ReplaceableFunction, kernel: Kernel) -> Iterator[str]:
    """Yield what makes a prototype's types known: headers, and if need be no more than is needed.

    Raises:
        UsageError: a type that must be known as a whole is in no header.
    """
    if function.prototype.types is None:
        raise UsageError(
            f"{function.name}: takes a type without a name", hint="make a livepatch of a source patch"
        )
    types = [each for each in function.prototype.types if not _PLAIN_TYPES.fullmatch(each.name)]
    headers = {each: _header(kernel, each) for each in types}
    for each, header in headers.items():
        if each.whole and not header:
            raise UsageError(
                f"{function.name}: takes {each.name}, which no header has that modules may include",
                hint="make a livepatch of a change of the source: klp make FIX.patch",
            )
    yield _lines(headers)
    if any(header and not each.whole for each, header in headers.items()):
        yield _lines({each: header if each.whole else "" for each, header in headers.items()})


def _lines(headers: Mapping[NamedType, str]) -> str:
    included = sorted({f"#include <{header}>" for header in headers.values() if header})
    forward = sorted(f"{each.name};" for each, header in headers.items() if not header)
    return "\n".join([*included, *(["", *forward] if forward else []), ""])


def _header(kernel: Kernel, wanted: NamedType) -> str:
    """Return the header that defines a type; empty where none does."""
    tag, _, name = wanted.name.rpartition(" ")
    if tag:
        defined = re.compile(rf"^{tag}\s+{name}\s*\{{", re.MULTILINE)
    else:
        defined = re.compile(rf"^typedef\b[^;{{}}]*\b{name}\b[^;,]*;|^}}[^;]*\b{name}\s*;", re.MULTILINE)
    return next((header for header, text in headers_with(kernel, name) if defined.search(text)), "")
