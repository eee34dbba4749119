"""Operators' commands on the control socket."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.events import Drain, PidExited
from mlx_mesh_wire import InvalidRequestError, MeshError, limits, pack_body, unpack_body
from mlx_mesh_wire.messages import Command, Error, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.broker import Broker
    from mlx_mesh_broker.core.events import Event
    from mlx_mesh_broker.settings import BrokerSettings
    from mlx_mesh_wire.messages import Message

Reply = tuple["Message", "Sequence[bytes | memoryview]"]


class Control:
    """Turns a COMMAND into an answer.

    Args:
        core: asked for its status.
        settings: shown by ``config``.
        feed: hands an event to the core and carries out what it decides.
        running_of: job ids in the flight recorder of a local worker with this pid.
    """

    def __init__(
        self,
        core: Broker,
        settings: BrokerSettings,
        feed: Callable[[Event], None],
        running_of: Callable[[int], frozenset[int] | None],
    ) -> None:
        self._core = core
        self._settings = settings
        self._feed = feed
        self._running_of = running_of
        self._commands: dict[str, Callable[[float, dict[str, Any]], Any]] = {
            "status": self._status,
            "drain": self._drain,
            "exited": self._exited,
            "config": self._config,
            "ping": self._ping,
        }

    def answer(self, now: float, command: Command, frames: Sequence[bytes]) -> Reply:
        """Carry out a command and return its FINAL or ERROR."""
        try:
            run = self._commands.get(command.name)
            if run is None:
                allowed = ", ".join(self._commands)
                raise InvalidRequestError(f"command {command.name!r} does not exist; allowed are {allowed}")
            args = unpack_body(frames) if frames else {}
            if not isinstance(args, dict):
                raise InvalidRequestError("arguments must be a map", details={"field": "body"})
            return Final(command.id, 1, 0, 0, 0), pack_body(run(now, args))
        except MeshError as error:
            details = pack_body(error.details)
            text = error.message[: limits.ERROR_MESSAGE_MAX_CHARS]
            return Error(command.id, error.code, text, error.retryable, error.retry_after_ms), details

    def _status(self, now: float, args: dict[str, Any]) -> Any:
        return self._core.status(now)

    def _drain(self, now: float, args: dict[str, Any]) -> Any:
        name, on = args.get("name"), args.get("on", True)
        if not isinstance(name, str) or not isinstance(on, bool):
            raise InvalidRequestError("drain needs name (a string) and on (a boolean)", details={"field": "name"})
        workers = [worker["name"] for worker in self._core.status(now)["workers"]]
        if name != "*" and name not in workers:
            there = ", ".join(workers) or "none"
            raise InvalidRequestError(f"no worker is called {name!r}; there are: {there}", details={"field": "name"})
        self._feed(Drain(name, on))
        return [worker for worker in self._core.status(now)["workers"] if name in ("*", worker["name"])]

    def _exited(self, now: float, args: dict[str, Any]) -> Any:
        pid = args.get("pid")
        if type(pid) is not int or pid < 1:
            raise InvalidRequestError(f"pid is {pid!r}, must be a positive integer", details={"field": "pid"})
        self._feed(PidExited(pid, self._running_of(pid)))
        return None

    def _config(self, now: float, args: dict[str, Any]) -> Any:
        return dataclasses.asdict(self._settings)

    def _ping(self, now: float, args: dict[str, Any]) -> Any:
        return {"epoch": self._core.status(now)["epoch"]}
