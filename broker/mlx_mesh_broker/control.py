"""Operators' commands on the control socket."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.events import Drain, GuardTold, TrimWorkers
from mlx_mesh_broker.core.liveness import GUARD, OPERATOR
from mlx_mesh_wire import InvalidRequestError, MeshError, limits, pack_body, unpack_body
from mlx_mesh_wire.fields import RANGES
from mlx_mesh_wire.guard_report import PAUSES, parse_report
from mlx_mesh_wire.host import process_start
from mlx_mesh_wire.messages import Command, Error, Final, Trim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.broker import Broker
    from mlx_mesh_broker.core.events import Event
    from mlx_mesh_broker.settings import BrokerSettings
    from mlx_mesh_wire.messages import Message

Reply = tuple["Message", "Sequence[bytes | memoryview]"]


def _named(name: str, workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the workers with a name, or all for ``*``.

    Raises:
        InvalidRequestError: none has it.
    """
    found = [worker for worker in workers if name in ("*", worker["name"])]
    if not found and name != "*":
        there = ", ".join(worker["name"] for worker in workers) or "none"
        raise InvalidRequestError(f"no worker is called {name!r}; there are: {there}", details={"field": "name"})
    return found


class Control:
    """Turns a COMMAND into an answer.

    Args:
        core: asked for its status.
        settings: shown by ``config``.
        feed: hands an event to the core and carries out what it decides.
        ended: tells the core that the process of a worker, given by its instance, has ended.
    """

    def __init__(
        self,
        core: Broker,
        settings: BrokerSettings,
        feed: Callable[[Event], None],
        ended: Callable[[bytes], None],
    ) -> None:
        self._core = core
        self._settings = settings
        self._feed = feed
        self._ended = ended
        self._commands: dict[str, Callable[[float, dict[str, Any]], Any]] = {
            "status": self._status,
            "drain": self._drain,
            "exited": self._exited,
            "trim": self._trim,
            "guard": self._guard,
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
        name, on, by, pid = args.get("name"), args.get("on", True), args.get("by", OPERATOR), args.get("pid", 0)
        if not isinstance(name, str) or not isinstance(on, bool):
            raise InvalidRequestError("drain needs name (a string) and on (a boolean)", details={"field": "name"})
        if by not in (OPERATOR, GUARD):
            raise InvalidRequestError(f"by is {by!r}, must be {OPERATOR!r} or {GUARD!r}", details={"field": "by"})
        if type(pid) is not int or pid < 0:
            raise InvalidRequestError(f"pid is {pid!r}, must be an integer of at least 0", details={"field": "pid"})
        _named(name, self._core.status(now)["workers"])
        self._feed(Drain(name, on, by, pid))
        return _named(name, self._core.status(now)["workers"])

    def _trim(self, now: float, args: dict[str, Any]) -> Any:
        name, level = args.get("name"), args.get("level")
        if not isinstance(name, str):
            raise InvalidRequestError("trim needs name (a string)", details={"field": "name"})
        low, high = RANGES[Trim]["level"]
        if type(level) is not int or not low <= level <= high:
            text = f"level is {level!r}, must be an integer from {low} to {high}"
            raise InvalidRequestError(text, details={"field": "level"})
        local = [worker for worker in self._core.status(now)["workers"] if not worker["remote"]]
        told = _named(name, local)
        self._feed(TrimWorkers(name, level))
        return len(told)

    def _guard(self, now: float, args: dict[str, Any]) -> Any:
        pause = args.get("pause")
        if pause not in PAUSES:
            allowed = ", ".join(map(repr, PAUSES))
            raise InvalidRequestError(f"pause is {pause!r}, must be one of {allowed}", details={"field": "pause"})
        self._feed(GuardTold(parse_report(args.get("report")), pause))
        status = self._core.status(now)
        return {name: status[name] for name in ("epoch", "uptime_s", "workers")}

    def _exited(self, now: float, args: dict[str, Any]) -> Any:
        pid = args.get("pid")
        if type(pid) is not int or pid < 1:
            raise InvalidRequestError(f"pid is {pid!r}, must be a positive integer", details={"field": "pid"})
        start = process_start(pid)
        processes = self._core.processes_of(pid)
        ended = [instance for instance, told in processes if not told or told != start]
        if processes and not ended:
            raise InvalidRequestError(f"pid {pid} is a worker that is alive", details={"field": "pid"})
        for instance in ended:
            self._ended(instance)
        return None

    def _config(self, now: float, args: dict[str, Any]) -> Any:
        return dataclasses.asdict(self._settings)

    def _ping(self, now: float, args: dict[str, Any]) -> Any:
        return {"epoch": self._core.status(now)["epoch"]}
