# SPDX-License-Identifier: Apache-2.0
"""Workers of pytest-xdist that want the same kernel: one makes it and tells of it, the others wait."""

from __future__ import annotations

import threading

import filelock

from klp.testing import session
from klp.testing.session import Session, Sharing

_PATIENCE_S = 60


class Told:
    """A worker's progress, of which only notes count."""

    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def test_what_two_workers_wait_for_is_told_once(tmp_path, monkeypatch):
    kept, asked, inside = set(), [], threading.Event()
    two = threading.Event()

    class Counted(filelock.FileLock):
        def acquire(self, *args, **kwargs):
            asked.append(self)
            if len(asked) == 2:
                two.set()
            return super().acquire(*args, **kwargs)

    class Kernel:
        """Is made by the first that asks, which takes until the second has asked as well."""

        def __init__(self, settings, out, progress, *, size, take_slot):
            if settings.kernel in kept:
                return
            progress.note(f"a guest of {settings.kernel}")
            inside.set()
            assert two.wait(_PATIENCE_S), "the second did not ask whether another makes it"
            kept.add(settings.kernel)

    monkeypatch.setattr(session, "FileLock", Counted)
    monkeypatch.setattr(session, "ReadyKernel", Kernel)
    told = [Told(), Told()]
    shared = Sharing(2, tmp_path / "slots")
    shared.folder.mkdir()
    sessions = [Session(tmp_path / "out", "now", each, shared) for each in told]
    first = threading.Thread(target=lambda: sessions[0].ready_kernel("6.12"))
    first.start()
    assert inside.wait(_PATIENCE_S)
    sessions[1].ready_kernel("6.12")
    first.join()
    assert [each.lines for each in told] == [["a guest of 6.12"], []]
    assert sessions[1].ready_kernel("6.12") is sessions[1].ready_kernel("6.12")
