"""What a worker's session decides to do; the shell does these in order, and hands those of the runner on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlx_mesh_worker.runner import Admit, Cancel, Trim, Withdraw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_wire import messages
    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.messages import Message


class Send(NamedTuple):
    """Send a message to the broker."""

    message: Message
    frames: Sequence[Frame]


class Reconnect(NamedTuple):
    """Throw the connection away and make a new one, then call ``connected``."""


class Leave(NamedTuple):
    """Everything is done: close and exit."""


class Renamed(NamedTuple):
    """Jobs have other ids than before: the flight recorder is to know."""


class Told(NamedTuple):
    """The broker complains of this worker or sends it away: an operator should know."""

    message: messages.Error | messages.Bye


class Dump(NamedTuple):
    """The broker finds that this worker does not advance: write where each thread is."""

    reason: str


Action = Send | Reconnect | Leave | Renamed | Told | Dump | Admit | Cancel | Withdraw | Trim
