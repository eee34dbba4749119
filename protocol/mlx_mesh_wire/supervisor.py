"""Talks to the supervisord of a run directory, over its own socket, with the standard library alone."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_MAX_S = 60.0
"""supervisord answers at once, unless it is busy writing to a slow disk."""


def never_started(process: dict[str, Any]) -> bool:
    """Whether a process has been stopped from the beginning: a program that supervisord is not to start by itself."""
    return process["statename"] == "STOPPED" and not process["start"]


class Supervisor:
    """The supervisord whose socket lies in a run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.socket = run_dir / "supervisor.sock"

    def _call(self, method: str, *arguments: Any) -> Any:
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_UnixTransport(str(self.socket)))
        with proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def pid(self) -> int | None:
        """Return the pid of supervisord, None when there is none."""
        try:
            return int(self._call("getPID"))
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return None

    def processes(self) -> list[dict[str, Any]]:
        """Return what supervisord says of each process (``name``, ``statename``, ``pid``, ...); empty without one."""
        try:
            return list(self._call("getAllProcessInfo"))
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return []

    def shut_down(self) -> None:
        """Ask supervisord to stop everything and then itself; returns at once. Nothing happens without one."""
        try:
            self._call("shutdown")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_MAX_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # so that closing the proxy closes it
        return connection
