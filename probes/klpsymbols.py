# SPDX-License-Identifier: Apache-2.0
"""The running kernel's symbols, from /proc/kallsyms: names to addresses and back.

Functions are looked up at run time because compilers inline and rename them differently from one
kernel build to the next, and modules come and go.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

KALLSYMS = Path("/proc/kallsyms")
MODULES = Path("/proc/modules")
# How far the symbols reach that are in no module, such as a trampoline's of ftrace.
PAGE = 4096
# The kinds of symbols that are code with a definition of its own (nm(1)).
_TEXT = "tT"


class ProbeError(Exception):
    """A tool cannot run here; its text is the one line that says why."""


class Symbol(NamedTuple):
    """One line of /proc/kallsyms."""

    address: int
    kind: str
    name: str
    module: str


class Text(NamedTuple):
    """Where a module's instructions are, or were; its size is all of the module's."""

    begin: int
    size: int
    module: str

    def holds(self, address: int) -> bool:
        """Tell whether an address is, or may be, in it."""
        return self.begin <= address < self.begin + self.size


# What %pS prints; and what functions begin at multiples of, at least.
_NAMED = re.compile(
    r"(?P<name>\S+)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)(?: \[(?P<module>[^] ]+)\])?"
)
_ALIGNED = 16

# A compiler that specialises or splits a function names the result so. `.cold` is left out: it is a
# fragment which the function jumps to, not the function.
_SUFFIXED = re.compile(r"(?P<base>[^.]+)(?:\.(?:isra|part|constprop)\.\d+)+$")


# The padding before functions.
_PADDING = "__pfx_"
# How a line of /proc/kallsyms begins: an address of all its digits, and the kind.
_NAME_AT = len("ffffffff81000000 T ")


def parse(line: str) -> Symbol:
    """Read a line of /proc/kallsyms."""
    address, kind, name, *module = line.split()
    return Symbol(int(address, 16), kind, name, module[0][1:-1] if module else "")


def core_lines(lines: Iterable[str]) -> Iterator[str]:
    """Keep of the lines of /proc/kallsyms those of the kernel's own symbols, without padding."""
    return (line for line in lines if line[-1] != "]" and not line.startswith(_PADDING, _NAME_AT))


def module_symbols(lines: Iterable[str]) -> Iterator[Symbol]:
    """Read the lines of /proc/kallsyms that are modules' symbols, without padding."""
    return (parse(line) for line in lines if line[-1] == "]" and not line.startswith(_PADDING, _NAME_AT))


class Table:
    """The modules' symbols by address."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self.symbols = sorted(symbols)
        self._addresses = [symbol.address for symbol in self.symbols]

    def at(self, address: int) -> int:
        """Return the index of the last symbol that is not after `address`, or -1."""
        return bisect_right(self._addresses, address) - 1


class Core:
    """The kernel's own symbols by address.

    There are 150,000 and more, of which a tool asks for some dozens: they stay the lines they are, which
    sort as their addresses do, and are read when asked for. Where CPUs are emulated that saves a tool five
    seconds of its start, and anywhere 60 MB.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = sorted(lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Symbol:
        return parse(self._lines[index])

    def at(self, address: int) -> int:
        """Return the index of the last symbol that is not after `address`, or -1."""
        return bisect_right(self._lines, f"{address:016x}~") - 1

    def named(self, part: str) -> Iterator[tuple[int, Symbol]]:
        """Find the symbols that have `part` in their names, each with its index."""
        for index, line in enumerate(self._lines):
            if part in line and part in (symbol := parse(line)).name:
                yield index, symbol

    @cached_property
    def by_name(self) -> dict[str, str]:
        """The lines by name; the last of those that share one."""
        return self._index[0]

    @cached_property
    def shared(self) -> set[str]:
        """The names that more than one symbol has."""
        return self._index[1]

    @cached_property
    def _index(self) -> tuple[dict[str, str], set[str]]:
        """Both, found in one go, for there are many."""
        by_name: dict[str, str] = {}
        shared = set()
        for line in self._lines:
            name = line[_NAME_AT:]
            if name in by_name:
                shared.add(name)
            by_name[name] = line
        return by_name, shared


class Symbols:
    """The running kernel's symbols: names to addresses, and addresses back to names."""

    def __init__(self, read: Callable[[], str] = KALLSYMS.read_text) -> None:
        self._name_of: Callable[[int], str] | None = None
        self._modules_seen = _modules()
        self._reach = _sizes(self._modules_seen)
        self._noticed: frozenset[str] = frozenset()
        self._texts: list[Text] = []
        lines = read().splitlines()
        self._core, self._modules = Core(core_lines(lines)), Table(module_symbols(lines))

    def prepare(self) -> None:
        """Find out now what is found out when it is first asked for."""
        _ = self._core.by_name, self._core.shared, self._suffixed

    def ask(self, name_of: Callable[[int], str]) -> None:
        """From now on learn of modules that come, by what the kernel calls their addresses (see `walk`)."""
        self._name_of = name_of

    @cached_property
    def _suffixed(self) -> dict[str, str]:
        matches = (_SUFFIXED.match(name) for name in self._core.by_name if "." in name)
        return {match["base"]: match[0] for match in matches if match}

    def named(self, part: str) -> list[Symbol]:
        """Return the kernel's own symbols that have `part` in their names, by address."""
        return [symbol for _index, symbol in self._core.named(part)]

    def spans(self, part: str) -> Iterator[tuple[str, int, int]]:
        """Find functions that have `part` in their names: name, first address, and the next function's."""
        for index, symbol in self._core.named(part):
            # Asked first: behind the last function there is none to be found, among 30,000 variables.
            if symbol.kind not in _TEXT:
                continue
            following = (self._core[each] for each in range(index + 1, len(self._core)))
            end = next((each.address for each in following if each.kind in _TEXT), 0)
            if end:
                yield symbol.name, symbol.address, end

    def resolve(self, name: str) -> str | None:
        """Return the name under which the kernel knows a function, or None if it was inlined."""
        return name if name in self._core.by_name else self._suffixed.get(name)

    def body(self, name: str) -> str | None:
        """Return where a function's work is done: its `.part.0` if the compiler split one off.

        A caller into which the function's head was inlined calls the part alone, as
        klp_reverse_transition does with klp_start_transition.part.0 (6.12, gcc-14).
        """
        part = f"{name}.part.0"
        return part if part in self._core.by_name else self.resolve(name)

    def address(self, name: str) -> int:
        """Return the address of a symbol, 0 if it has none (or kptr_restrict hides it)."""
        found = self._core.by_name.get(name)
        return parse(found).address if found else 0

    def span(self, name: str) -> tuple[int, int]:
        """Return first address and end of a function; (0, 0) where there is none."""
        start = self.address(self.resolve(name) or "")
        return (start, self._core[self._core.at(start) + 1].address) if start else (0, 0)

    def anchor(self, address: int) -> Symbol:
        """Return the nearest symbol before `address` whose name no other has: enabled_store is many.

        Raises:
            LookupError: there is none.
        """
        for index in range(self._core.at(address), -1, -1):
            symbol = self._core[index]
            if symbol.name not in self._core.shared:
                return symbol
        raise LookupError(f"no symbol before 0x{address:x}")

    def describe(self, address: int) -> str:
        """Return `function+0xOFFSET [module]`, as the kernel's own %pS prints it, but for the size."""
        core = self._core
        if len(core) and core[0].address <= address <= core[-1].address:
            symbol = core[core.at(address)]
            return f"{symbol.name}+0x{address - symbol.address:x}"
        self._refresh()
        index = self._modules.at(address)
        if index >= 0:
            symbol = self._modules.symbols[index]
            if address - symbol.address < self._reach.get(symbol.module, PAGE):
                return f"{symbol.name}+0x{address - symbol.address:x} [{symbol.module}]"
        # Of one that came and went before its symbols were read; the nearest, for sizes are too large.
        text = max((text for text in self._texts if text.holds(address)), default=None)
        return f".text+0x{address - text.begin:x} [{text.module}]" if text else f"0x{address:x}"

    def notice(self) -> None:
        """Remember what modules there are now, which takes little: symbols are read when asked for."""
        lines = _modules()
        if lines == self._noticed:
            return
        self._noticed = lines
        texts = [_text(line) for line in lines]
        kept = (old for old in self._texts if not any(new.holds(old.begin) for new in texts))
        self._texts = [*kept, *texts]

    def _refresh(self) -> None:
        """Learn the symbols of modules that came since; keep those that went, for late events."""
        now = _modules()
        if now == self._modules_seen or self._name_of is None:
            return
        came = sorted(map(_text, now - self._modules_seen))
        self._modules_seen = now
        self._reach |= _sizes(now)
        fresh = [symbol for text in came for symbol in walk(text, self._name_of)]
        # No two modules share a page: one whose page another has now is gone, and its names mislead.
        pages = {symbol.address // PAGE for symbol in fresh}
        current = {symbol.module for symbol in fresh}
        kept = [symbol for symbol in self._modules.symbols if symbol.module not in current]
        buried = {symbol.module for symbol in kept if symbol.address // PAGE in pages}
        old = (symbol for symbol in kept if symbol.module not in buried)
        self._modules = Table([*old, *fresh])


@dataclass
class Names:
    """Names of code addresses, each looked up once in a batch of events: modules come and go."""

    describe: Callable[[int], str]
    _known: dict[int, str] = field(default_factory=dict)

    def forget(self) -> None:
        """Look them all up again."""
        self._known.clear()

    def of(self, address: int) -> str:
        """Return `function+0xOFFSET [module]`."""
        if address not in self._known:
            self._known[address] = self.describe(address)
        return self._known[address]


def walk(text: Text, name_of: Callable[[int], str]) -> Iterator[Symbol]:
    """Find a module's functions by asking for the name at its first address, then after that one's end, …

    Args:
        name_of: returns what the kernel's %pS prints for an address.
    """
    at, end, stray = text.begin, text.begin + text.size, text.begin + PAGE
    while at < end:
        found = _NAMED.fullmatch(name_of(at))
        if not found or found["module"] != text.module:
            if at >= stray:
                return
            at += _ALIGNED
            continue
        offset, size = int(found["offset"], 16), int(found["size"], 16)
        if offset >= size:  # of the last one the size ends where the module's instructions do
            return
        if not found["name"].startswith(_PADDING):
            yield Symbol(at - offset, "t", found["name"], text.module)
        at += size - offset
        stray = at


def _modules() -> frozenset[str]:
    """Return what tells one set of loaded modules from another: names, sizes and addresses."""
    try:
        lines = MODULES.read_text().splitlines()
    except OSError:  # a kernel without modules
        return frozenset()
    return frozenset(" ".join(line.split()[number] for number in (0, 1, 5)) for line in lines)


def _text(module: str) -> Text:
    """Read what `_modules` tells of one."""
    name, size, begin = module.split()
    return Text(int(begin, 16), int(size), name)


def _sizes(modules: Iterable[str]) -> dict[str, int]:
    """Return the bytes of each module: no symbol of it is further from an address in it."""
    return {name: int(size) for name, size, _address in (module.split() for module in modules)}
