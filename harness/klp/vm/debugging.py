# SPDX-License-Identifier: Apache-2.0
"""By what a kernel that is not built for debugging can look for faults in memory all the same.

Each needs an option that the kernel was built with, and is off until somebody asks for it. Of Debian's
kernels 6.1 has no KFENCE; all have SLUB's debugging and page poisoning. None has what costs more: KASAN,
debug_pagealloc, page_owner, kmemleak. And nothing is gained by init_on_free=1, which page poisoning takes
the place of (mm/mm_init.c: mem_debugging_and_hardening_init), nor by hardened_usercopy= and the checks of
lists and reference counts, which are on in every Debian kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from klp.errors import UsageError
from klp.images.kconfig import read_config
from klp.model import Kernel

# Option to words of the command line. F: an object is looked at when it is given and freed; Z: a red zone
# on either side of it; P: poison in what is free; U: who allocated it, and who freed it, with stacks. It is
# called slab_debug since 6.9, which knows the old name, too.
_WORDS: Mapping[str, str] = {"SLUB_DEBUG": "slub_debug=FZPU", "PAGE_POISONING": "page_poison=1"}
_KFENCE = "KFENCE"
_KFENCE_FILE = "/sys/module/kfence/parameters/sample_interval"
# An allocation a millisecond, which is as often as it can be had.
START_KFENCE = f"echo 1 >{_KFENCE_FILE}"
# What it has given out stays its own; it gives out no more.
STOP_KFENCE = f"echo 0 >{_KFENCE_FILE}"


@dataclass(frozen=True, slots=True)
class MemoryDebugging:
    """What a kernel is given to look for faults in memory.

    Attributes:
        words: of its command line.
        kfence: whether it has KFENCE. That is started in the guest, by a file of sysfs: from boot on, the
            kernel's own long-lived objects would soon have taken all of its 255 places.
    """

    words: tuple[str, ...]
    kfence: bool

    @property
    def summary(self) -> str:
        """What it is given, as one writes it on a command line; empty if there is nothing."""
        return " ".join((*self.words, *(("kfence.sample_interval=1",) if self.kfence else ())))


def debugging_of(config: Mapping[str, str]) -> MemoryDebugging:
    """Return what a kernel of that configuration can be given."""
    words = tuple(word for option, word in _WORDS.items() if config.get(option) == "y")
    return MemoryDebugging(words, config.get(_KFENCE) == "y")


def memory_debugging(kernel: Kernel) -> MemoryDebugging:
    """Return what a kernel can be given.

    Raises:
        UsageError: it has nothing of the kind built in.
    """
    found = debugging_of(read_config(kernel.config) if kernel.config else {})
    if not found.summary:
        needs = ", ".join(f"CONFIG_{name}" for name in (*_WORDS, _KFENCE))
        raise UsageError(
            f"kernel {kernel.release} cannot look for faults in memory: it has none of {needs}",
            hint="enable them and rebuild it, or leave out --debug",
        )
    return found
