"""Notices the death of a local process at once, through a descriptor that an event loop can wait for."""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING

from mlx_mesh_wire.host import machine_id, process_start

if TYPE_CHECKING:
    from collections.abc import Callable


class ProcessWatch:
    """Watches worker processes on this machine.

    Linux: one pidfd each, in an epoll of their own. macOS: one kqueue with EVFILT_PROC. Where neither works, nothing is
    watched and the beats alone tell.
    """

    def __init__(self) -> None:
        self._machine = machine_id()
        self._instances: dict[int, bytes] = {}
        self._descriptors: dict[bytes, int] = {}
        self._dead: list[bytes] = []
        self._poll: Callable[[], list[int]]
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._poll = lambda: [fd for fd, _ in self._epoll.poll(0)]
            self.fd = self._epoll.fileno()
        else:
            self._kqueue = select.kqueue()
            self._poll = lambda: [event.ident for event in self._kqueue.control(None, 64, 0)]
            self.fd = self._kqueue.fileno()

    def watch(self, instance: bytes, machine: str, pid: int, pid_start: int) -> None:
        """Watch the process of a worker, if its pid means something here."""
        if machine != self._machine or not machine or not pid_start:
            return
        self.unwatch(instance)
        try:
            ident = self._open(pid)
        except ProcessLookupError:
            self._dead.append(instance)
            return
        except OSError:
            return
        # Only now is the pid held: had it been given to another process before, the start time would differ.
        if process_start(pid) != pid_start:
            self._close(ident)
            self._dead.append(instance)
            return
        self._instances[ident] = instance
        self._descriptors[instance] = ident

    def unwatch(self, instance: bytes) -> None:
        """Stop watching."""
        ident = self._descriptors.pop(instance, None)
        if ident is not None:
            del self._instances[ident]
            self._close(ident)

    def exited(self) -> list[bytes]:
        """Return the instances whose process has ended since the last call."""
        dead, self._dead = self._dead, []
        for ident in self._poll():
            instance = self._instances.get(ident)
            if instance is not None:
                self.unwatch(instance)
                dead.append(instance)
        return dead

    def close(self) -> None:
        """Give all descriptors back."""
        for instance in list(self._descriptors):
            self.unwatch(instance)
        os.close(self.fd)

    def _open(self, pid: int) -> int:
        if sys.platform == "linux":
            descriptor = os.pidfd_open(pid)
            self._epoll.register(descriptor, select.EPOLLIN)
            return descriptor
        event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        self._kqueue.control([event], 0)
        return pid

    def _close(self, ident: int) -> None:
        if sys.platform == "linux":
            self._epoll.unregister(ident)
            os.close(ident)
