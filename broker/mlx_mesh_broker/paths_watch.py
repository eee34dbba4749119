"""Notices that the file of an ipc socket is gone or another's, and binds the socket anew.

Who is connected does not need the file and would not notice; who is new could not connect, until the broker is started
again. So the files are compared, about once a second, with what they were right after they were bound.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlx_mesh_broker.sockets import bind_ipc, ipc_paths
from mlx_mesh_wire.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_mesh_broker.settings import BrokerSettings
    from mlx_mesh_broker.sockets import Sockets

LOOK_S = 1.0
"""Interval of the looks; each is a system call of a few microseconds for each path."""

_Identity = tuple[int, int]


class PathsWatch:
    """Watches the paths of the ipc sockets.

    A socket is bound beside what it is bound to already: to unbind would end the connections that came by it. The
    listener that nobody can reach any more keeps its descriptor until the broker ends.

    Args:
        sockets: the bound sockets.
        settings: say which further ipc endpoints there are.
        run_dir: where their own paths are.
        own: whether the run directory is still this broker's. If not, its paths are another's to keep.
    """

    def __init__(self, sockets: Sockets, settings: BrokerSettings, run_dir: Path, own: Callable[[], bool]) -> None:
        self._run_dir = run_dir
        self._own = own
        self._sockets = dict(ipc_paths(sockets, settings, run_dir))
        self._known = {path: _identity(path) for path in self._sockets}
        self._told: dict[Path, str] = {}
        self._due = 0.0

    def look(self, now: float) -> None:
        """Look at all paths, if it is time; bind anew, and log, what was lost."""
        if now < self._due:
            return
        self._due = now + LOOK_S
        for path, known in self._known.items():
            found = _identity(path)
            if found is None or found != known:
                self._mend(path, "it is gone" if found is None else "another file is there")
            else:
                self._told.pop(path, None)

    def _mend(self, path: Path, what: str) -> None:
        reason = self._obstacle(path)
        if not reason:
            try:
                bind_ipc(self._sockets[path], path)
            except OSError as error:
                reason = error.strerror or str(error)
        if not reason:
            self._known[path] = _identity(path)
            self._told.pop(path, None)
            log("warning", "socket_path_lost", path=path, found=what, done="bound anew")
        elif self._told.get(path) != reason:  # Once, not every second.
            self._told[path] = reason
            log("error", "socket_path_lost", path=path, found=what, done="nothing", reason=reason)

    def _obstacle(self, path: Path) -> str:
        """Return why a path must be left alone; empty if it may be taken back."""
        if path.parent == self._run_dir:
            return "" if self._own() else "the run directory is another broker's, or is gone"
        # No lock guards the paths of further endpoints: whoever is there may be another broker.
        return "" if _identity(path) is None else "it is outside the run directory and may be another's by right"


def _identity(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116  half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino
