"""What listens on supervisord's socket may be something else; whatever it answers is an answer or a SupervisorError."""

from __future__ import annotations

import io
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_wire import supervisor as module
from mlx_mesh_wire.supervisor import Supervisor, SupervisorError

FAULT = "<methodResponse><fault><value>{}</value></fault></methodResponse>"


class Socket:
    """Answers everything with the same body."""

    def __init__(self, body: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def sendall(self, data: Any) -> None: ...

    def makefile(self, mode: str, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._answer)

    def close(self) -> None: ...


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    def answer(body: bytes) -> Supervisor:
        def connect(self: Any) -> None:
            self.sock = Socket(body)

        monkeypatch.setattr(module._UnixConnection, "connect", connect)
        return Supervisor(Path("run"))

    return answer


def encoded(value: Any) -> bytes:
    return xmlrpc.client.dumps((value,), methodresponse=True).encode()


def test_a_pid_is_a_number(answers: Any) -> None:
    assert 5 == answers(encoded(5)).pid()
    assert answers(encoded("5")).pid() is None


@pytest.mark.parametrize(
    "value", [5, "x", {"a": 1}, [1], [{"name": "n"}], [{"name": "n", "group": 1, "statename": "x"}]]
)
def test_processes_that_are_no_list_of_named_ones_are_refused(answers: Any, value: Any) -> None:
    with pytest.raises(SupervisorError, match=r"supervisor\.sock answers mlx_mesh\.processes as no supervisord does"):
        answers(encoded(value)).look()


def test_groups_that_are_no_list_of_named_ones_are_refused(answers: Any) -> None:
    with pytest.raises(SupervisorError):
        answers(encoded([{"group": "g"}])).groups()
    assert [{"group": "g", "program": "p"}] == answers(encoded([{"group": "g", "program": "p"}])).groups()


@pytest.mark.parametrize(
    "body",
    [
        FAULT.format("<int>1</int>").encode(),
        FAULT.format(
            "<struct><member><name>faultCode</name><value>x</value></member>"
            "<member><name>faultString</name><value><int>1</int></value></member></struct>"
        ).encode(),
        b"<methodResponse><params><param><value><int></int></value></param></params></methodResponse>",
        b"<methodResponse></methodResponse>",
        b"",
        b"\xff",
    ],
)
def test_what_is_no_answer_is_a_supervisor_error(answers: Any, body: bytes) -> None:
    with pytest.raises(SupervisorError) as raised:
        answers(body).start("g:n")
    assert raised.value.unreachable
