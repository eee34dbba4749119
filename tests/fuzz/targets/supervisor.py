"""Whatever a supervisord's socket answers, each question to it has an answer of the promised form or is a
SupervisorError.
"""

from __future__ import annotations

import io
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_mesh_wire import supervisor as module
from mlx_mesh_wire.supervisor import Supervisor, SupervisorError, full_name, never_started

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
PROCESS = {"name": "n", "group": "g", "statename": "RUNNING", "start": 1, "pid": 5, "worker": True, "engine": "echo"}


class Answer:
    """Stands for a socket that answers everything with the same bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def sendall(self, data: Any) -> None: ...

    def makefile(self, mode: str, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)

    def close(self) -> None: ...


class _Connection(module._UnixConnection):
    answer = b""

    def connect(self) -> None:
        self.sock: Any = Answer(self.answer)


def one(data: bytes) -> int:
    which, rest = (data[:1] or b"\0")[0], data[1:]
    _Connection.answer = rest if which % 4 == 0 else HEAD % len(rest) + rest
    real = module._UnixConnection
    module._UnixConnection = _Connection  # type: ignore[misc]
    try:
        _ask(Supervisor(Path("run")))
    finally:
        module._UnixConnection = real  # type: ignore[misc]
    return 1


def _ask(supervisor: Supervisor) -> None:
    pid = supervisor.pid()
    assert pid is None or type(pid) is int
    for process in supervisor.processes():
        assert isinstance(full_name(process), str)
        assert isinstance(never_started(process), bool)
    for ask in (supervisor.groups, lambda: supervisor.add("g"), lambda: supervisor.start("g:n")):
        try:
            ask()
        except SupervisorError as error:
            assert type(error.code) is int


def seeds() -> Iterator[bytes]:
    for value in (5, "x", [PROCESS], [], True, [{"group": "g", "program": "p", "processes": ["a"]}], {"a": 1.5}):
        text = xmlrpc.client.dumps((value,), methodresponse=True).encode()
        yield b"\1" + text
        yield b"\0" + HEAD % len(text) + text
    yield b"\1" + xmlrpc.client.dumps(xmlrpc.client.Fault(1, "UNKNOWN_METHOD"), methodresponse=True).encode()
    yield b"\0HTTP/1.1 401 no\r\nContent-Encoding: gzip\r\n\r\n"
