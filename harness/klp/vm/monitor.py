# SPDX-License-Identifier: Apache-2.0
"""QMP, QEMU's own protocol: the only module that imports qemu.qmp.

The package is asynchronous; `Monitor` is a small synchronous face over one client in one thread with one
event loop. (qemu.qmp.legacy, synchronous as well, is to be removed, and is GPL-2.0-only.) Time limits live
inside the loop: cancelling a call from outside lets a later disconnect overlap the unwinding, which trips
an assertion in qemu.qmp 0.0.6.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from klp.errors import QemuGone

T = TypeVar("T")
log = logging.getLogger(__name__)


class CommandRefused(QemuGone):
    """QEMU is there, and refused a command."""


class Monitor:
    """A QMP connection over our end of a socket pair whose other end QEMU inherited.

    With a socket pair there is no path to collide or to leave behind, and no moment at which QEMU
    listens already or not yet.
    """

    def __init__(self, end: socket.socket, *, launch_s: float, command_s: float) -> None:
        self._command_s = command_s
        self._client = QMPClient("klp")
        # QEMU's greeting is awaited here; capability negotiation follows.
        self._loop, self._thread = _loop_in_a_thread()
        try:
            self._call(self._client.connect(end), launch_s, "greeting")
        except BaseException:
            self._stop_loop()
            end.close()
            raise

    def _call(self, work: Coroutine[Any, Any, T], limit_s: float, what: str) -> T:
        async def bounded() -> T:
            return await asyncio.wait_for(work, limit_s)

        try:
            return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()
        except TimeoutError:
            raise QemuGone(f"QMP: no answer to {what} within {limit_s:g} s") from None
        except ConnectError as error:
            raise QemuGone(f"QMP: {error.exc or type(error.exc).__name__}") from error
        except ExecuteError as error:
            raise CommandRefused(f"QMP: {what}: {error}") from error
        except (QMPError, EOFError, OSError) as error:  # OSError: a killed QEMU resets the socket
            raise QemuGone(f"QMP: {what}: QEMU went away ({error})") from error

    def execute(self, command: str, **arguments: object) -> object:
        """Run one QMP command and return what it returns.

        Raises:
            CommandRefused: QEMU said no.
            QemuGone: QEMU ended, or did not answer in time.
        """
        return self._call(self._client.execute(command, arguments), self._command_s, command)

    def send_file(self, name: str, descriptor: int) -> None:
        """Hand QEMU an open file, which later commands call `name`.

        QEMU could run `cat` for us as well (``exec:``), but its sandbox forbids it to start programs.

        Raises:
            QemuGone: QEMU ended, or did not answer in time.
        """

        # `getfd` takes the descriptor that came over the socket before it: so the two are sent in one go.
        async def send() -> object:
            self._client.send_fd_scm(descriptor)
            return await self._client.execute("getfd", {"fdname": name})

        self._call(send(), self._command_s, "getfd")

    def human(self, line: str) -> str:
        """Run one line of the human monitor, for what QMP has no command for."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def close(self) -> None:
        """Disconnect and stop the thread; QEMU having gone first is no error here."""
        try:
            self._call(self._client.disconnect(), self._command_s, "disconnect")
        except QemuGone as error:
            log.debug("closing the monitor: %s", error)
        finally:
            self._stop_loop()

    def _stop_loop(self) -> None:
        """End the thread; first what an interrupted call left unfinished, or asyncio would complain."""

        async def cancel_all() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=self._command_s)

        asyncio.run_coroutine_threadsafe(cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _loop_in_a_thread() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """Return an event loop that runs, and its thread.

    The thread makes and closes it: Ctrl-C strikes the main thread only, and would leave half a loop there.
    """
    made: Future[asyncio.AbstractEventLoop] = Future()

    def run() -> None:
        loop = asyncio.new_event_loop()
        made.set_result(loop)
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=run, name="qmp", daemon=True)
    thread.start()
    return made.result(), thread
