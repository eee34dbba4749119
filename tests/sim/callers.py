"""What callers see: one end to each call, in time, with its own body, and streams whole."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import unpack_body
from mlx_mesh_wire.messages import Final, Flag
from tests.sim import bodies
from tests.sim.client import EAGER
from tests.sim.invariants import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

SLACK_S = 0.006
"""A tick, and what rounding and the scheduler add."""

DETAINED = frozenset({"pauses", "jumps", "stalls", "cuts", "broker_pauses", "broker_crashes", "clogs", "vanishes"})
"""Faults that keep chunks or credit from a reader that reads."""

NEVER = frozenset({"INTERNAL", "PROTOCOL_ERROR", "INVALID_REQUEST", "UNKNOWN_OP", "UNAUTHORIZED"})
OF_KIND = {"ENGINE_ERROR": bodies.BROKEN, "OUT_OF_MEMORY": bodies.NO_MEMORY, "TOO_LARGE": bodies.OVERSIZED}
"""Codes that no call gets, and those that only calls of a kind get."""

FRUITLESS = frozenset({bodies.POISON, bodies.BROKEN, bodies.NO_MEMORY, bodies.BUSY})
"""Kinds of calls for which there is no result."""


@lru_cache(maxsize=8192)
def _tokens_of(frame: bytes) -> tuple[int, ...]:
    return tuple(unpack_body([frame])["tokens"])


class Callers:
    """The books of all clients.

    Attributes:
        open: calls that have no end yet, with the tokens that their readers have.
        crowds: per client, how many requests were outstanding when last looked at.
    """

    def __init__(self, world: Any, seen: dict[Any, int]) -> None:
        self.open: dict[Any, int] = {}
        self.world = world
        self.seen = seen
        on = world.swarm.on
        self.punctual = not on & {"pauses", "jumps"}
        self.leaps = "jumps" in on
        self.prompt = not on & DETAINED and world.swarm.delay[1] < 0.01
        self.never = NEVER - {"PROTOCOL_ERROR"} if "garbage" in on else NEVER
        self.places = dict(world.swarm.config).get("client_max_outstanding", 64)
        self.crowds: dict[bytes, int] = {}

    def asked(self, client: Any, call: Any) -> None:
        """A call is about to be handed to its client's session."""
        self.open[call] = 0
        session = client.session
        if session.epoch:
            crowd = len(session._outstanding)
            if crowd > self.places and crowd > self.crowds.get(client.key, crowd):
                text = f"client {client.number} has {crowd} requests outstanding, the broker grants {self.places}"
                raise Violation("client_places", text)
            self.crowds[client.key] = crowd

    def piece(self, client: Any, call: Any, frames: Sequence[Any]) -> None:
        """A chunk reached its reader."""
        have = self.open.get(call)
        if have is None:
            raise Violation("no_ghost", f"call {call.number} has ended, and its reader gets a chunk")
        self.open[call] = have + self._count(call, have, frames)
        if call.unread >= call.window:
            raise Violation("window", f"call {call.number} has {call.unread + 1} unread chunks of {call.window}")

    def _count(self, call: Any, have: int, frames: Sequence[Any]) -> int:
        tokens = _tokens_of(bytes(frames[0]))
        begin = bodies.content_of(call.body) % 1000 * 1000 + have
        if tokens != tuple(range(begin, begin + len(tokens))) or not tokens:
            raise Violation("whole_stream", f"call {call.number} has {have} tokens, and gets {tokens} next")
        return len(tokens)

    def ended(self, client: Any, call: Any, outcome: Any, frames: Sequence[Any]) -> None:
        """A call came to its end."""
        have = self.open.pop(call, None)
        if have is None:
            raise Violation("one_answer", f"call {call.number} of client {client.number} ends again, with {outcome}")
        if self.punctual and client.now > call.pending.due + SLACK_S:
            late_s = client.now - call.pending.due
            raise Violation("deadline", f"call {call.number} ends {late_s:.3f} s after its deadline")
        if type(outcome) is not Final:
            self._failed(client, call, outcome)
        elif call.op != "mesh.status":
            self._succeeded(call, frames, have)

    def _succeeded(self, call: Any, frames: Sequence[Any], have: int) -> None:
        if call.window and call.op == "text":
            count = have + self._count(call, have, frames)
            if count != bodies.text_of(call.body):
                raise Violation("whole_stream", f"call {call.number} ended after {count} tokens")
        elif tuple(frames) != bodies.answer(call.body, call.model):
            raise Violation("own_body", f"call {call.number} asked {call.body!r} of {call.model!r}, and got {frames}")
        if call.kind in FRUITLESS:
            raise Violation("own_body", f"call {call.number} of kind {call.kind} got a result")

    def _failed(self, client: Any, call: Any, error: Any) -> None:
        code = error.code
        seen = self.seen
        seen["outcome", code] += 1
        if code in self.never or OF_KIND.get(code, call.kind) != call.kind:
            raise Violation("due_error", f"call {call.number} of kind {call.kind} on {call.op!r} gets {error}")
        if code == "DEADLINE_EXCEEDED" and not self.leaps and client.now < call.pending.due - SLACK_S:
            early_s = call.pending.due - client.now
            raise Violation("not_early", f"call {call.number} is told {error} {early_s:.3f} s early")
        if code == "SLOW_CONSUMER" and self.prompt and call.read_s == EAGER:
            raise Violation("reads_are_granted", f"the reader of call {call.number} took each chunk, and gets {error}")
        if code in ("NO_WORKER", "UNKNOWN_MODEL") and call.flags & Flag.WAIT_FOR_READY:
            raise Violation("waits_for_ready", f"call {call.number} waits for a worker, and gets {error}")

    def cancelled(self, call: Any) -> None:
        """A caller lost interest."""
        self.open.pop(call, None)

    def vanished(self, client: Any) -> None:
        """A client is gone, with all its calls."""
        for call in [call for call in self.open if call.client is client]:
            del self.open[call]

    def audit(self) -> None:
        """No call is open past its deadline, unless its client does not run."""
        for call in self.open:
            client = call.client
            runs = client.alive and not client.stopped and client.resumed_at < self.world.now
            if runs and client.now > call.pending.due + SLACK_S:
                late_s = client.now - call.pending.due
                raise Violation("deadline", f"call {call.number} has no end {late_s:.3f} s after its deadline")
