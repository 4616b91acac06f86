# SPDX-License-Identifier: Apache-2.0
"""Loads and attaches a compiled program with libbpf: what the klp tools use of bcc.BPF, but its compiler.

Importing bcc maps 200 MB of clang and LLVM, which takes an emulated CPU seconds, and a saved guest memory.
Names, arguments and results are those of bcc.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from klpcompiled import Map, Program, typed
from klpsymbols import ProbeError

# Kinds of maps and of programs, of the kernel's include/uapi/linux/bpf.h.
_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH = 5, 6, 10
_ARRAYS = (2, 6)
_PER_CPU = (_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH)
_TRACEPOINT = 5
# The instruction that loads 64 bits, and what its source register says if they are a map's descriptor.
_LOAD_64, _PSEUDO_MAP = 0x18, 1
_INSTRUCTION = struct.Struct("<BBhi")
# Of include/uapi/linux/perf_event.h: struct perf_event_attr up to config2, and what is asked of an event.
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQ")
_TYPE_TRACEPOINT = 2
_CLOSE_ON_EXEC = 8
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_KPROBES = Path("/sys/bus/event_source/devices/kprobe")
_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
# Longer names are refused: BPF_OBJ_NAME_LEN.
_NAME_LEN = 15
_LOG_BYTES = 1 << 16

_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def _libbpf() -> Any:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise ProbeError(f"libbpf is not installed ({error})") from error
    lib.ring_buffer__new.restype = ctypes.c_void_p
    lib.ring_buffer__new.argtypes = [ctypes.c_int, _SAMPLE, ctypes.c_void_p, ctypes.c_void_p]
    lib.ring_buffer__consume.argtypes = [ctypes.c_void_p]
    return lib


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class Function(NamedTuple):
    """A BPF function that was loaded."""

    fd: int


class Table:
    """A BPF map.

    Attributes:
        map_fd: its descriptor.
        Key, Leaf: the types of its keys and values; of a map for each CPU, of the values of all.
    """

    def __init__(self, lib: Any, made: Map, cpus: int) -> None:
        self._lib, self._made = lib, made
        self.map_fd = _check(
            lib.bpf_map_create(
                made.kind, made.name[:_NAME_LEN].encode(), made.key_size, made.value_size, made.entries,
                ctypes.byref(_MapOptions(ctypes.sizeof(_MapOptions), map_flags=made.flags)),
            ),
            f"making the map {made.name}",
        )  # fmt: skip
        self.Key = made.key and typed(made.key)
        leaf = made.value and typed(made.value)
        self.Leaf = leaf * cpus if leaf and made.kind in _PER_CPU else leaf

    def _key(self, key: Any) -> Any:
        return self.Key(key) if isinstance(key, int) else key

    def __getitem__(self, key: Any) -> Any:
        value = self.Leaf()
        found = self._key(key)
        if self._lib.bpf_map_lookup_elem(self.map_fd, ctypes.byref(found), ctypes.byref(value)) < 0:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        _check(
            self._lib.bpf_map_update_elem(
                self.map_fd, ctypes.byref(self._key(key)), ctypes.byref(value), ctypes.c_ulonglong(0)
            ),
            f"writing to the map {self._made.name}",
        )

    def __delitem__(self, key: Any) -> None:
        if self._lib.bpf_map_delete_elem(self.map_fd, ctypes.byref(self._key(key))) < 0:
            raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        """Yield the keys."""
        last = None
        while True:
            following = self.Key()
            before = None if last is None else ctypes.byref(last)
            if self._lib.bpf_map_get_next_key(self.map_fd, before, ctypes.byref(following)) < 0:
                return
            yield following
            last = following

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values; what went meanwhile is left out."""
        for key in self:
            with suppress(KeyError):
                yield key, self[key]

    def walk(self, stack: int) -> Iterator[int]:
        """Yield the addresses of a stack in a map of those."""
        for address in self[stack].ip:
            if not address:
                return
            yield address


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts of libbpf, up to the flags."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


class Ring(Table):
    """The map with the events."""

    def __init__(self, lib: Any, made: Map, event: Any) -> None:
        super().__init__(lib, made, 1)
        self._event = ctypes.POINTER(typed(event))
        self._callback: Any = None
        self._ring: Any = None

    def event(self, data: Any) -> Any:
        """Return an event, which the kernel may write over."""
        return ctypes.cast(data, self._event).contents

    def open_ring_buffer(self, callback: Callable[[Any, Any, int], int]) -> None:
        """Have `callback` called for each event that is consumed."""
        self._callback = _SAMPLE(callback)
        self._ring = self._lib.ring_buffer__new(self.map_fd, self._callback, None, None)
        if not self._ring:
            raise OSError(ctypes.get_errno(), "opening the ring buffer")

    def consume(self) -> None:
        """Call back for the events that are there, until one is refused."""
        self._lib.ring_buffer__consume(self._ring)


class Loaded:
    """A compiled program: its maps made, its functions loaded when they are asked for.

    Raises:
        OSError: the kernel refuses.
        ProbeError: libbpf is not there.
    """

    KPROBE, RAW_TRACEPOINT = 2, 17

    def __init__(self, program: Program, cpus: int) -> None:
        self._lib, self._program = _libbpf(), program
        self._tables = {
            made.name: Ring(self._lib, made, program.event) if made.name == "events"
            else Table(self._lib, made, cpus)
            for made in program.maps
        }  # fmt: skip
        self._placed = {made.descriptor: self._tables[made.name].map_fd for made in program.maps}
        self.funcs: dict[str, Function] = {}
        self._tracepoints: dict[str, int] = {}

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def ring_buffer_consume(self) -> None:
        """See `Ring.consume`."""
        ring = self._tables["events"]
        assert isinstance(ring, Ring)
        ring.consume()

    def load_func(self, name: str, kind: int) -> Function:
        """Load a function, once."""
        if name not in self.funcs:
            code = with_maps(bytes.fromhex(self._program.functions[name]), self._placed)
            descriptor = self._lib.bpf_prog_load(
                kind, name[:_NAME_LEN].encode(), self._program.licence.encode(), code,
                ctypes.c_size_t(len(code) // _INSTRUCTION.size), None,
            )  # fmt: skip
            self.funcs[name] = Function(_check(descriptor, f"loading {name}"))
        return self.funcs[name]

    def attach_kprobe(self, event: str, fn_name: str, event_off: int = 0) -> None:
        """Run a function where a kernel function begins, or so many bytes behind."""
        self._probe(event, event_off, fn_name, 0)

    def attach_kretprobe(self, event: str, fn_name: str) -> None:
        """Run a function where a kernel function returns."""
        bit = int((_KPROBES / "format/retprobe").read_text().removeprefix("config:"))
        self._probe(event, 0, fn_name, 1 << bit)

    def _probe(self, symbol: str, offset: int, function: str, config: int) -> None:
        kind = int((_KPROBES / "type").read_text())
        name = ctypes.create_string_buffer(symbol.encode())
        loaded = self.load_func(function, self.KPROBE)
        self._attach(loaded, kind, config, ctypes.addressof(name), offset)

    def attach_tracepoint(self, tp: str, fn_name: str) -> None:
        """Run a function at a tracepoint, ``system:name``."""
        ids = [root / "events" / tp.replace(":", "/") / "id" for root in _TRACEFS]
        number = next((int(each.read_text()) for each in ids if each.exists()), None)
        if number is None:
            raise OSError(errno.ENOENT, f"no tracepoint {tp}")
        loaded = self.load_func(fn_name, _TRACEPOINT)
        self._tracepoints[tp] = self._attach(loaded, _TYPE_TRACEPOINT, number, 0, 0)

    def detach_tracepoint(self, tp: str) -> None:
        """Run no function at a tracepoint any longer."""
        os.close(self._tracepoints.pop(tp))

    def _attach(self, loaded: Function, kind: int, config: int, config1: int, config2: int) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        # One event wakes whoever waits, as bcc has it; nobody does.
        attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, 1, 0, 0, 0, 1, 0, config1, config2)
        space = ctypes.create_string_buffer(attributes, len(attributes))
        everyone, first_cpu, no_group = -1, 0, -1
        event = _check(
            libc.syscall(
                _SYS_PERF_EVENT_OPEN[os.uname().machine], space, everyone, first_cpu, no_group,
                ctypes.c_ulong(_CLOSE_ON_EXEC),
            ),
            "opening a probe",
        )  # fmt: skip
        _check(libc.ioctl(event, _IOC_SET_BPF, loaded.fd), "giving a probe its program")
        _check(libc.ioctl(event, _IOC_ENABLE, 0), "enabling a probe")
        return event


def with_maps(code: bytes, placed: dict[int, int]) -> bytes:
    """Return instructions with the descriptors of the maps that are there now."""
    changed = bytearray(code)
    for at in range(0, len(code), _INSTRUCTION.size):
        operation, registers, offset, value = _INSTRUCTION.unpack_from(code, at)
        if operation == _LOAD_64 and registers >> 4 == _PSEUDO_MAP:
            _INSTRUCTION.pack_into(changed, at, operation, registers, offset, placed[value])
    return bytes(changed)
