# SPDX-License-Identifier: Apache-2.0
"""A function of a kernel that a livepatch can replace, with its prototype; or why none can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klp import arch
from klp.errors import UnknownName, UsageError
from klp.images.btf import Btf, btf_of
from klp.images.kmods import module_on_disk, modules_on
from klp.images.prototypes import Prototype, prototype_of
from klp.model import Kernel
from klp.sourcepatch.objects import BESIDE_FUNCTIONS, ObjectFile
from klp.sourcepatch.shipped import ShippedKernel, ShippedObject, ShippedSymbol
from klp.sourcepatch.values import VMLINUX

# What the compiler adds to the name of a function that it took apart, or gave other parameters.
_CHANGED = (".isra.", ".constprop.", ".part.", ".cold")
_CALLERS = "patch the functions that call it"
_SOURCE_PATCH = "make a livepatch of a change of the source: klp make FIX.patch"


@dataclass(frozen=True, slots=True)
class ReplaceableFunction:
    """A function that ftrace can redirect.

    Attributes:
        object: vmlinux, or the module that has it.
        prototype: what it takes and returns.
    """

    name: str
    object: str
    prototype: Prototype


def replaceable(kernel: Kernel, word: str) -> ReplaceableFunction:
    """Return the function that a word stands for: a name, or MODULE:NAME.

    Raises:
        UsageError: there is none, or no livepatch can replace it; the message says why.
        HostLacks: the kernel has no BTF, or this host cannot read its modules.
    """
    module, _, name = word.rpartition(":")
    owner = _owner(kernel, module.replace("-", "_"))
    shipped = ShippedKernel(kernel).object(owner)
    symbol = _symbol(kernel, shipped, name)
    if _freed(shipped, symbol):
        raise UsageError(
            f"{name}: is __init, and freed once {'the kernel' if owner == VMLINUX else owner} is up",
            hint="no livepatch can change it any more",
        )
    if not _traced(shipped, symbol):
        raise UsageError(
            f"{name}: has no call of ftrace, by which livepatches redirect: it is notrace, or inline",
            hint=_CALLERS,
        )
    prototype = prototype_of(_types(kernel, owner), name)
    if prototype is None:
        raise UsageError(f"{name}: BTF has no prototype of it", hint=_SOURCE_PATCH)
    if prototype.variadic:
        raise UsageError(
            f"{name}: takes any number of arguments, which C cannot hand on", hint=_SOURCE_PATCH
        )
    return ReplaceableFunction(name, owner, prototype)


def why_unchangeable(kernel: Kernel, shipped: ShippedObject, name: str, position: int) -> str:
    """Return why the kernel would not let a livepatch change a function; empty where it would.

    Args:
        shipped: vmlinux, or the module that is to have it.
        position: which of several of that name, as in klp_func.old_sympos.
    """
    known = shipped.named(name)
    if len(known) > 1 and not position:
        return (
            f"{shipped.name} has {len(known)} symbols of that name: .old_sympos says which one is meant, "
            "counted from 1"
        )
    if position > len(known) > 0:
        counted = "1 symbol" if len(known) == 1 else f"{len(known)} symbols"
        return f".old_sympos is {position}, and {shipped.name} has {counted} of that name"
    try:
        symbol = known[position - 1] if position and known else _symbol(kernel, shipped, name)
    except UnknownName as absent:
        meant = f"; {absent.hint}" if absent.meant else ""
        return f"no function of that name is in {kernel.release}: renamed, or inlined everywhere{meant}"
    except UsageError as refused:
        return refused.message.removeprefix(f"{name}: ") + (f" ({refused.hint})" if refused.hint else "")
    return _why_not_redirected(shipped, symbol)


def _why_not_redirected(shipped: ShippedObject, symbol: ShippedSymbol) -> str:
    if symbol.kind != "FUNC":
        return "is data, and no function"
    if _freed(shipped, symbol):
        return (
            f"is __init, and freed once {'the kernel' if shipped.name == VMLINUX else shipped.name} is up"
        )
    if _may_be_traced(shipped, symbol):
        return ""
    return (
        "has no call of ftrace, by which livepatches redirect: it is notrace, noinstr or written in "
        f"assembly; {_CALLERS}"
    )


def _may_be_traced(shipped: ShippedObject, symbol: ShippedSymbol) -> bool:
    """Whether a function has a call of ftrace at its entry, or what a build may have put in its place."""
    entry = shipped.architecture.traced_entry
    landing = shipped.code(symbol.address, len(entry.landing)) == entry.landing
    at = symbol.address + (len(entry.landing) if landing else 0)
    # objtool --mnop (CONFIG_FTRACE_MCOUNT_USE_OBJTOOL, since 6.0) has put it there as the kernel was built.
    return shipped.code(at, len(entry.nop)) == entry.nop or _traced(shipped, symbol)


def _owner(kernel: Kernel, module: str) -> str:
    if not module or module == VMLINUX:
        return VMLINUX
    known = modules_on(kernel)
    if known and module in known.builtin:
        raise UsageError(f"{module}: is built into {kernel.name}", hint="leave out the module's name")
    if known and module not in known.loadable:
        raise UnknownName(f"kernel {kernel.name} has no module {module}", module, known.loadable)
    return module


def _symbol(kernel: Kernel, shipped: ShippedObject, name: str) -> ShippedSymbol:
    found = [each for each in shipped.named(name) if each.kind == "FUNC"]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{name}: {shipped.name} has {len(found)} functions of that name", hint=_SOURCE_PATCH
        )
    if shipped.named(name):
        raise UsageError(f"{name}: is data, and no function", hint=_CALLERS.replace("call", "use"))
    raise _absent(kernel, shipped, name)


def _absent(kernel: Kernel, shipped: ShippedObject, name: str) -> UsageError:
    code = (each.name for each in shipped.symbols if each.kind == "FUNC")
    functions = {each for each in code if not each.startswith(BESIDE_FUNCTIONS)}
    if changed := next((each for each in functions if each.startswith(_changed_names(name))), None):
        return UsageError(
            f"{name}: is {changed} in this kernel: the compiler took it apart, or changed its parameters",
            hint=_SOURCE_PATCH,
        )
    if header := _inline_in(kernel, name):
        return UsageError(f"{name}: is inline, in {header}", hint=_CALLERS)
    return UnknownName(
        f"{name}: no function of {shipped.name} on {kernel.name}: one that is always inlined has no name "
        "there, and one of a module is MODULE:NAME",
        name,
        functions,
        hint=_SOURCE_PATCH,
    )


def _changed_names(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{each}" for each in _CHANGED)


def _inline_in(kernel: Kernel, name: str) -> str:
    """Return the header that has an inline function of a name; empty where none has."""
    for header, text in headers_with(kernel, name):
        lines = text.splitlines()
        if any(f" {name}(" in line.replace("*", " ") and "static" in line for line in lines):
            return header
    return ""


def _freed(shipped: ShippedObject, symbol: ShippedSymbol) -> bool:
    if shipped.name != VMLINUX:
        return not shipped.lasts(symbol.address)
    begin, end = (shipped.addresses(each) for each in ("_sinittext", "_einittext"))
    return bool(begin and end) and begin[0] <= symbol.address < end[0]


def _traced(shipped: ShippedObject, symbol: ShippedSymbol) -> bool:
    """Whether a function begins with a call of ftrace, behind what marks where indirect calls may land."""
    entry = shipped.architecture.traced_entry
    at = symbol.address
    if shipped.code(at, len(entry.landing)) == entry.landing:
        at += len(entry.landing)
    opcode = shipped.code(at, len(entry.call))
    field = at + len(entry.call)
    if opcode != entry.call:
        return False
    if shipped.name != VMLINUX:
        return shipped.elsewhere(field) == entry.function
    offset = int.from_bytes(shipped.code(field, entry.size - len(entry.call)), "little", signed=True)
    return at + entry.size + offset in shipped.addresses(entry.function)


def _types(kernel: Kernel, owner: str) -> Btf:
    base = btf_of(kernel.image)
    if owner == VMLINUX:
        return base
    file = ObjectFile(module_on_disk(kernel, owner))
    section = file.section(".BTF")
    if section is None:
        raise UsageError(f"{owner}: has no BTF", hint=_SOURCE_PATCH)
    return Btf(file.content(section.index), base)


def headers_with(kernel: Kernel, word: str) -> Iterator[tuple[str, str]]:
    """Yield the headers that modules may include and that have a word: the name to include, and the text.

    Those of linux/ come first.
    """
    found = []
    for folder in _include_folders(kernel):
        for file in folder.rglob("*.h"):
            name = file.relative_to(folder).as_posix().removeprefix("uapi/")
            found.append((not name.startswith("linux/"), name.count("/"), name, file))
    for *_, name, file in sorted(found):
        text = file.read_text(encoding="utf-8", errors="replace")
        if word in text:
            yield name, text


def _include_folders(kernel: Kernel) -> list[Path]:
    if kernel.tree:
        roots = [kernel.tree]
    else:
        sources = kernel.toolchain / kernel.build.parent.relative_to("/")
        roots = sorted(sources.glob("linux-headers-*"))
    own = f"arch/{arch.of(kernel.architecture).kernel}/include"
    return [folder for root in roots for each in ("include", own) if (folder := root / each).is_dir()]
