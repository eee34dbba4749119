"""What can happen to the broker. The shell makes these; ``Broker.handle`` takes them.

``route`` is the ZeroMQ routing id of a connection, ``frames`` the body and the buffers behind a header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_wire.bundle import Mail
    from mlx_mesh_wire.messages import Message


class FromClient(NamedTuple):
    """A message arrived on the frontend."""

    route: bytes
    message: Message
    frames: Sequence[bytes]


class FromWorker(NamedTuple):
    """A message arrived on the backend."""

    route: bytes
    message: Message
    frames: Sequence[bytes]


class BadClientMessage(NamedTuple):
    """A message on the frontend was malformed; ``request_id`` is 0 unless it could still be read."""

    route: bytes
    reason: str
    request_id: int
    code: str


class BadWorkerMessage(NamedTuple):
    """A message on the backend was malformed."""

    route: bytes
    reason: str


class ClientUnreachable(NamedTuple):
    """A send to a client failed because its connection is gone; ``unsent`` holds each message with its frames."""

    route: bytes
    unsent: Sequence[Mail]


class ClientClogged(NamedTuple):
    """What waits to be sent to a client went over its bound."""

    route: bytes


class WorkerUnreachable(NamedTuple):
    """A send to a worker failed because its connection is gone."""

    route: bytes


class ProcessExited(NamedTuple):
    """The process of a worker ended.

    ``running`` holds the job ids of the step that it was computing, read from its flight recorder;
    None when there is no record, in which case every job that it held may have been running.
    """

    instance: bytes
    running: frozenset[int] | None


class PidExited(NamedTuple):
    """A supervisor says that the process with this pid, on this machine, ended."""

    pid: int
    running: frozenset[int] | None


class Wakeup(NamedTuple):
    """The time that ``next_wakeup`` named has come."""


class HeldUp(NamedTuple):
    """The broker itself did not run for ``seconds``; silence in that time is nobody's fault."""

    seconds: float


class Drain(NamedTuple):
    """An operator wants the workers with this name (or every one, for ``*``) drained, or back (``on`` false)."""

    name: str
    on: bool


Event = (
    FromClient
    | FromWorker
    | BadClientMessage
    | BadWorkerMessage
    | ClientUnreachable
    | ClientClogged
    | WorkerUnreachable
    | ProcessExited
    | PidExited
    | Wakeup
    | HeldUp
    | Drain
)
