"""What the broker decides to do. ``Broker.handle`` returns these; the shell carries them out in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.messages import Message


class ToClient(NamedTuple):
    """Send a message on the frontend."""

    route: bytes
    message: Message
    frames: Sequence[Frame]


class ToWorker(NamedTuple):
    """Send a message on the backend."""

    route: bytes
    message: Message
    frames: Sequence[bytes]


class Watch(NamedTuple):
    """Watch the process of a worker, if it is on this machine; report its end as ProcessExited."""

    instance: bytes
    machine: str
    pid: int
    pid_start: int


class Unwatch(NamedTuple):
    """The worker is gone; stop watching."""

    instance: bytes


class Log(NamedTuple):
    """One log line: ``level`` (debug, info, warning, error), an event name in snake_case, and its fields."""

    level: str
    event: str
    fields: Mapping[str, Any]


Action = ToClient | ToWorker | Watch | Unwatch | Log
