"""supervisord's protocol for event listeners: READY, an event on stdin, RESULT; nothing else may go to stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

READY = b"READY\n"
DONE = b"RESULT 2\nOK"
"""Sent when an event has been dealt with; READY asks for the next one."""

HEADER_MAX_BYTES = 4096
PAYLOAD_MAX_BYTES = 1024 * 1024
"""supervisord's own messages have a few hundred bytes; more means that stdin is no supervisord."""


class ListenerError(Exception):
    """What came on stdin is not what supervisord sends."""


class Event(NamedTuple):
    """An event: its type, such as ``PROCESS_STATE_EXITED``, and the fields of its payload."""

    name: str
    fields: dict[str, str]

    @property
    def pid(self) -> int:
        """Of the process that it is about; 0 if it names none."""
        pid = self.fields.get("pid", "")
        return int(pid) if pid.isdecimal() else 0


class Reader:
    """Puts events together from what arrives on stdin.

    Supervisor's documentation, "Event Listeners and the Event Notification Protocol": a header line of ``key:value``
    pairs, with the type in ``eventname`` and the length of the payload in ``len``, then the payload.
    """

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that are whole by now.

        Raises:
            ListenerError: this is not supervisord's protocol.
        """
        self._buffer += data
        while (event := self._next()) is not None:
            yield event

    def _next(self) -> Event | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            if len(line) > HEADER_MAX_BYTES:
                raise ListenerError(f"{len(line)} bytes without an end of line")
            return None
        header = _pairs(line)
        length = header.get("len", "")
        if not length.isdecimal() or int(length) > PAYLOAD_MAX_BYTES or "eventname" not in header:
            raise ListenerError(f"no header of an event: {line[:200]!r}")
        if len(rest) < int(length):
            return None
        payload, self._buffer = rest[: int(length)], rest[int(length) :]
        return Event(header["eventname"], _pairs(payload.partition(b"\n")[0]))


def _pairs(line: bytes) -> dict[str, str]:
    words = (word.partition(":") for word in line.decode("utf-8", "replace").split())
    return {key: value for key, _, value in words}
