"""Sleeps until one of several descriptors becomes readable: epoll on Linux, kqueue on macOS."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


class Sleeper:
    """The poll object of the platform, with the descriptors registered once."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._count = len(descriptors)
        if sys.platform == "linux":
            self._poll = select.epoll()
            for descriptor in descriptors:
                self._poll.register(descriptor, select.EPOLLIN)
        else:
            self._poll = select.kqueue()
            changes = [select.kevent(d, select.KQ_FILTER_READ, select.KQ_EV_ADD) for d in descriptors]
            self._poll.control(changes, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._poll.close()

    def sleep(self, timeout_s: float) -> set[int]:
        """Sleep at most so many seconds; return the descriptors that are readable."""
        if sys.platform == "linux":
            return {descriptor for descriptor, _ in self._poll.poll(timeout_s)}
        return {event.ident for event in self._poll.control(None, self._count, timeout_s)}
