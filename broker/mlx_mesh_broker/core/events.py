"""What can happen to the broker. The shell makes these; ``Broker.handle`` takes them.

``route`` is the ZeroMQ routing id of a connection, ``frames`` the body and the buffers behind a header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_broker.core.quotas import Holder
    from mlx_mesh_wire.bundle import Mail
    from mlx_mesh_wire.guard_report import GuardReport
    from mlx_mesh_wire.messages import Message


class FromClient(NamedTuple):
    """A message arrived on the frontend.

    ``holder`` is who sent it as the authorised keys are now, STRANGER if they have no such key; None where there are
    no keys.
    """

    route: bytes
    message: Message
    frames: Sequence[bytes]
    holder: Holder | None = None


class FromWorker(NamedTuple):
    """A message arrived on the backend; ``holder`` as for a client."""

    route: bytes
    message: Message
    frames: Sequence[bytes]
    holder: Holder | None = None


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


class Wakeup(NamedTuple):
    """The time that ``next_wakeup`` named has come."""


class HeldUp(NamedTuple):
    """The broker itself did not run for ``seconds``; silence in that time is nobody's fault."""

    seconds: float


class Drain(NamedTuple):
    """Somebody wants the workers with this name (or every one, for ``*``) drained, or back (``on`` false).

    ``by`` is ``operator`` or ``guard``; with a ``pid`` only the worker of this machine that has it is meant.
    """

    name: str
    on: bool
    by: str = "operator"
    pid: int = 0


class TrimWorkers(NamedTuple):
    """The local workers with this name (or every one, for ``*``) are to give memory back; ``level`` as in TRIM."""

    name: str
    level: int


class Revoked(NamedTuple):
    """The key of this holder is not authorised any more: its sessions end, its workers' jobs run elsewhere."""

    name: str


class GuardTold(NamedTuple):
    """The guard of this machine told how it stands.

    Until it tells otherwise, or nothing for a while, new work of the lane ``pause`` and of those below it waits for
    other machines; an empty ``pause`` stops nothing.
    """

    report: GuardReport
    pause: str


Event = (
    FromClient
    | FromWorker
    | BadClientMessage
    | BadWorkerMessage
    | ClientUnreachable
    | ClientClogged
    | WorkerUnreachable
    | ProcessExited
    | Wakeup
    | HeldUp
    | Drain
    | TrimWorkers
    | GuardTold
    | Revoked
)
