"""Scenarios by hand of streams: chunks once and in order, credit, and how a text goes on elsewhere."""

from __future__ import annotations

from scenario_cases import case
from scenario_recorder import BODY, Recorder, error, final, tokens, welcome

from mlx_mesh_wire import messages, pack_body
from mlx_mesh_wire.messages import Flag


@case("chunks are told once and in order, and credit is granted by half windows")
def _(at: Recorder) -> None:
    number = at.start(window=4)
    for seq in (0, 1, 1, 0, 2):
        at.hear(messages.Chunk(1, seq), [b"%d" % seq])
    at.read(number, 3)
    at.hear(error(1, "WORKER_LOST", retryable=True))
    at.read(number, 2)


@case("a slow reader grants credit once a second")
def _(at: Recorder) -> None:
    number = at.start(window=16)
    for seq in range(3):
        at.hear(messages.Chunk(1, seq), [b"x"])
        at.now_ms += 1125
        at.read(number)


@case("a chunk that is missing is asked for once, and the stream goes on from there")
def _(at: Recorder) -> None:
    number = at.start(window=4)
    at.hear(messages.Chunk(1, 0), [b"0"])
    at.read(number)
    for seq in (2, 3, 1, 2):
        at.hear(messages.Chunk(1, seq), [b"%d" % seq])
    at.hear(final(1, 3), BODY)


@case("an end before the last chunks is no end")
def _(at: Recorder) -> None:
    at.start(window=4)
    at.hear(final(1, 1), BODY)
    at.hear(messages.Chunk(1, 0), [b"0"])
    at.hear(final(1, 1), BODY)


@case("a gap that stays ends the connection")
def _(at: Recorder) -> None:
    at.start(window=8)
    at.hear(messages.Chunk(1, 3), [b"3"])
    at.now_ms += 4875
    at.hear(messages.Chunk(1, 4), [b"4"])
    at.now_ms += 125
    at.hear(messages.Chunk(1, 5), [b"5"])
    at.advance(0)


def _text(at: Recorder) -> int:
    """Begin a stream that can go on elsewhere; two chunks with three tokens have come."""
    number = at.start(window=8, flags=Flag.RESUMABLE)
    at.hear(messages.Chunk(1, 0), tokens(7, 2**32 - 1))
    at.hear(messages.Chunk(1, 1), tokens(256))
    return number


@case("a text that was cut off is sent again with the tokens that came")
def _(at: Recorder) -> None:
    at.read(_text(at))
    at.hear(messages.Again(1, 2))
    at.hear(messages.Chunk(1, 2), tokens(5))
    at.hear(messages.Again(1, 3))
    at.hear(final(1, 3), BODY)


@case("chunks without tokens have an empty state")
def _(at: Recorder) -> None:
    at.start(window=8, flags=Flag.RESUMABLE)
    at.hear(messages.Chunk(1, 0), tokens())
    at.hear(messages.Again(1, 1))


@case("a text of which nothing came is sent again as it was")
def _(at: Recorder) -> None:
    at.start(window=8, flags=Flag.RESUMABLE)
    at.hear(messages.Again(1, 0))


@case("a new broker is told the state, and that counts as a move")
def _(at: Recorder) -> None:
    _text(at)
    at.hear(messages.Reset("e2"))
    at.hear(welcome("e2"))


@case("the same broker on a new connection is no move")
def _(at: Recorder) -> None:
    _text(at)
    at.advance(6000)
    at.hear(welcome())


@case("what was sent again with chunks and dropped unread has been sent all the same")
def _(at: Recorder) -> None:
    _text(at)
    at.hear(messages.Again(1, 2))
    at.hear(messages.Reset("e2", 1))


@case("a client with fewer chunks than were sent makes a new connection")
def _(at: Recorder) -> None:
    _text(at)
    at.hear(messages.Again(1, 4))
    at.advance(0)


@case("a question about what is over or no stream is not answered")
def _(at: Recorder) -> None:
    at.start()
    at.hear(messages.Again(1, 2))


ODD_CHUNKS = ("x", {}, {"tokens": "x"}, {"tokens": [-1]}, {"tokens": [1 << 32]}, {"tokens": None}, 5)
for odd in (b"\xc1", *(bytes(pack_body(value)[0]) for value in ODD_CHUNKS)):

    @case(f"a stream of another kind has no state: {odd.hex()}")
    def _(at: Recorder, odd: bytes = odd) -> None:
        _text(at)
        at.hear(messages.Chunk(1, 2), [odd])
        at.hear(messages.Again(1, 3))


@case("an expired call says nothing more, whatever its reader does")
def _(at: Recorder) -> None:
    number = at.start(timeout_ms=2000, window=2)
    at.hear(messages.Chunk(1, 0), BODY)
    at.advance(3000)
    at.read(number, 2)
    at.cancel(number)
