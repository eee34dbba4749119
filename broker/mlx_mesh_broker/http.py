"""``/metrics``, ``/healthz`` and ``/readyz`` on loopback, from a thread that never touches the broker's state."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

from mlx_mesh_wire.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_broker.snapshot import Snapshot

HOST = "127.0.0.1"
SNAPSHOT_TIMEOUT_S = 5.0
"""A loop that does not answer for this long is not healthy."""

CONNECTIONS_MAX = 64
"""Connections served at once, a thread each; further ones are closed, so that slow ones cannot pile up."""

PAUSE_S = 0.02
"""Between two connections: each takes some milliseconds of the one interpreter that requests are served by."""


class Monitor:
    """The HTTP server.

    Args:
        port: where to listen; 0 for a free port.
        snapshot: asks the broker's loop for a snapshot, waiting at most so many seconds; None if it did not answer.
    """

    def __init__(self, port: int, snapshot: Callable[[float], Snapshot | None]) -> None:
        # In the midst of work the loop would wait for the interpreter while a thread imports this.
        importlib.import_module("mlx_mesh_broker.exporter")
        handler = type("Handler", (_Handler,), {"snapshot": staticmethod(snapshot)})
        self._server = _Server((HOST, port), handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def process_request(self, request: Any, client_address: Any) -> None:
        time.sleep(PAUSE_S)
        if threading.active_count() > CONNECTIONS_MAX:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went before it had its answer is not worth a stack in the log."""
        log("debug", "scrape_failed", reason=repr(sys.exception()))


class _Handler(BaseHTTPRequestHandler):
    snapshot: ClassVar[Callable[[float], Snapshot | None]]
    timeout = 10
    """Seconds that a connection may be idle, so that scrapers cannot pile up threads."""

    def do_GET(self) -> None:
        routes = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        route = routes.get(self.path.partition("?")[0])
        if route is None:
            self._send(404, "text/plain", b"there are /metrics, /healthz and /readyz\n")
            return
        snapshot = type(self).snapshot(SNAPSHOT_TIMEOUT_S)
        if snapshot is None:
            self._send(503, "text/plain", b"the broker's loop does not answer\n")
        else:
            route(snapshot)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that http.server calls it by
        """Scrapes are not worth a log line."""

    def _metrics(self, snapshot: Snapshot) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        from mlx_mesh_broker.exporter import collect

        class Collector:
            def collect(self) -> object:
                return collect(snapshot)

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector())  # type: ignore[arg-type]
        encoder, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._send(200, content_type, encoder(registry))

    def _healthz(self, snapshot: Snapshot) -> None:
        self._send(200, "text/plain", b"ok\n")

    def _readyz(self, snapshot: Snapshot) -> None:
        states = [worker["state"] for worker in snapshot.status["workers"]]
        if "ready" in states:
            self._send(200, "text/plain", f"ok: {states.count('ready')} of {len(states)} workers ready\n".encode())
        else:
            self._send(503, "text/plain", f"no worker is ready ({len(states)} connected)\n".encode())

    def _send(self, code: int, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
