# SPDX-License-Identifier: Apache-2.0
"""An inventory, read from the text of the script that took it in a guest, inventory.sh. Pure.

Kept out here, by what they are, are klp's own doings and what no comparison could tell anything of.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from klp.analysis.inventory import Inventory

_HEAD = "=== "
# Values that differ each time they are read, or count what any process does; and the taint, which each load
# of a livepatch changes and which the rules look at. The kernel itself lowers perf's sample rate where its
# interrupts take long, as they do under emulation (perf_sample_event_took, kernel/events/core.c).
_RESTLESS = re.compile(
    r"/proc/sys/(fs/(dentry-state|inode-(nr|state)|file-nr|aio-nr|quota/.*|epoll/.*)"
    r"|kernel/(random/(uuid|entropy_avail)|ns_last_pid|pty/nr|tainted"
    r"|perf_event_max_sample_rate|perf_cpu_time_max_percent)"
    r"|net/netfilter/nf_conntrack_count)\Z"
)
# Names: terminals of whoever is logged in, processes that ended while find was about to pass them over, and
# what klp's own probes have in tracefs.
_PASSING = re.compile(r"/dev/pts/\d+\Z|/proc/\d+\Z|/sys/kernel/tracing/(events|instances)/klp_")
# Stacks of tasks (tasks are counted as kthreads), and chunks from which per-CPU memory is given out, which
# stay; `cycles` measures that memory.
_UNCOUNTED_AREAS = re.compile(
    r"\A(kernel_clone|copy_process|dup_task_struct|alloc_thread_stack_node|pcpu_\w+)\Z"
)
_OWN_PROBE = re.compile(r"\A[pr]\d*:klp_\w*/\S+ (?:(\w+):)?([\w.]+)(?:\+\S+)?")
# Whose descriptors are klp's connections.
_SERVERS = ("dropbear", "sshd")
# The walker's walks, and the sections made of them.
_WALKS = {"timers": "timers", "works": "works", "notifiers": "notifiers"}
# Files of /proc that list what is registered, a line each.
_REGISTERS = (
    "filesystems", "devices", "misc", "swaps", "iomem", "ioports", "consoles", "net/protocols", "net/ptype",
)  # fmt: skip
_PF_KTHREAD = 0x00200000
_STAT = re.compile(r"\A(\d+) \((.*)\) \S (.*)\Z")
# Fields of /proc/PID/stat behind the state, counted from 0 (proc_pid_stat(5)).
_SESSION, _FLAGS = 2, 5
_KEYED = re.compile(r"\A([\w@.:-]+):\s")

Symbols = tuple[tuple[int, int, str], ...]


def parse_inventory(text: str, symbols: Symbols = ()) -> Inventory:
    """Return the inventory that the script's text tells.

    Args:
        symbols: begin, end and name of functions of modules that may be gone by now, sorted.
    """
    raw = _sections(text)
    files = _files(raw.get("files", ()))
    ranges = dict(_ranges(files["/proc/modules"]))
    resolve = _resolver(ranges, symbols)
    own = set(_own_probes(files["/sys/kernel/tracing/kprobe_events"]))
    tasks = list(_tasks(files))
    session = "".join(raw.get("session", ()))
    walked = raw.get("walked", [])
    sections = {
        "sysctl": {path: "\n".join(lines) for path, lines in files.items() if _is_setting(path)},
        "names": {line: "" for line in raw.get("names", ()) if not _PASSING.match(line)},
        "modules": {words[0]: words[2] for words in map(str.split, files["/proc/modules"])},
        "kthreads": _counts(comm for _, comm, rest in tasks if _is_kthread(comm, rest)),
        "open files": _open_files(raw.get("descriptors", ()), tasks, session),
        "kprobes": _counts(_kprobes(files["/sys/kernel/debug/kprobes/list"], own, resolve)),
        "ftrace": dict(_ftrace(files["/sys/kernel/tracing/enabled_functions"], own)),
        "cpu-states": {line.strip(): "" for line in files["/sys/devices/system/cpu/hotplug/states"]},
        "interrupts": dict(_interrupts(files["/proc/interrupts"])),
        "mounts": _mounts(files["/proc/self/mountinfo"]),
        "links": {path: lines[0] for path, lines in files.items() if path.startswith("/sys/class/net/")},
        "addresses": _counts(_addresses(files)),
        "routes": _counts(_routes(files)),
        "vmalloc": _counts(_areas(files["/proc/vmallocinfo"], resolve)),
        "timers": _counts((*_hrtimers(files["/proc/timer_list"]), *_walked(walked, "timer", resolve))),
        "works": _counts(_walked(walked, "work", resolve)),
        "notifiers": _counts(_notifiers(walked, resolve)),
        **{f"registered {name}": _registered(name, files[f"/proc/{name}"]) for name in _REGISTERS},
    }
    # What was not walked to its end is left out, for it would compare as empty.
    missing = [name for walk, name in _WALKS.items() if f"walked {walk}" not in walked]
    for name in missing:
        del sections[name]
    return Inventory(sections, ranges, tuple(missing))


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_HEAD):
            lines = found.setdefault(line.removeprefix(_HEAD), [])
        elif line:
            lines.append(line)
    return found


def _files(lines: Iterable[str]) -> defaultdict[str, list[str]]:
    """Return the lines of each file, as grep has them: ``PATH:LINE``."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        path, _, content = line.partition(":")
        found[path].append(content)
    return found


def _is_setting(path: str) -> bool:
    return path.startswith("/proc/sys/") and not _RESTLESS.match(path)


def _counts(names: Iterable[str]) -> dict[str, str]:
    return {name: str(number) for name, number in Counter(names).items()}


def _ranges(lines: Iterable[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    for words in map(str.split, lines):
        addresses = [int(word, 16) for word in words if word.startswith("0x")]
        if addresses:
            yield words[0], (addresses[0], addresses[0] + int(words[1]))


def _resolver(ranges: dict[str, tuple[int, int]], symbols: Symbols) -> Callable[[int], str]:
    """Return what names an address: a function of a module, else the module, else the address itself."""
    begins = [begin for begin, _, _ in symbols]

    def resolve(address: int) -> str:
        place = bisect_right(begins, address) - 1
        if place >= 0 and address < symbols[place][1]:
            return symbols[place][2]
        owner = (name for name, (begin, end) in ranges.items() if begin <= address < end)
        return next((f"{address:#x} [{name}]" for name in owner), f"{address:#x}")

    return resolve


def _own_probes(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if found := _OWN_PROBE.match(line):
            yield found[2]


def _tasks(files: Mapping[str, list[str]]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield pid, name and what follows the state of each task, as /proc/PID/stat has them."""
    for path, lines in files.items():
        if path.endswith("/stat") and (found := _STAT.match(lines[0])):
            yield found[1], found[2], found[3].split()


def _is_kthread(comm: str, rest: list[str]) -> bool:
    """Whether a task is a thread of the kernel's; but its workers come and go with the work.

    The rescuer of a workqueue, ``kworker/R-NAME`` since 6.9, stays as long as that is there.
    """
    worker = comm.startswith("kworker/") and not comm.startswith("kworker/R-")
    return bool(int(rest[_FLAGS]) & _PF_KTHREAD) and not worker


def _open_files(
    lines: Iterable[str], tasks: list[tuple[str, str, list[str]]], session: str
) -> dict[str, str]:
    """Count the descriptors of each program but the SSH server and those of klp's own shell."""
    names = {pid: comm for pid, comm, rest in tasks if rest[_SESSION] != session}
    pids = (line.split("/")[2] for line in lines)
    counted = _counts(names[pid] for pid in pids if pid in names)
    return {comm: number for comm, number in counted.items() if not comm.startswith(_SERVERS)}


def _kprobes(lines: Iterable[str], own: set[str], resolve: Callable[[int], str]) -> Iterator[str]:
    """Yield the place of each kprobe: ``ADDRESS KIND FUNCTION+OFFSET MODULE [FLAG][FLAG]`` is a line."""
    for line in lines:
        address, kind, place, *rest = line.split()
        # On a function that has gone with its module, as klp's on those of a livepatch: the name is that of
        # whatever module has had the address before.
        if place.partition("+")[0] in own or any("[GONE]" in flags for flags in rest):
            continue
        module = next((f" [{word}]" for word in rest if not word.startswith("[")), "")
        named = resolve(int(address, 16)) if place.startswith("0x") else f"{place}{module}"
        yield named if kind == "k" else f"{named} ({kind})"


def _ftrace(lines: Iterable[str], own: set[str]) -> Iterator[tuple[str, str]]:
    """Yield functions with the number of their users and flags, but those that klp counts the calls of."""
    for line in lines:
        words = line.split()
        if words and words[0] not in own and not line.startswith((" ", "\t")):
            module = f" {words[1]}" if words[1:] and words[1].startswith("[") else ""
            flags = re.findall(r"\(\d+\)|\b[A-Z]\b", line.partition("tramp:")[0])
            yield f"{words[0]}{module}", " ".join(flags)


def _interrupts(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each interrupt with its names, without the counts; the first line names the CPUs."""
    heads = list(lines)
    cpus = len(heads[0].split()) if heads else 0
    for line in heads[1:]:
        label, _, rest = line.strip().partition(":")
        yield label, " ".join(rest.split()[cpus:])


def _mounts(lines: Iterable[str]) -> dict[str, str]:
    """Return what is mounted on each mount point, but tracefs where whoever looks there mounts it."""
    found: dict[str, list[str]] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split()
        if words[4] != "/sys/kernel/debug/tracing":
            found.setdefault(words[4], []).append(f"{after} {words[5]}")
    return {point: "; ".join(what) for point, what in found.items()}


def _addresses(files: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the system's own addresses: IPv4 as they are, IPv6 in hex with the device."""
    place = ""
    for line in files.get("/proc/net/fib_trie", ()):
        leaf, _, address = line.partition("|-- ")
        place = address if address else place
        if "host LOCAL" in leaf:
            yield place
    for words in map(str.split, files.get("/proc/net/if_inet6", ())):
        yield f"{words[0]}/{int(words[2], 16)} {words[-1]}"


def _routes(files: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the routes, in hex as the kernel shows them, without the counts of their users."""
    for device, target, gateway, *rest in map(str.split, files.get("/proc/net/route", ())[1:]):
        yield f"{device} {target}/{rest[4]} {gateway}"
    for words in map(str.split, files.get("/proc/net/ipv6_route", ())):
        yield f"{words[9]} {words[0]}/{words[1]} {words[4]}"


def _areas(lines: Iterable[str], resolve: Callable[[int], str]) -> Iterator[str]:
    """Yield the caller of each area (``BEGIN-END SIZE CALLER+OFFSET/LENGTH [MODULE] …``)."""
    for line in lines:
        words = line.split()
        if len(words) < 3 or words[2] in ("vm_map_ram", "unpurged"):
            continue
        caller = words[2].partition("+")[0]
        module = f" {words[3]}" if words[3:] and re.match(r"\[[a-z]\w*\]", words[3]) else ""
        if caller.startswith("0x"):
            yield resolve(int(caller, 16))
        elif not _UNCOUNTED_AREAS.match(caller) and "=" not in caller:
            yield f"{caller}{module}"


def _hrtimers(lines: Iterable[str]) -> Iterator[str]:
    """Yield the functions of hrtimers that are a module's, or by now no one's (`` #0: <…>, FN, S:01``)."""
    for line in lines:
        found = re.match(r"\s*#\d+: <[^>]*>, (.*), S:", line)
        if found and ("[" in found[1] or found[1].startswith("0x")):
            yield re.sub(r"\s+", " ", found[1])


def _walked(lines: Iterable[str], what: str, resolve: Callable[[int], str]) -> Iterator[str]:
    for words in map(str.split, lines):
        if words[0] == what:
            yield resolve(int(words[1], 16))


def _notifiers(lines: Iterable[str], resolve: Callable[[int], str]) -> Iterator[str]:
    for words in map(str.split, lines):
        if words[0] == "notifier":
            yield f"{resolve(int(words[2], 16))} in {words[1]}"


def _registered(name: str, lines: Iterable[str]) -> dict[str, str]:
    """Return the lines of a file that lists what is registered; of protocols names: it counts users."""
    if name == "net/protocols":
        return {line.split()[0]: "" for line in lines}
    return _counts(" ".join(line.split()) for line in lines)
