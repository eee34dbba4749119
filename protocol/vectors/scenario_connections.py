"""Scenarios by hand of connections: greetings, silence, new brokers, and what may be sent before a broker is known."""

from __future__ import annotations

from scenario_cases import case
from scenario_recorder import BODY, Recorder, error, final, welcome

from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag


@case("after a RESET all is sent again under its id, and a second RESET is the same one")
def _(at: Recorder) -> None:
    at.start()
    at.start(op="mesh.status")
    at.now_ms += 1000
    at.hear(messages.Reset("e2"))
    at.hear(messages.Reset("e2"))
    at.hear(welcome("e2"))
    at.hear(final(2), BODY)
    at.hear(final(1), BODY)


@case("a RESET long after a HELLO without an answer means that the HELLO was lost")
def _(at: Recorder) -> None:
    at.start()
    at.hear(messages.Reset("e2"))
    at.tick(875)
    at.hear(messages.Reset("e3"))
    at.tick(125)
    at.hear(messages.Reset("e3"))


@case("silence is pinged, and then the connection is made anew and all sent again")
def _(at: Recorder) -> None:
    at.start()
    at.advance(6000)
    at.hear(welcome())
    at.advance(500)
    at.hear(messages.Pong(1))
    at.advance(2000)


@case("an idle client says something now and then, and silence is nothing to it")
def _(at: Recorder) -> None:
    at.advance(65_000)
    at.start()
    at.advance(2000)


@case("pings are answered, and what is not for clients is ignored")
def _(at: Recorder) -> None:
    at.hear(messages.Ping(8))
    at.hear(messages.Quiet(True))
    at.hear(messages.Bye("over"))
    at.hear(error(55, "INTERNAL"))
    at.hear(messages.Chunk(55, 0), BODY)
    at.hear(messages.Again(55, 0))


@case("the own pause of a process is no silence of the broker")
def _(at: Recorder) -> None:
    at.start()
    at.tick(20_000)
    for _ in range(6):
        at.tick(875)


@case("at most once waits for the WELCOME", welcomed=False)
def _(at: Recorder) -> None:
    at.start(flags=Flag.AT_MOST_ONCE)
    at.start()
    at.hear(welcome())
    at.connected()
    at.hear(welcome())


@case("at most once that a new broker dropped unread has not been sent")
def _(at: Recorder) -> None:
    at.start(flags=Flag.AT_MOST_ONCE)
    at.start(flags=Flag.AT_MOST_ONCE)
    at.hear(messages.Reset("e2", 2))
    at.hear(welcome("e2"))


@case("a broker of another version ends every call", welcomed=False)
def _(at: Recorder) -> None:
    at.start()
    at.hear(error(0, "PROTOCOL_ERROR"))
    at.hear(welcome())
    at.start()
    at.hear(error(0, "PROTOCOL_ERROR"))
    at.hear(error(0, "OVERLOADED"))


@case("a client without a key that is taken has all its calls refused", outstanding_max=1)
def _(at: Recorder) -> None:
    at.start()
    at.start()
    at.hear(error(0, "UNAUTHORIZED"))
    at.start()


@case("intervals of nothing are the usual ones")
def _(at: Recorder) -> None:
    at.hear(welcome(ping_ms=0, silent_ms=0))
    at.start()
    at.advance(6000)


@case("a new connection has as much time as the first, however late it is made")
def _(at: Recorder) -> None:
    at.start(timeout_ms=600_000)
    for _ in range(5):
        at.tick(1000)
    at.now_ms += 3000
    at.connected()
    at.advance(12_000)
