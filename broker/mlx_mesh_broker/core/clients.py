"""What clients say, and what is done about their silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core import streams
from mlx_mesh_broker.core.actions import ToClient
from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.complaints import Complaints
from mlx_mesh_broker.core.entities import Session
from mlx_mesh_broker.core.metrics import NOBODY
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import (
    Bye,
    Cancel,
    Credit,
    Error,
    Final,
    Hello,
    Lane,
    Message,
    Ping,
    Pong,
    Request,
    Reset,
    Status,
    Welcome,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mlx_mesh_broker.core.admission import Admission
    from mlx_mesh_broker.core.answers import Answers
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.events import BadClientMessage, ClientClogged, ClientUnreachable, FromClient
    from mlx_mesh_broker.core.state import State

SESSIONS_MAX = 16_384
"""Clients known at once; each costs about 1 KB, and a process may hold only so many connections anyway."""


def welcome(state: State) -> Welcome:
    """Return the WELCOME of this broker."""
    return Welcome(
        limits.PROTOCOL_MAJOR,
        limits.PROTOCOL_MINOR,
        state.epoch,
        {
            "header_max_bytes": limits.HEADER_MAX_BYTES,
            "frames_max": limits.FRAMES_MAX,
            "message_max_bytes": limits.MESSAGE_MAX_BYTES,
            "outstanding_max": state.config.client_max_outstanding,
            "window_max": limits.WINDOW_MAX_CHUNKS,
        },
        state.config.intervals(),
    )


class Clients:
    """The frontend's side of the core."""

    def __init__(
        self,
        state: State,
        answers: Answers,
        dispatcher: Dispatcher,
        admission: Admission,
        status: Callable[[], Sequence[bytes]],
    ) -> None:
        self._state = state
        self._answers = answers
        self._dispatcher = dispatcher
        self._admission = admission
        self._status_frames = status
        self._complaints = Complaints(state, "client_protocol_error", ToClient)
        self._complain = self._complaints.complain
        self._on: dict[type, Callable[[Session, Any, Sequence[bytes]], None]] = {
            Request: admission.request,
            Cancel: self._cancel,
            Credit: self._credit,
            Ping: self._ping,
            Pong: self._pong,
            Status: self._status,
            Bye: self._bye,
        }

    def message(self, event: FromClient) -> None:
        """Handle a well-formed message."""
        route, message, frames = event
        if type(message) is Hello:
            self._hello(route, message)
            return
        session = self._state.clients.get(route)
        if session is None:
            self._reset(route, message)
            return
        session.heard = self._state.now
        handler = self._on.get(type(message))
        if handler is None:
            self._complain(route, f"{type(message).__name__} is not for clients to send")
            return
        handler(session, message, frames)
        if session.outstanding and session.alarm is None:
            self._watch(session)

    def malformed(self, event: BadClientMessage) -> None:
        """Handle a message that could not be decoded."""
        self._state.metrics.counts["malformed_client"] += 1
        session = self._state.clients.get(event.route)
        if session is not None and event.request_id and event.request_id not in session.outstanding:
            why = failure(event.code, event.reason)
            self._answers.refuse(session, event.request_id, why, self._state.metrics.op(NOBODY), Lane.STANDARD)
            return
        self._complain(event.route, event.reason)

    def unreachable(self, event: ClientUnreachable) -> None:
        """Keep what could not be sent: the client may come back on another connection."""
        state = self._state
        session = state.clients.pop(event.route, None)
        if session is None:
            return
        session.away = []
        session.away_since = state.now
        streams.cut_off(session, event.unsent)
        if session.alarm is None:
            self._watch(session)
        for message, frames in event.unsent:
            state.to_client(session, message, frames)

    def clogged(self, event: ClientClogged) -> None:
        """End everything of a client that does not read."""
        session = self._state.clients.get(event.route)
        if session is not None:
            why = failure("SLOW_CONSUMER", "too many bytes of answers wait for this client to read them")
            self._end(session, "clogged", why)

    def _send(self, route: bytes, message: Message) -> None:
        self._state.out.append(ToClient(route, message, ()))

    def _hello(self, route: bytes, message: Hello) -> None:
        state = self._state
        if message.major != limits.PROTOCOL_MAJOR:
            reason = f"this broker speaks protocol {limits.PROTOCOL_MAJOR}, the client speaks {message.major}"
            self._send(route, Error(0, "PROTOCOL_ERROR", reason, False, 0))
            self._send(route, Bye(reason))
            return
        session = state.sessions.get(message.session)
        if session is None:
            if len(state.sessions) >= SESSIONS_MAX:
                self._send(route, Error(0, "OVERLOADED", f"{SESSIONS_MAX} clients are connected already", True, 1000))
                return
            returning = bool(message.last_epoch) and message.last_epoch != state.epoch
            session = Session(message.session, route, message.name, returning, state.now)
            state.sessions[message.session] = session
        other = state.clients.get(route)
        if other is not None and other is not session:
            self._end(other, "replaced", failure("CANCELLED", "the connection said HELLO as another session"))
        state.clients.pop(session.route, None)
        if session.route != route and session.away is None:
            streams.moved(session)
        session.route = route
        session.heard = state.now
        state.clients[route] = session
        self._send(route, welcome(state))
        kept, session.away, session.away_bytes = session.away or (), None, 0
        for kept_message, frames in kept:
            state.to_client(session, kept_message, frames)

    def _reset(self, route: bytes, message: Message) -> None:
        if type(message) is not Bye:
            self._state.metrics.counts["resets"] += 1
            dropped = message.request_id if type(message) is Request else 0
            self._send(route, Reset(self._state.epoch, dropped))

    def _cancel(self, session: Session, message: Cancel, frames: Sequence[bytes]) -> None:
        request = session.outstanding.get(message.id)
        if request is not None:
            self._dispatcher.drop(request, failure("CANCELLED", "cancelled by the client"))

    def _credit(self, session: Session, message: Credit, frames: Sequence[bytes]) -> None:
        request = session.outstanding.get(message.id)
        if request is None or not request.stream:
            return
        request.credit = min(request.credit + message.chunks, limits.WINDOW_MAX_CHUNKS)
        request.starved_at = 0.0
        if request.worker is not None:
            self._state.to_worker(request.worker, Credit(request.job_id, message.chunks))

    def _ping(self, session: Session, message: Ping, frames: Sequence[bytes]) -> None:
        self._state.to_client(session, Pong(message.nonce))

    def _pong(self, session: Session, message: Pong, frames: Sequence[bytes]) -> None:
        """Having been heard is all that counts."""

    def _status(self, session: Session, message: Status, frames: Sequence[bytes]) -> None:
        self._state.to_client(session, Final(message.id, 0, 0, 0, 0), self._status_frames())

    def _bye(self, session: Session, message: Bye, frames: Sequence[bytes]) -> None:
        self._end(session, "bye", failure("CANCELLED", "the client left"))

    def _end(self, session: Session, reason: str, why: Any) -> None:
        state = self._state
        for request in list(session.outstanding.values()):
            self._dispatcher.drop(request, why)
        state.sessions.pop(session.key, None)
        if state.clients.get(session.route) is session:
            del state.clients[session.route]
        if session.alarm is not None:
            state.timers.remove(session.alarm)
            session.alarm = None
        state.log("debug", "client_left", client=session.name, reason=reason)

    def sweep(self) -> None:
        """Forget clients that have been silent for long; called every now and then."""
        limit = self._state.now - self._state.config.session_idle_s
        for session in [each for each in self._state.sessions.values() if each.heard <= limit]:
            self._end(session, "silent", failure("CANCELLED", "the client fell silent"))

    def _watch(self, session: Session) -> None:
        session.alarm = self._state.alarm(self._state.config.ping_s, lambda: self._tend(session))

    def _tend(self, session: Session) -> None:
        """Look after a client with work under way: is it still there, and does it read."""
        state, config = self._state, self._state.config
        session.alarm = None
        if session.away is not None:
            too_much = session.away_bytes > config.client_max_bytes
            if too_much or state.now - session.away_since >= config.away_s:
                self._end(session, "gone", failure("CANCELLED", "the client is gone"))
                return
        elif state.now - session.heard >= config.ping_s:
            # On a ROUTER, only a send shows that a peer is gone.
            state.to_client(session, Ping(0))
        self._end_starved(session)
        if session.outstanding or session.away is not None:
            self._watch(session)

    def _end_starved(self, session: Session) -> None:
        state = self._state
        limit = state.now - state.config.credit_s
        for request in [r for r in session.outstanding.values() if r.stream and 0 < r.starved_at <= limit]:
            seconds = state.config.credit_s
            why = failure("SLOW_CONSUMER", f"the reader granted no credit for {seconds:g} s; read faster or cancel")
            self._dispatcher.drop(request, why)
