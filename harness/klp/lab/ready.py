# SPDX-License-Identifier: Apache-2.0
"""A kernel made ready for many tests: its image, its saved guest, a pool of guests, modules."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from klp.analysis.result import Provenance
from klp.errors import Interrupted
from klp.files import remove_tree
from klp.guest.kernel_log import write_canary
from klp.klog.canary import Canary
from klp.lab.bootable import make_bootable
from klp.lab.lab import Lab
from klp.lab.provenance import provenance
from klp.lab.warm import WarmStart, ensure_warm, restored
from klp.model import Image, Module
from klp.modules.build import build
from klp.modules.lookup import choose, find_module
from klp.modules.modinfo import check_loadable
from klp.modules.module_cache import ModuleCache
from klp.modules.sources import ModuleSource
from klp.paths import CacheLayout, RunLayout
from klp.progress import Progress, Silent
from klp.settings import Settings
from klp.trace.observer import Observer
from klp.trace.store import EventStore
from klp.trace.tracer import Tracer
from klp.vm.accel import AcceleratorVerdict
from klp.vm.pool import Pool

# Waits for a slot for a guest; is given what raises once the guest is no longer wanted.
TakeSlot = Callable[[Callable[[], None]], AbstractContextManager[None]]


@dataclass(slots=True)
class ReadyGuest:
    """A guest nobody has used: connected twice, its trace followed, a canary in its kernel log.

    Attributes:
        observer: writes into the trace what is done to the guest.
        keep_as: set to the folder that its files are to be kept in; None lets them go with the guest.
        begun_at: seconds since the epoch.
    """

    lab: Lab
    tracer: Tracer
    canary: Canary
    layout: RunLayout
    observer: Observer
    keep_as: Path | None = None
    begun_at: float = field(default_factory=time.time)


class ReadyKernel:
    """One kernel, ready for tests.

    Args:
        out: the folder in which each guest gets a folder.
        progress: where the long first steps are told.
        size: how many guests there may be at once.
        take_slot: see `TakeSlot`; by default there is always room.

    Raises:
        UsageError: there is no such kernel.
        HostLacks: this host cannot build or run its guests.
        VmLost: the guest to be saved did not come up.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        progress: Progress,
        *,
        size: int,
        take_slot: TakeSlot | None = None,
    ) -> None:
        kernel = make_bootable(settings, progress)
        self.settings = settings
        self._out = out
        # Several processes may share the folder: each worker of pytest-xdist makes its own kernel ready.
        self._modules = out / f".modules-{os.getpid()}"
        self._size = size
        self._take_slot: TakeSlot = take_slot or (lambda wanted: nullcontext())
        self.image: Image = kernel.image
        self.cache: CacheLayout = kernel.cache.layout
        self.accelerator: AcceleratorVerdict = kernel.accelerator
        self._warm: WarmStart = ensure_warm(kernel.cache, kernel.request, progress=progress)
        self._module_cache = ModuleCache(kernel.cache.layout.modules)
        self._built: dict[ModuleSource, tuple[Module, ...]] = {}
        self._pool: Pool[ReadyGuest] | None = None
        self._numbers = count(1)
        self._building = threading.Lock()
        self._closing = threading.Event()

    def module(self, word: str, places: Iterable[Path], name: str | None, *, livepatch: bool) -> Module:
        """Return the module that a test calls `word`, built once; see `find_module` and `choose`.

        Raises:
            UsageError, BuildFailed, NotALivepatch: there is none, or it cannot be built for this kernel.
        """
        source = find_module(word, places, self.image.kernel)
        with self._building:
            if source not in self._built:
                into = self._modules / f"{self.image.kernel.release}-{len(self._built) + 1}"
                built = build(source, self.image.kernel, into, Silent(), self._module_cache)
                for module in built:
                    check_loadable(module, self.image.kernel)
                self._built[source] = built
        return choose(self._built[source], word, name, livepatch=livepatch)

    @contextmanager
    def lease(self) -> Iterator[ReadyGuest]:
        """Have a guest nobody has used for the length of a block; the next is made ready meanwhile.

        Raises:
            VmLost, HostLacks: none could be started.
        """
        if self._pool is None:
            self._closing.clear()
            self._pool = Pool(self._one, self._size)
            self._pool.__enter__()
        with self._pool.lease() as ready_guest:
            yield ready_guest

    @contextmanager
    def _one(self) -> Iterator[ReadyGuest]:
        """Make a guest ready; its folder is removed after it, or kept under the name it was given."""
        # The process id, for workers of pytest-xdist share the folder; below it, so that what is kept is
        # moved by a rename, within one file system.
        layout = RunLayout(self._out / f".guest-{os.getpid()}-{next(self._numbers)}")
        layout.root.mkdir(parents=True)
        ready_guest: ReadyGuest | None = None
        try:
            with ExitStack() as stack:
                stack.enter_context(self._take_slot(self._check_wanted))
                ready_guest = self._prepare(layout, stack)
                yield ready_guest
        finally:
            # Only now, when QEMU has ended and written all of its files.
            if ready_guest and ready_guest.keep_as:
                layout.root.rename(ready_guest.keep_as)
            else:
                remove_tree(layout.root)

    def _check_wanted(self) -> None:
        if self._closing.is_set():
            raise Interrupted("no further guest is wanted")

    def _prepare(self, layout: RunLayout, stack: ExitStack) -> ReadyGuest:
        lab = stack.enter_context(restored(self._warm, layout))
        store = stack.enter_context(EventStore(layout.events))
        tracer = Tracer(lab.guest, store)
        tracer.follow(self._warm.probes)
        lab.second()  # while the guest still answers: a test may make it deaf to a new connection
        observer = Observer(lab.guest, lab.livepatches, store)
        # The canary last: what a restored kernel logs of itself, such as that it reseeds, is no test's
        # doing.
        return ReadyGuest(lab, tracer, write_canary(lab.guest, "test"), layout, observer)

    def provenance(self, modules: Iterable[Module]) -> Provenance:
        """Return what a test with `modules` ran on."""
        return provenance(self._warm.request, modules, self.accelerator.reason)

    def forget(self) -> None:
        """Remove the modules that were built."""
        self._built.clear()
        remove_tree(self._modules)

    def close(self) -> None:
        """End every guest; a later lease begins anew."""
        if self._pool is not None:
            # Before the pool's end: its thread may be waiting for a slot that another process holds for
            # long.
            self._closing.set()
            self._pool.__exit__(None, None, None)
            self._pool = None
