"""Whatever an operator or a guard sends as a command, a broker answers with FINAL or ERROR under its id, and stays free
of contradictions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mlx_mesh_broker.control import Control
from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_broker.settings import BrokerSettings
from mlx_mesh_wire import encode_header, messages, pack_body, unpack_body
from mlx_mesh_wire.guard_report import GuardReport, parse_report
from tests.fuzz import scripts

NAMES = ("status", "drain", "exited", "trim", "guard", "config", "ping", "nothing", "guard", "guard")
NOW = 100.0
REPORT = {
    **GuardReport(1, 1.0, 0.5, "calm", "", 0.0, [], {"psi": 1.0}, [], [], [], {"trims": 1}, {}, ["x"]).as_map(),
    "limits": [{"source": "ram", "used": 1, "limit": 2}],
    "workers": [{"name": "w", "bytes": 1, "baseline": 1, "slope": 0.0, "leaking": False}],
    "recycles": [{"name": "w", "phase": "drain", "reason": "leak", "since_s": 1.0}],
    "troubled": [{"name": "w", "group": "g", "state": "FATAL", "reason": "r", "since_s": 1.0, "retry_s": -1}],
}


class Desk:
    """A broker with one worker and its control socket's commands."""

    def __init__(self) -> None:
        self.core = Broker(Config(), "epoch-1", NOW, "here")
        self.ended: list[bytes] = []
        self._control = Control(self.core, BrokerSettings(), self.feed, self.ended.append)
        instance = scripts.SESSIONS[0]
        ready = messages.Ready(
            1, 0, instance, "w", "h", "here", 2**31 - 1, 7, ["echo"], [], [], 2, 0, {"mlx_mesh": "1"}, 0
        )
        self.feed(events.FromWorker(b"w", ready, ()))

    def feed(self, event: events.Event) -> None:
        self.core.handle(NOW, event)

    def ask(self, name: str, frames: list[bytes]) -> None:
        message, body = self._control.answer(NOW, messages.Command(7, name), frames)
        encode_header(message)
        assert isinstance(message, messages.Final | messages.Error)
        assert message.id == 7
        value: Any = unpack_body(body)
        if name == "guard" and isinstance(message, messages.Final):
            report = parse_report(unpack_body(frames)["report"])
            assert report == parse_report(report.as_map())
            assert "workers" in value


def one(data: bytes) -> int:
    which, body = (data[:1] or b"\0")[0], data[1:]
    desk = Desk()
    desk.ask(NAMES[which % len(NAMES)], [body] if body else [])
    desk.core.status(NOW)
    desk.core.check_invariants()
    return 1


def seeds() -> Iterator[bytes]:
    for number, arguments in (
        (1, {"name": "w", "on": True, "by": "guard", "pid": 5}),
        (2, {"pid": 2**31 - 1}),
        (3, {"name": "*", "level": 2}),
        (4, {"pause": "bulk", "report": REPORT}),
        (4, {"pause": "", "report": json.loads(json.dumps(REPORT))}),
        (5, {}),
    ):
        yield bytes([number]) + bytes(pack_body(arguments)[0])
