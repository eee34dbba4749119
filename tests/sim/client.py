"""A client's process: the real session, calls and their readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh._options import Call
from mlx_mesh._pending import Pending
from mlx_mesh._session import Session, closed_error
from mlx_mesh_wire.messages import Request
from tests.sim import bodies
from tests.sim.network import Oversized
from tests.sim.party import GRAIN_S, INFINITY, Party

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.world import World

EAGER = -1.0
"""``read_s`` of a reader that takes each chunk at once."""


class SimCall:
    """One call, as planned and as it went.

    Attributes:
        number: unique in the world.
        body: the one frame of the request, which says what is to be computed; see :mod:`bodies`.
        due: its deadline by the world's clock.
        at_most_once: it must never run twice.
        read_s: seconds that its reader takes for each chunk; EAGER for none, infinity if it reads nothing.
        outcome: how it ended, None before; ``left`` if nobody waits for it any more (cancelled, or the client is gone).
        chunks: that its reader got.
    """

    __slots__ = (
        "affinity", "asked_at", "at_most_once", "body", "chunks", "client", "cost_s", "due", "ended_at", "flags",
        "kind", "lane", "left", "model", "number", "op", "outcome", "pending", "read_s", "timeout_s", "unread",
        "window",
    )  # fmt: skip

    def __init__(self, client: SimClient, spec: Sequence[Any]) -> None:
        (
            self.number, self.op, self.model, self.lane, self.timeout_s, self.flags, self.window, self.affinity,
            content, self.cost_s, self.kind, self.read_s,
        ) = spec  # fmt: skip
        self.client = client
        named = "" if self.op == "pure" else self.model  # Equal work on two models has to have two results.
        self.body = bodies.request(content, self.cost_s, self.kind, named)
        self.at_most_once = bool(self.flags & 1)
        self.asked_at = client.scheduler.now
        self.due = self.asked_at + self.timeout_s
        self.outcome: Any = None
        self.left = False
        self.ended_at = 0.0
        self.chunks = 0
        self.unread = 0
        self.pending: Any = None

    def done(self, outcome: Any, frames: Sequence[Any]) -> None:
        """The session tells the outcome."""
        self.client.ended(self, outcome, frames)

    def piece(self, frames: Sequence[Any]) -> None:
        """The session hands over a chunk."""
        self.chunks += 1
        self.client.got(self, frames)


class SimClient(Party):
    """One client after the other in one place: when one is gone, another may be started.

    Attributes:
        calls: those without an end, by number.
        key: the session key of the process of now.
    """

    role = "client"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.calls: dict[int, SimCall] = {}
        self.unread: list[SimCall] = []
        self.lives = 0
        self.agenda_count = 0
        self.key = b""
        self.overlimit = world.swarm.overlimit

    def start(self, _: Any = None) -> None:
        """Begin another life."""
        if self.alive:
            return
        self.lives += 1
        self.alive = True
        self.stopped = False
        self.parked = []
        self.calls = {}
        self.unread = []
        self.tick_at = INFINITY
        self.key = b"client%04d%06d" % (self.number, self.lives)
        self.session = Session(self.key, f"c{self.number}", "sim", self.random.random)
        self.connect(self.world.connect_s(self))
        self.session.connected(self.now)
        self.flush()
        self.arm()

    def ask(self, spec: Sequence[Any]) -> SimCall | None:
        """Make a call, if there is a process that can."""
        if not self.alive or self.stopped:
            return None
        call = SimCall(self, spec)
        frames = (call.body,)
        flags, window = call.flags, call.window
        given = Call(call.op, call.model, call.lane, flags, window, call.affinity, "", frames, call.timeout_s)
        now = self.scheduler.now + self.offset_s
        pending = Pending(given, now + call.timeout_s, call.done, call.piece if window else None)
        call.pending = pending
        self.calls[call.number] = call
        world = self.world
        world.asked += 1
        world.open += 1
        world.oracle.asked(self, call)
        session = self.session
        busy = len(session._outstanding) > 0
        session.start(now, pending)
        if session.outbox:
            self.flush()
        self.agenda_count = session._agenda._count
        # Where others are outstanding, only an early deadline makes the next tick come sooner.
        if not busy or call.due + GRAIN_S < self.tick_at:
            self.arm()
        return call

    def told(self) -> None:
        """Do what the session wants done after what it heard."""
        if self.unread:
            self._read()
        session = self.session
        if session.outbox or session.reconnect:
            self.flush()
        # A retry may be due sooner than what there was; nothing else that is heard makes a tick come sooner.
        if session._agenda._count != self.agenda_count:
            self.agenda_count = session._agenda._count
            self.arm()

    def tick(self, now: float) -> None:
        """Do what the session's time demands."""
        self.session.tick(now)
        self.flush()
        self.arm()

    def flush(self) -> None:
        """Send what the session wants sent."""
        session = self.session
        if session.reconnect:
            self.renew(self.world.connect_s(self), notice_s=self.world.notice_s(self), unsent=False)
            session.outbox.clear()
            session.connected(self.now)
        outbox = session.outbox
        if outbox:
            send = self.wire.up.send
            for message, frames in outbox:
                if self.overlimit and type(message) is Request and bodies.kind_of(frames[0]) == bodies.OVERSIZED:
                    send(Oversized(message.request_id), ())
                else:
                    send(message, frames)
            outbox.clear()

    def got(self, call: SimCall, frames: Sequence[Any]) -> None:
        """A chunk came for a call."""
        self.world.oracle.piece(self, call, frames)
        call.unread += 1
        if call.read_s == EAGER or self.world.healing:
            self.unread.append(call)
        elif call.unread == 1 and call.read_s < INFINITY:
            self.scheduler.after(call.read_s, self._read_one, call)

    def _read(self) -> None:
        now = self.scheduler.now + self.offset_s
        unread, self.unread = self.unread, []
        for call in unread:
            call.unread -= 1
            self.session.read(now, call.pending)

    def _read_one(self, call: SimCall) -> None:
        """A slow reader takes a chunk."""
        if not self.alive or call.client is not self or not call.unread or call.left:
            return
        if not self.stopped:
            call.unread -= 1
            self.session.read(self.now, call.pending)
            self.flush()
            self.arm()
        if call.unread:
            self.scheduler.after(0.0 if self.world.healing else call.read_s + 1e-3, self._read_one, call)

    def read_all(self) -> None:
        """Have the readers of all calls catch up."""
        for call in self.calls.values():
            self.unread.extend([call] * call.unread)
        if self.alive and self.unread:
            self._read()
            self.flush()
            self.arm()

    def ended(self, call: SimCall, outcome: Any, frames: Sequence[Any]) -> None:
        """A call has its outcome."""
        world = self.world
        world.oracle.ended(self, call, outcome, frames)
        call.outcome = outcome
        call.ended_at = self.scheduler.now
        if not call.window:
            call.pending = None  # They hold each other: thousands of rings would be left for the collector to find.
        if self.calls.pop(call.number, None) is not None:
            world.close_one()
        world.trace = hash((world.trace, self.scheduler.now, call.number, type(outcome) is bodies.Final))

    def cancel(self, number: int) -> None:
        """A caller loses interest."""
        call = self.calls.get(number)
        if call is None or self.stopped or not self.alive:
            return
        call.left = True
        self.world.oracle.cancelled(self, call)
        self.session.cancel(call.pending)
        del self.calls[number]
        self.world.close_one()
        self.flush()
        self.arm()

    def vanish(self, restart_s: float, notice_s: float, politely: bool) -> None:
        """The process ends: without a word, or after closing."""
        if not self.alive:
            return
        if politely and not self.stopped:
            self.session.close(closed_error())
            self.flush()
        self.alive = self.stopped = False
        self.world.oracle.vanished(self)
        for call in self.calls.values():
            call.left = True
            self.world.close_one()
        self.calls = {}
        wire = self.wire
        wire.dead = True
        wire.down.drop()
        if not politely:
            wire.up.drop()
        if wire.opened:
            wire.up.release()
            self.world.broker.forget(wire, notice_s)
        self.scheduler.after(restart_s, self.start)
