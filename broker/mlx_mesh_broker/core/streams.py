"""Streams that were cut off: on whose side, what the reader has, and where they go on.

The broker keeps no chunk. A client that reads a RESUMABLE stream keeps what it was given, and sends it as a state with
each REQUEST that it sends again; a worker goes on from there. So what counts is to know which chunks the reader has. A
connection loses nothing but with itself, and keeps the order: chunks from ``base_seq`` on went over the connection of
now, so the reader has them or will have them before all that is sent later. Only what went before them may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.entities import Kept
from mlx_mesh_wire.messages import Again, Cancel, Chunk, Credit, Flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Request, Session
    from mlx_mesh_broker.core.state import State
    from mlx_mesh_wire import messages
    from mlx_mesh_wire.bundle import Mail


def lacks_state(request: Request) -> bool:
    """Whether nobody but the client knows from where the stream is to go on."""
    if not request.next_seq or not request.flags & Flag.RESUMABLE:
        return False
    return request.kept is None or request.kept.seen != request.next_seq


def ask(state: State, request: Request) -> None:
    """Have the client send again a stream that was cut off; until it does, the request waits for just that."""
    state.metrics.counts["again"] += 1
    state.keep(request, None)
    state.asked[request] = None
    request.starved_at = 0.0
    state.to_client(request.session, Again(request.id, request.next_seq))


def moved(session: Session) -> None:
    """The client greets on another connection: what went over the one before may be lost."""
    for request in session.outstanding.values():
        if request.stream:
            request.base_seq = request.next_seq


def cut_off(session: Session, unsent: Iterable[Mail]) -> None:
    """The client's connection is gone; chunks that could not be sent are kept and come first on the next one."""
    moved(session)
    for message, _ in unsent:
        request = session.outstanding.get(message.id) if type(message) is Chunk else None
        if request is not None:
            request.base_seq = min(request.base_seq, message.seq)  # type: ignore[union-attr]


class Streams:
    """What becomes of a stream that its client sends again."""

    def __init__(self, state: State, dispatcher: Dispatcher) -> None:
        self._state = state
        self._dispatcher = dispatcher

    def resend(self, request: Request, message: messages.Request, frames: Sequence[bytes]) -> None:
        """Handle a REQUEST for a stream that is known already."""
        seen = message.seen
        asked = request in self._state.asked
        # A reader has more than is known here if the end of the stream was lost with chunks that it had got.
        if not request.base_seq <= seen <= request.next_seq or (asked and seen == request.next_seq):
            self._go_on(request, message, frames, asked=asked)
        elif not asked:
            # Otherwise it was sent before the client read that it is asked; it will send another one.
            self._grant(request, message.window - (request.next_seq - seen))

    def _grant(self, request: Request, room: int) -> None:
        more = room - request.credit
        if more > 0:
            request.credit = room
            if request.worker is not None:
                self._state.to_worker(request.worker, Credit(request.job_id, more))
        request.starved_at = 0.0 if request.credit else self._state.now

    def _go_on(self, request: Request, message: messages.Request, frames: Sequence[bytes], *, asked: bool) -> None:
        """Have the stream computed from what the reader has."""
        state, dispatcher = self._state, self._dispatcher
        kept = None
        if request.flags & Flag.RESUMABLE and message.seen:
            if not message.flags & Flag.RESUMED or len(frames) <= 1:
                text = f"the reader has {message.seen} chunks, but the REQUEST that says so came without their state"
                dispatcher.drop(request, failure("INVALID_REQUEST", text))
                return
            kept = Kept(message.seen, frames[-1])
        if not state.keep(request, kept):
            text = "there is no room for the state from which this stream is to go on"
            dispatcher.drop(request, failure("OVERLOADED", text))
            return
        request.next_seq = request.base_seq = message.seen
        request.credit = message.window
        request.starved_at = 0.0 if request.credit else state.now
        if asked:
            del state.asked[request]
            dispatcher.requeue(request)
        elif request.worker is not None:
            state.to_worker(request.worker, Cancel(request.job_id))
            worker = dispatcher.release(request)
            if request.at_most_once:
                text = "chunks were lost with a connection; at_most_once forbids to run the request again"
                dispatcher.fail(request, failure("WORKER_LOST", text))
            else:
                dispatcher.take_back(request)
            dispatcher.feed(worker)
