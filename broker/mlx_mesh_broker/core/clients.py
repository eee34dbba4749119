"""What clients say, and what is done about their silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core.actions import ToClient
from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.complaints import Complaints
from mlx_mesh_broker.core.keyed import refusal
from mlx_mesh_broker.core.metrics import NOBODY
from mlx_mesh_broker.core.sessions import Sessions
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import (
    Bye,
    Cancel,
    Credit,
    Error,
    Final,
    Hello,
    Lane,
    Ping,
    Pong,
    Request,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mlx_mesh_broker.core.admission import Admission
    from mlx_mesh_broker.core.answers import Answers
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Session
    from mlx_mesh_broker.core.events import BadClientMessage, ClientClogged, ClientUnreachable, FromClient
    from mlx_mesh_broker.core.quotas import Account
    from mlx_mesh_broker.core.state import State


class Clients:
    """The frontend's side of the core."""

    def __init__(
        self,
        state: State,
        answers: Answers,
        dispatcher: Dispatcher,
        admission: Admission,
        status: Callable[[Account | None], Sequence[bytes]],
    ) -> None:
        self._state = state
        self._answers = answers
        self._dispatcher = dispatcher
        self._admission = admission
        self._status_frames = status
        self._sessions = Sessions(state, dispatcher, self._watch)
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
        route, message, frames, holder = event
        if type(message) is Hello:
            self._sessions.hello(route, message, holder)
            return
        session = self._state.clients.get(route)
        if session is None or session.holder is not holder:
            session = self._sessions.recognised(session, route, message, holder)
            if session is None:
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
        if session is None and event.request_id:
            # Not a complaint: to a client that has no WELCOME yet, that says that no call of it can succeed.
            self._sessions.reset(event.route, event.request_id)
            return
        self._complain(event.route, event.reason)

    def unreachable(self, event: ClientUnreachable) -> None:
        """Keep what could not be sent: the client may come back on another connection."""
        self._sessions.cut_off(event.route, event.unsent)

    def revoked(self, account: Account) -> int:
        """End all sessions of a key that is not authorised any more; return how many there were."""
        return self._sessions.revoked(account)

    def clogged(self, event: ClientClogged) -> None:
        """End everything of a client that does not read."""
        session = self._state.clients.get(event.route)
        if session is not None:
            why = failure("SLOW_CONSUMER", "too many bytes of answers wait for this client to read them")
            self._sessions.end(session, "clogged", why)

    def _cancel(self, session: Session, message: Cancel, frames: Sequence[bytes]) -> None:
        request = session.outstanding.get(message.id)
        if request is not None:
            self._dispatcher.drop(request, failure("CANCELLED", "cancelled by the client"))

    def _credit(self, session: Session, message: Credit, frames: Sequence[bytes]) -> None:
        request = session.outstanding.get(message.id)
        if request is None or not request.stream:
            return
        request.credit = min(request.credit + message.chunks, limits.WINDOW_MAX_CHUNKS)
        if request.worker is not None:
            if request.starved_at:
                request.worker.progressed = self._state.now  # It may have been waiting for this alone.
            self._state.to_worker(request.worker, Credit(request.job_id, message.chunks))
        request.starved_at = 0.0

    def _ping(self, session: Session, message: Ping, frames: Sequence[bytes]) -> None:
        self._state.to_client(session, Pong(message.nonce))

    def _pong(self, session: Session, message: Pong, frames: Sequence[bytes]) -> None:
        """Having been heard is all that counts."""

    def _status(self, session: Session, message: Status, frames: Sequence[bytes]) -> None:
        account = session.account
        why = refusal(self._state, account) if account is not None else None
        if why is None:
            self._state.to_client(session, Final(message.id, 0, 0, 0, 0), self._status_frames(account))
        else:
            error = Error(message.id, why.code, why.message, why.retryable, why.retry_after_ms)
            self._state.to_client(session, error)

    def _bye(self, session: Session, message: Bye, frames: Sequence[bytes]) -> None:
        self._sessions.end(session, "bye", failure("CANCELLED", "the client left"))

    def sweep(self) -> None:
        """Forget clients that have been silent for long; called every now and then."""
        limit = self._state.now - self._state.config.session_idle_s
        for session in [each for each in self._state.sessions.values() if each.heard <= limit]:
            self._sessions.end(session, "silent", failure("CANCELLED", "the client fell silent"))

    def _watch(self, session: Session) -> None:
        session.alarm = self._state.alarm(self._state.config.ping_s, lambda: self._tend(session))

    def _tend(self, session: Session) -> None:
        """Look after a client with work under way: is it still there, and does it read."""
        state, config = self._state, self._state.config
        session.alarm = None
        if session.away is not None:
            too_much = session.away_bytes > config.client_max_bytes
            if too_much or state.now - session.away_since >= config.away_s:
                self._sessions.end(session, "gone", failure("CANCELLED", "the client is gone"))
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
