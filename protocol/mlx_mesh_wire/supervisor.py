"""Talks to the supervisord of a run directory, over its own socket, with the standard library alone."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError

from mlx_mesh_wire.logs import read_tail
from mlx_mesh_wire.worker_command import GUARD, runs, worker_engine

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_MAX_S = 60.0
"""supervisord answers at once, unless it is busy writing to a slow disk."""

TAIL_BYTES = 4096

# Codes of faults, as in supervisor.xmlrpc.Faults.
UNKNOWN_METHOD, SHUTDOWN_STATE, BAD_NAME = 1, 6, 10

NOT_REACHED = 0
"""In the place of such a code: nobody answered."""

NO_PLUGIN = "supervisord does not know {}: its conf has no [rpcinterface:mlx_mesh]; take it from supervisord.conf"


class SupervisorError(Exception):
    """supervisord does not answer, or refuses what it is asked.

    Attributes:
        code: of the fault, as in ``supervisor.xmlrpc.Faults``; ``NOT_REACHED`` if nobody answered.
    """

    def __init__(self, text: str, code: int = NOT_REACHED) -> None:
        super().__init__(text)
        self.code = code

    @property
    def unreachable(self) -> bool:
        """Whether nobody answered; otherwise it was refused."""
        return self.code == NOT_REACHED

    @property
    def stopping(self) -> bool:
        """Whether supervisord refuses everything because it is stopping."""
        return self.code == SHUTDOWN_STATE


def never_started(process: dict[str, Any]) -> bool:
    """Whether a process has been stopped from the beginning: a program that supervisord is not to start by itself."""
    return process["statename"] == "STOPPED" and not process.get("start")


def full_name(process: dict[str, Any]) -> str:
    """Return the name that supervisord takes for a process in any group, ``group:name``."""
    return f"{process['group']}:{process['name']}"


class Supervisor:
    """The supervisord whose socket lies in a run directory.

    Processes are named ``group:name``. Every method but ``pid``, ``processes`` and ``shut_down`` raises
    ``SupervisorError``.

    Args:
        run_dir: the run directory.
        timeout: how long one answer may take, in seconds.
    """

    def __init__(self, run_dir: Path, timeout: float = ANSWER_MAX_S) -> None:
        self.socket = run_dir / "supervisor.sock"
        self._timeout = timeout

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = _UnixTransport(str(self.socket), self._timeout)
        # A connection for each call: to keep one saves a fifth of a millisecond, and nobody would close it.
        try:
            with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport) as proxy:
                return getattr(proxy, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if type(fault.faultCode) is not int or not isinstance(fault.faultString, str):
                raise self._garbled(method) from fault
            raise SupervisorError(_fault_text(method, fault), fault.faultCode) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:
            raise SupervisorError(f"supervisord does not answer at {self.socket}: {error}") from error
        except Exception as error:  # xmlrpc.client lets through whatever an answer that is none brings about
            raise self._garbled(method) from error

    def _maps(self, method: str, *keys: str) -> list[dict[str, Any]]:
        """Return an answer that is a list of maps in which these keys name strings."""
        found = self._call(method)
        if not isinstance(found, list) or not all(isinstance(each, dict) and _named(each, keys) for each in found):
            raise self._garbled(method)
        return found

    def _garbled(self, method: str) -> SupervisorError:
        return SupervisorError(f"what listens at {self.socket} answers {method} as no supervisord does")

    def pid(self) -> int | None:
        """Return the pid of supervisord, None when there is none."""
        try:
            pid = self._call("supervisor.getPID")
        except SupervisorError:
            return None
        return pid if type(pid) is int else None

    def processes(self) -> list[dict[str, Any]]:
        """Return what ``look`` does; empty without a supervisord, and while it is stopping."""
        try:
            return self.look()
        except SupervisorError:
            return []

    def look(self) -> list[dict[str, Any]]:
        """Return what supervisord says of each process.

        Beside supervisord's own (``name``, ``group``, ``statename``, ``pid``, ``start``, ...) there are ``program``,
        ``worker``, ``engine``, ``guard``, ``stand_in``, ``scaled``, ``restarting`` and ``removing``, as
        ``mlx_mesh.processes`` tells them. From a supervisord without that they are told as far as possible.
        """
        try:
            return self._maps("mlx_mesh.processes", *_PROCESS)
        except SupervisorError as error:
            if error.code != UNKNOWN_METHOD:
                raise
        found = self._maps("supervisor.getAllProcessInfo", *_PROCESS)
        described = self._maps("supervisor.getAllConfigInfo", "group", "name", "command")
        commands = {(config["group"], config["name"]): config["command"] for config in described}
        return [_without_plugin(process, commands.get((process["group"], process["name"]), "")) for process in found]

    def groups(self) -> list[dict[str, Any]]:
        """Return ``group``, ``program``, ``worker``, ``engine``, ``numprocs``, ``processes`` (names) by program."""
        return self._maps("mlx_mesh.groups", "group", "program")

    def start(self, name: str) -> None:
        """Start a process; do not wait for it."""
        self._call("supervisor.startProcess", name, False)

    def stop(self, name: str) -> None:
        """Stop a process, a worker drains; do not wait for it."""
        self._call("supervisor.stopProcess", name, False)

    def restart(self, name: str, *, hurry: bool = False) -> None:
        """Have a process stopped, and started again by supervisord once it has ended; do not wait for it.

        Args:
            name: of the process.
            hurry: a worker hands back what it holds and leaves at once, instead of draining.
        """
        self._call("mlx_mesh.restart", name, hurry)

    def signal(self, name: str, number: str) -> None:
        """Send a signal, named as ``USR1``, to a process."""
        self._call("supervisor.signalProcess", name, number)

    def add(self, group: str, program: str = "", *, stand_in: bool = False) -> str:
        """Start one more process of a program and return its name.

        Args:
            group: that it belongs to.
            program: may be empty if the group has one only.
            stand_in: it is there for a while only.
        """
        return str(self._call("mlx_mesh.add", group, program, stand_in))

    def remove(self, name: str) -> None:
        """Have a process stopped, a worker drains, and taken out of its group; do not wait for it."""
        self._call("mlx_mesh.remove", name)

    def log_tail(self, name: str, size: int = TAIL_BYTES) -> str:
        """Return the last bytes of a process's log as text; empty if it has none yet.

        Read from the file: over XML-RPC supervisord fails where a character is cut, or is none.
        """
        return read_tail(log_of(self._call("supervisor.getProcessInfo", name), self.socket.parent), size)

    def shut_down(self) -> None:
        """Ask supervisord to stop everything and then itself; returns at once. Nothing happens without one."""
        try:
            self._call("supervisor.shutdown")
        except SupervisorError:
            return


_PROCESS = ("group", "name", "statename")
"""What every process has, as strings."""


def _named(each: dict[str, Any], keys: tuple[str, ...]) -> bool:
    return all(isinstance(each.get(key), str) for key in keys)


def log_of(process: dict[str, Any], run_dir: Path) -> Path:
    """Return the path of a process's log: of its output, or where that goes to no file, of its errors."""
    return run_dir / str(process["stdout_logfile"] or process["stderr_logfile"])


def _fault_text(method: str, fault: xmlrpc.client.Fault) -> str:
    if fault.faultCode == UNKNOWN_METHOD and method.startswith("mlx_mesh."):
        return NO_PLUGIN.format(method)
    name, _, text = fault.faultString.partition(": ")
    if text and method.startswith("mlx_mesh."):
        return text
    return ": ".join(filter(None, (name.lower().replace("_", " "), text)))  # supervisord's own names no more than that


def _without_plugin(process: dict[str, Any], command: str) -> dict[str, Any]:
    engine = worker_engine(command)
    command_says = {"worker": engine is not None, "engine": engine or "", "guard": runs(command, GUARD)}
    added = dict.fromkeys(("stand_in", "scaled", "restarting", "removing"), False)
    return {**process, "program": "", **command_says, **added}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
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
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path, self._timeout)
        self._connection = host, connection  # so that closing the proxy closes it
        return connection
