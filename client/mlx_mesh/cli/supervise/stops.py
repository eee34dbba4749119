"""Makes ``supervisorctl stop`` win over a restart that is under way.

supervisord refuses to stop what is stopping already, and leaves it out where a whole group is stopped. With a restart
promised for it, that process would come back right after the stop; so a stop calls the promise off and waits for the
process like for any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.http import NOT_DONE_YET  # type: ignore[import-untyped]
from supervisor.options import make_namespec  # type: ignore[import-untyped]
from supervisor.rpcinterface import make_allfunc  # type: ignore[import-untyped]
from supervisor.states import RUNNING_STATES, STOPPED_STATES, ProcessStates  # type: ignore[import-untyped]
from supervisor.xmlrpc import supervisor_xmlrpc_handler  # type: ignore[import-untyped]

from mlx_mesh.cli.supervise.leaving import START, call_off, promised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OFTEN_S, ALWAYS_S = 0.05, 0
"""How long supervisord waits before it asks again whether all, or one, have stopped; its own values."""


class Stops:
    """The stops of supervisord's own namespace, under the names that they have there.

    Args:
        namespace: supervisord's own, whose methods these take the place of.
    """

    def __init__(self, namespace: Any) -> None:
        self._groups = namespace.supervisord.process_groups
        self._stop_one = namespace.stopProcess
        self._stop_group = namespace.stopProcessGroup
        self._namespace = namespace

    def stopProcess(self, name: str, wait: bool = True) -> Any:  # noqa: N802  supervisord's
        """Stop a process; one that is restarting stays stopped."""
        for group, process in self._all():
            if name in _names(group, process) and promised(process) == START:
                call_off(process)
                return _until_stopped(process, self._namespace) if wait else True
        return self._stop_one(name, wait)

    def stopProcessGroup(self, name: str, wait: bool = True) -> Any:  # noqa: N802
        """Stop all processes of a group; those that are restarting stay stopped."""
        if name not in self._groups:
            return self._stop_group(name, wait)
        return self._stop(_sorted(self._groups[name]), wait=wait)

    def stopAllProcesses(self, wait: bool = True) -> Any:  # noqa: N802
        """Stop all processes; those that are restarting stay stopped."""
        return self._stop([process for group in sorted(self._groups.values()) for process in _sorted(group)], wait=wait)

    def _stop(self, processes: list[Any], *, wait: bool) -> Any:
        pairs = [(process.group, process) for process in processes]
        stop_all = make_allfunc(pairs, _can_stop, self._stop_or_wait, wait=wait)
        stop_all.delay = OFTEN_S
        stop_all.rpcinterface = self._namespace
        return stop_all

    def _stop_or_wait(self, name: str, wait: bool) -> Any:
        for group, process in self._all():
            if name in _names(group, process) and process.get_state() == ProcessStates.STOPPING:
                if promised(process) == START:
                    call_off(process)
                return _until_stopped(process, self._namespace) if wait else True
        return self._stop_one(name, wait)

    def _all(self) -> Iterator[tuple[Any, Any]]:
        for group in self._groups.values():
            for process in group.processes.values():
                yield group, process


def install(supervisord: Any) -> None:
    """Put these in the place of supervisord's own, in all its servers."""
    for _, server in supervisord.options.httpservers:
        for handler in server.handlers:
            inner = getattr(handler, "handler", handler)  # with a password another one stands in front
            if isinstance(inner, supervisor_xmlrpc_handler) and hasattr(inner.rpcinterface, "supervisor"):
                namespace = inner.rpcinterface.supervisor
                stops = Stops(namespace)
                namespace.stopProcess = stops.stopProcess
                namespace.stopProcessGroup = stops.stopProcessGroup
                namespace.stopAllProcesses = stops.stopAllProcesses


def _names(group: Any, process: Any) -> tuple[str, str]:
    group_name, name = group.config.name, process.config.name
    return make_namespec(group_name, name), f"{group_name}:{name}"


def _sorted(group: Any) -> list[Any]:
    return sorted(group.processes.values())


def _can_stop(process: Any) -> bool:
    return process.get_state() in (*RUNNING_STATES, ProcessStates.STOPPING)


def _until_stopped(process: Any, namespace: Any) -> Callable[[], object]:
    """Return what supervisord asks again and again before it answers."""

    def on_wait() -> object:
        process.stop_report()
        return True if process.get_state() in STOPPED_STATES else NOT_DONE_YET

    on_wait.delay = ALWAYS_S  # type: ignore[attr-defined]
    on_wait.rpcinterface = namespace  # type: ignore[attr-defined]
    return on_wait
