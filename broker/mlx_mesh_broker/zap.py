"""Who may connect: the answers that libzmq asks for before it completes a CURVE handshake (ZAP, RFC 27).

The domain of a request says on which socket, and so for which role, a key wants to be served. Whatever is not
understood is refused; so is everybody while nobody answers.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_wire.keys import Entry

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
MECHANISM = b"CURVE"
KEY_RAW_BYTES = 32
FRAMES = 9
"""Route, delimiter, version, request id, domain, address, identity, mechanism, key."""

REFUSED = b"400"
ACCEPTED = b"200"
FAILED = b"500"
ADDRESS_MAX_CHARS = 64


class Verdict(NamedTuple):
    """The answer to a request and what is to be told of it; ``name`` is empty for a key that nobody knows."""

    reply: list[bytes]
    outcome: str
    role: str
    name: str
    address: str


def judge(frames: Sequence[bytes], lookup: Callable[[str], Entry | None], domains: Sequence[str]) -> Verdict | None:
    """Return the verdict on a request; None for one that cannot even be answered.

    Args:
        frames: as a ROUTER receives them.
        lookup: finds an authorised key by its text in Z85.
        domains: the roles that have a socket.
    """
    if len(frames) < 4 or frames[1]:  # noqa: PLR2004  up to the request id
        return None
    role = frames[4].decode("ascii", "replace") if len(frames) > 4 else ""  # noqa: PLR2004  as above
    address = frames[5][:ADDRESS_MAX_CHARS].decode("ascii", "replace") if len(frames) > 5 else ""  # noqa: PLR2004
    if role not in domains:
        role = "none"

    def answer(code: bytes, outcome: str, name: str = "", user: str = "") -> Verdict:
        reply = [frames[0], b"", VERSION, frames[3], code, outcome.encode(), user.encode(), b""]
        return Verdict(reply, outcome, role, name, address)

    if frames[2] != VERSION or len(frames) != FRAMES:
        return answer(FAILED, "malformed")
    if role == "none":
        return answer(REFUSED, "wrong_domain")
    if frames[7] != MECHANISM or len(frames[8]) != KEY_RAW_BYTES:
        return answer(REFUSED, "no_key")
    key = as_text(frames[8])
    entry = lookup(key)
    if entry is None:
        return answer(REFUSED, "unknown_key")
    if entry.role != role:
        return answer(REFUSED, "wrong_role", entry.name)
    return answer(ACCEPTED, "accepted", entry.name, key)


def as_text(key: bytes) -> str:
    """Return 32 bytes as 40 characters of Z85 (RFC 32)."""
    # Z85 is base 85, as Python's, in another alphabet.
    return base64.b85encode(key).translate(_TO_Z85).decode("ascii")


_PYTHON = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TO_Z85 = bytes.maketrans(_PYTHON, _Z85)
