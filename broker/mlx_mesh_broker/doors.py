"""The sockets on which every peer has a key: who is let in, whose a message is, and where an answer goes.

For the rest of the broker a peer with a key is a route like any other. It begins with a tag that stands for the key and
that nobody can guess, so that it is never the route of another socket's peer, or of another key.
"""

from __future__ import annotations

import secrets
from collections import Counter
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from mlx_mesh_broker.authorised import LOOK_S, Authorised
from mlx_mesh_broker.core.quotas import STRANGER
from mlx_mesh_broker.zap import judge
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.transport import KEY_BYTES, RefusedMessage, receiver, sender, unwrapping, wrapping

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import zmq

    from mlx_mesh_broker.sockets import KeyedSockets
    from mlx_mesh_broker.zap import Verdict
    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.keys import Entry

    Send = Callable[[Sequence[Frame]], None]

TAG_BYTES = 16
BATCH = 64
"""Questions answered before messages get their turn; each costs about 30 us, a handshake several times that."""

LOOK_ANEW_S = 0.1
"""How often the directory is looked at again because of a key that nobody knows: it may just have been made. Strangers
that knock all the time cost no more than that.
"""

LOOK_MAX_S = 0.01
"""How long changed entries are read in one go; a thousand of them take five times as long."""

LOGGED_PER_S = 10
"""Refusals that are logged in a second; the others are counted."""


class Door:
    """One ROUTER for peers of one role.

    Attributes:
        holder: who sent the message that :meth:`receive` returned last; STRANGER if their key is not authorised now.
    """

    def __init__(self, socket: zmq.Socket[bytes], role: str, authorised: Authorised) -> None:
        self.fd = socket.fileno()
        self.holder = STRANGER
        self._role = role
        self._authorised = authorised
        self._secret = secrets.token_bytes(TAG_BYTES)
        self._tags: dict[bytes, bytes] = {}
        self._known: set[bytes] = set()
        self._receive = unwrapping(socket, routed=True)
        self._send = wrapping(socket, routed=True)

    def receive(self) -> list[bytes] | None:
        """Return a message behind its route without blocking; None when there is none.

        Raises:
            RefusedMessage: it cannot be taken.
        """
        try:
            frames = self._receive()
        except RefusedMessage as refused:
            refused.first = self._route(refused.first)
            raise
        if frames is not None:
            frames[0] = self._route(frames[0])
        return frames

    def _route(self, first: bytes) -> bytes:
        """Return the route for a User-Id and a routing id, and take note of the holder.

        Both are looked up for each message: a peer may take another's routing id, and a key may have been revoked.
        """
        key = first[:KEY_BYTES]
        self.holder = self._authorised.holder(key.decode("ascii", "replace"), self._role)
        tag = self._tags.get(key)
        if tag is None:  # No more of them than there ever were authorised keys.
            tag = self._tags[key] = blake2b(key, key=self._secret, digest_size=TAG_BYTES).digest()
            self._known.add(tag)
        return tag + first[KEY_BYTES:]

    def beside(self, plain: Send) -> Send:
        """Return a function that sends by this door what has a route of it, and everything else by ``plain``."""
        known, send = self._known, self._send

        def send_message(frames: Sequence[Frame]) -> None:
            route = frames[0]
            if route[:TAG_BYTES] in known:
                send([route[TAG_BYTES:], *frames[1:]])
            else:
                plain(frames)

        return send_message


class Doors:
    """All sockets for peers with keys, and the answers to who may connect.

    Attributes:
        by_role: the doors there are.
        fds: descriptors that announce a question of who may connect.
        counts: how often a role was answered in a way.
    """

    def __init__(self, sockets: KeyedSockets, directory: Path) -> None:
        self.authorised = Authorised(directory)
        self.by_role = {role: Door(each, role, self.authorised) for role, each in sockets.by_role.items()}
        self.fds = [sockets.zap.fileno()]
        self.counts: Counter[tuple[str, str]] = Counter()
        self._receive = receiver(sockets.zap, frames_max=16, routed=True)
        self._send = sender(sockets.zap)
        self._look_due = self._anew_due = 0.0
        self._gone: list[str] = []
        self._second = 0.0
        self._logged = 0

    def beside(self, role: str, plain: Send) -> Send:
        """Return a function that sends to peers with keys of a role, and to those without by ``plain``."""
        door = self.by_role.get(role)
        return plain if door is None else door.beside(plain)

    def revoked(self, now: float) -> list[str]:
        """Return the holders whose keys were revoked since the last time; looks no more than every LOOK_S."""
        if now >= self._look_due:
            self._look(now)
        gone, self._gone = self._gone, []
        return gone

    def admit(self, now: float) -> bool:
        """Answer who may connect; True if there may be more questions, or more changed keys to read, at once."""
        for _ in range(BATCH):
            try:
                frames = self._receive()
            except RefusedMessage:
                continue  # Not answered, and therefore refused.
            if frames is None:
                return self.authorised.behind
            verdict = judge(frames, partial(self._entry, now), list(self.by_role))
            if verdict is not None:
                self._tell(now, verdict)
                self._send(verdict.reply)
        return True

    def _entry(self, now: float, public: str) -> Entry | None:
        """Return the entry of a key, also of one that was made a moment ago."""
        entry = self.authorised.entry(public)
        if entry is None and now >= self._anew_due:
            self._anew_due = now + LOOK_ANEW_S
            self._look(now)
            entry = self.authorised.entry(public)
        return entry

    def _look(self, now: float) -> None:
        self._gone += self.authorised.look(LOOK_MAX_S)
        self._look_due = now if self.authorised.behind else now + LOOK_S

    def _tell(self, now: float, verdict: Verdict) -> None:
        self.counts[verdict.role, verdict.outcome] += 1
        if verdict.outcome == "accepted":
            log("debug", "auth_accepted", name=verdict.name, role=verdict.role, address=verdict.address)
            return
        if now - self._second >= 1.0:
            self._second, self._logged = now, 0
        self._logged += 1
        if self._logged <= LOGGED_PER_S:
            name = verdict.name or "unknown"
            log(
                "warning", "auth_refused", name=name, role=verdict.role, reason=verdict.outcome, address=verdict.address
            )
