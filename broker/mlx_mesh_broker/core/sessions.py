"""Whose a connection is: how clients say HELLO, come back, lose their connections to others, and leave."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from mlx_mesh_broker.core import streams
from mlx_mesh_broker.core.actions import ToClient
from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.complaints import Complaints
from mlx_mesh_broker.core.entities import Session
from mlx_mesh_broker.core.keyed import KEY_SESSIONS_MAX, Doorman
from mlx_mesh_broker.core.quotas import Role
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import Bye, Error, Final, Flag, Hello, Message, Request, Reset, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core import entities
    from mlx_mesh_broker.core.answers import Failure
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.quotas import Account, Holder
    from mlx_mesh_broker.core.state import State
    from mlx_mesh_wire.bundle import Mail

SESSIONS_MAX = 16_384
"""Clients known at once; each costs about 1 KB, and a process may hold only so many connections anyway."""

ROOM_SHARE = 64
"""When there is no room, that for one in so many is made at once: finding the silent ones takes some milliseconds."""


def welcome(state: State, account: Account | None = None) -> Welcome:
    """Return the WELCOME of this broker, to the holder of a key with the limits of that."""
    outstanding_max = state.config.client_max_outstanding
    if account is not None:
        outstanding_max = min(outstanding_max, account.holder.outstanding_max or outstanding_max)
    return Welcome(
        limits.PROTOCOL_MAJOR,
        limits.PROTOCOL_MINOR,
        state.epoch,
        {
            "header_max_bytes": limits.HEADER_MAX_BYTES,
            "frames_max": limits.FRAMES_MAX,
            "message_max_bytes": limits.MESSAGE_MAX_BYTES,
            "outstanding_max": outstanding_max,
            "window_max": limits.WINDOW_MAX_CHUNKS,
        },
        state.config.intervals(),
    )


class Sessions:
    """Begins, moves and ends the sessions of clients.

    Args:
        state: the core's tables.
        dispatcher: takes back the requests of a session that ends.
        watch: has a session looked after a while from now.
    """

    def __init__(self, state: State, dispatcher: Dispatcher, watch: Callable[[Session], None]) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._watch = watch
        unauthorized = Complaints(state, "client_unauthorized", ToClient, "UNAUTHORIZED")
        self._doorman = Doorman(state, Role.CLIENT, ToClient, unauthorized.complain)

    def hello(self, route: bytes, message: Hello, holder: Holder | None) -> None:
        """Begin a session, or go on with it on this connection."""
        state = self._state
        if not self._doorman.admits(route, message, holder):
            return
        if message.major != limits.PROTOCOL_MAJOR:
            reason = f"this broker speaks protocol {limits.PROTOCOL_MAJOR}, the client speaks {message.major}"
            self._send(route, Error(0, "PROTOCOL_ERROR", reason, False, 0))
            self._send(route, Bye(reason))
            return
        account = self._doorman.account(holder)
        session = state.sessions.get(message.session) or self._new_session(route, message, account)
        if session is None:
            return
        if session.account is not account:
            self._doorman.refuse(route, message, "this session belongs to the holder of another key")
            return
        session.holder = holder
        self._replace(route, session)
        if state.clients.get(session.route) is session:  # Another may have taken over the route while it was away.
            del state.clients[session.route]
        if session.route != route and session.away is None:
            streams.moved(session)
        session.route = route
        session.heard = state.now
        state.clients[route] = session
        self._send(route, welcome(state, account))
        kept, session.away, session.away_bytes = session.away or (), None, 0
        session.told = frozenset(message.id for message, _ in kept if _ends(message))  # type: ignore[union-attr]
        for kept_message, frames in kept:
            state.to_client(session, kept_message, frames)

    def _new_session(self, route: bytes, message: Hello, account: Account | None) -> Session | None:
        """Return a session for a client that is new here; None if it was refused."""
        state = self._state
        if len(state.sessions) >= SESSIONS_MAX:
            self._make_room()
        full = f"{SESSIONS_MAX} clients are connected already" if len(state.sessions) >= SESSIONS_MAX else ""
        if account is not None and account.sessions >= KEY_SESSIONS_MAX:
            whose = f"clients with the key {account.holder.name!r}"
            full = f"{KEY_SESSIONS_MAX} {whose} are connected already; give some of them another key"
            account.refused += 1
            state.metrics.over_quota(account.holder.name, "sessions")
        if full:
            self._send(route, Error(0, "OVERLOADED", full, True, 1000))
            return None
        returning = bool(message.last_epoch) and message.last_epoch != state.epoch
        session = Session(message.session, route, message.name, returning, state.now)
        state.sessions[message.session] = session
        session.account = account
        if account is not None:
            account.sessions += 1
        return session

    def _make_room(self) -> None:
        """End some of the sessions without work, those that have been silent for longest.

        Else whoever connects and vanishes often enough would keep everybody out until ``session_idle_s`` is over. A
        client that is still there is told to introduce itself again, which costs it one round trip.
        """
        idle = [session for session in self._state.sessions.values() if not session.outstanding]
        for session in nsmallest(max(1, SESSIONS_MAX // ROOM_SHARE), idle, key=lambda each: each.heard):
            self.end(session, "made room", failure("CANCELLED", "the client made room for others"))

    def _replace(self, route: bytes, session: Session) -> None:
        """End another session whose connection this was; that of another key may come back on one of its own."""
        other = self._state.clients.get(route)
        if other is None or other is session:
            return
        if other.account is session.account:
            self.end(other, "replaced", failure("CANCELLED", "the connection said HELLO as another session"))
        else:
            self.cut_off(route)

    def revoked(self, account: Account) -> int:
        """End all sessions of a key that is not authorised any more; return how many there were."""
        own = [session for session in self._state.sessions.values() if session.account is account]
        for session in own:
            self.end(session, "revoked", failure("UNAUTHORIZED", f"the key {account.holder.name!r} was revoked"))
        return len(own)

    def reset(self, route: bytes, dropped: int = 0) -> None:
        """Tell a peer that is not known; ``dropped`` is the id of the REQUEST that was not taken in, if it is one."""
        self._state.metrics.counts["resets"] += 1
        self._send(route, Reset(self._state.epoch, dropped))

    def recognised(
        self, session: Session | None, route: bytes, message: Message, holder: Holder | None
    ) -> Session | None:
        """Return the session of a route if it is the sender's, whose key may have other quotas than before."""
        if not self._doorman.admits(route, message, holder):
            return None
        if session is not None and session.account is self._doorman.account(holder):
            session.holder = holder
            return session
        if session is not None:
            self.cut_off(route)  # Somebody else has its route, so its connection is gone.
        if type(message) is not Bye:
            self.reset(route, _untold(message))
        return None

    def cut_off(self, route: bytes, unsent: Sequence[Mail] = ()) -> None:
        """Keep what could not be sent: the client may come back on another connection."""
        state = self._state
        session = state.clients.pop(route, None)
        if session is None:
            return
        session.away = []
        session.away_since = state.now
        streams.cut_off(session, unsent)
        if session.alarm is None:
            self._watch(session)
        for message, frames in unsent:
            again = session.outstanding.get(message.id) if isinstance(message, Final | Error) else None
            if again is not None:  # Its client asked once more before it had this answer, and needs no other.
                self._dispatcher.told(again, message.code if isinstance(message, Error) else "OK")
            state.to_client(session, message, frames)

    def end(self, session: Session, reason: str, why: Failure) -> None:
        """Forget a session; what is outstanding fails."""
        state = self._state
        # What runs goes last, so that its place is not given to what is to go as well.
        for request in sorted(session.outstanding.values(), key=_is_under_way):
            self._dispatcher.drop(request, why)
        state.sessions.pop(session.key, None)
        if state.clients.get(session.route) is session:
            del state.clients[session.route]
        if session.account is not None:
            session.account.sessions -= 1
        if session.alarm is not None:
            state.timers.remove(session.alarm)
            session.alarm = None
        state.log("debug", "client_left", client=session.name, reason=reason)

    def _send(self, route: bytes, message: Message) -> None:
        self._state.out.append(ToClient(route, message, ()))


def _untold(message: Message) -> int:
    """Return the id of a REQUEST of which no broker knows; 0 for one sent again: what came before may be under way."""
    return message.request_id if type(message) is Request and not message.flags & Flag.RESEND else 0


def _ends(message: Message) -> bool:
    """Whether a message is all that its client needs; of a stream, chunks before the end may have been lost."""
    return isinstance(message, Error) or (isinstance(message, Final) and not message.chunks)


def _is_under_way(request: entities.Request) -> int:
    """Return 0 for what follows another request, 1 for what waits, and 2 for what runs."""
    return 0 if request.leader is not None else 1 + (request.worker is not None)
