# SPDX-License-Identifier: Apache-2.0
"""Takes inventories of a guest: one script, one round trip each.

`klp.analysis.inventory` compares them; docs/checking.md says what they look at, and what they do not.
"""

from __future__ import annotations

import base64
import gzip
import tempfile
from pathlib import Path

import msgspec

from klp import paths
from klp.analysis.inventory import Inventory
from klp.analysis.inventory_text import Symbols, parse_inventory
from klp.check.symbols import symbols_of
from klp.drive.case import TestedGuest
from klp.errors import CheckFailed, HostLacks
from klp.images.btf import Btf, btf_of
from klp.images.vmlinux import extract_vmlinux
from klp.model import Module

_SCRIPT, _WALKER = paths.IN_GUEST / "inventory.sh", paths.IN_GUEST / "walk_kernel.py"
# In the guest. Nothing in /run is part of an inventory.
_PLACE = "/run/klp/inventory"
# What the walker must know of structures (include/linux/{timer,workqueue,notifier}.h, kernel/time/timer.c,
# kernel/workqueue.c).
_OFFSETS = (
    ("timer_base", "vectors"), ("timer_list", "function"), ("delayed_work", "timer"),
    ("work_struct", "func"), ("work_struct", "entry"), ("workqueue_struct", "list"),
    ("workqueue_struct", "pwqs"), ("pool_workqueue", "pwqs_node"), ("pool_workqueue", "pool"),
    ("pool_workqueue", "inactive_works"), ("worker_pool", "worklist"), ("notifier_block", "next"),
    ("notifier_block", "notifier_call"),
)  # fmt: skip
_SYMBOLS = (
    "_stext", "_end", "timer_bases", "__per_cpu_offset", "delayed_work_timer_fn", "workqueues",
)  # fmt: skip
# Chains of notifiers, by the type of their heads: no file lists them, and BTF has no variable that is not
# per-CPU. One that this kernel lacks is left out.
_CHAINS = {
    "atomic_notifier_head": (
        "panic_notifier_list", "die_chain", "keyboard_notifier_list", "vt_notifier_list",
        "netevent_notif_chain", "inet6addr_chain", "restart_handler_list",
    ),
    "blocking_notifier_head": (
        "reboot_notifier_list", "module_notify_list", "oom_notify_list", "inetaddr_chain", "netlink_chain",
        "pm_chain_head", "crypto_chain", "vmap_notify_list", "memory_chain", "cpufreq_policy_notifier_list",
        "fb_notifier_list", "acpi_chain_head",
    ),
    "raw_notifier_head": ("netdev_chain",),
}  # fmt: skip


def script_text() -> str:
    """Return all that runs in the guest for an inventory: what one has learned holds for no other."""
    return _SCRIPT.read_text() + _WALKER.read_text()


class Inventories:
    """Takes inventories of one guest.

    Attributes:
        unread: what could not be looked at in this kernel at all, in words.
    """

    def __init__(self, guest: TestedGuest) -> None:
        self._guest = guest
        self._symbols: Symbols = ()
        self.unread: tuple[str, ...] = ()
        try:
            layout = _description(guest)
        except HostLacks as lack:
            # Timers, work items and notifiers are then not looked at; all else is.
            layout, self.unread = "", (lack.message,)
        guest.run(f"mkdir -p {_PLACE}").must(f"making {_PLACE}")
        guest.write(f"{_PLACE}/layout.json", layout.encode())
        for program in (_SCRIPT, _WALKER):
            guest.write(f"{_PLACE}/{program.name}", program.read_bytes())

    def take(self) -> Inventory:
        """Take one.

        Raises:
            CheckFailed: the script failed.
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        packed = self._guest.run(f". {_PLACE}/{_SCRIPT.name} {_PLACE}").must("taking an inventory").stdout
        try:
            text = gzip.decompress(base64.b64decode(packed)).decode(errors="replace")
        except (ValueError, OSError, EOFError) as error:
            raise CheckFailed(f"taking an inventory: {error} ({packed[:200]!r})") from error
        return parse_inventory(text, self._symbols)

    def remember(self, module: Module) -> None:
        """Learn where a loaded module's functions and data lie: they have names then when it is gone."""
        shown = self._guest.run(f"cd /sys/module/{module.name}/sections && grep -rs '' .").stdout
        sections = dict(line.removeprefix("./").split(":", 1) for line in shown.splitlines())
        places = {name: int(address, 16) for name, address in sections.items()}
        self._symbols = tuple(sorted({*self._symbols, *symbols_of(module, places)}))


def _description(guest: TestedGuest) -> str:
    """Return what the walker must know of the guest's kernel, as JSON."""
    btf = _types(guest)
    chains = {name: btf.offset(head, "head") for head, names in _CHAINS.items() for name in names}
    wanted = "|".join((*_SYMBOLS, *chains))
    # Once a guest: an emulated one takes half a second for it.
    listed = guest.run(["grep", "-E", f" [a-zA-Z] ({wanted})$", "/proc/kallsyms"]).stdout
    known = {words[2]: int(words[0], 16) for words in map(str.split, listed.splitlines())}
    if missing := [name for name in _SYMBOLS if name not in known]:
        raise HostLacks(f"/proc/kallsyms has no {', '.join(missing)}")
    offsets = {f"{name}.{member}": btf.offset(name, member) for name, member in _OFFSETS}
    offsets["timer_base"] = btf.size("timer_base")
    offsets["timer_base.vectors#"] = btf.length("timer_base", "vectors")
    offsets["timer_bases#"] = btf.variable_length("timer_bases")
    heads = {name: known[name] + at for name, at in chains.items() if name in known}
    layout = {
        "offsets": offsets,
        "symbols": {name: known[name] for name in _SYMBOLS},
        "chains": heads,
        "cpus": int(guest.run("nproc --all").must("counting CPUs").stdout),
    }
    return msgspec.json.encode(layout).decode()


def _types(guest: TestedGuest) -> Btf:
    image = guest.lab.image.kernel.image
    if image.open("rb").read(4) == b"\x7fELF":
        return btf_of(image)
    with tempfile.TemporaryDirectory(prefix="klp-") as folder:
        vmlinux = Path(folder, "vmlinux")
        extract_vmlinux(image, vmlinux)
        return btf_of(vmlinux)


def take(guest: TestedGuest) -> Inventory:
    """Take one inventory of a guest; who takes several keeps an `Inventories`.

    Raises:
        CheckFailed, VmLost: as `Inventories.take`.
    """
    return Inventories(guest).take()
