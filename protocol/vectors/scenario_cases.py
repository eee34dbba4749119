"""Scenarios by hand, one for each thing that a session of a client has to get right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scenario_recorder import BODY, Recorder, error, final, welcome

from mlx_mesh_wire import messages, pack_body

if TYPE_CHECKING:
    from collections.abc import Callable

CASES: list[Callable[[], Recorder]] = []


def case(name: str, *, welcomed: bool = True, **limits: int) -> Callable[[Callable[[Recorder], None]], None]:
    """Have a function's scenario recorded, with a session that is connected and, as a rule, welcomed."""

    def take(act: Callable[[Recorder], None]) -> None:
        def record() -> Recorder:
            made = Recorder(name)
            made.connected()
            if welcomed:
                made.hear(welcome(**limits))
            act(made)
            return made

        CASES.append(record)

    return take


def _frames(value: object) -> list[bytes]:
    return [bytes(frame) for frame in pack_body(value)]


@case("an answer ends a call, and what comes after it is not for anybody")
def _(at: Recorder) -> None:
    at.start(timeout_ms=2500, lane=0)
    at.hear(final(1), BODY)
    at.hear(final(1), BODY)
    at.hear(error(1, "INTERNAL"))


@case("a time that is nearly over is told as a millisecond")
def _(at: Recorder) -> None:
    at.start(timeout_ms=0.1)
    at.tick(125)


@case("a call ends at its deadline and is cancelled")
def _(at: Recorder) -> None:
    at.start(timeout_ms=3000)
    at.advance(3125)
    at.hear(error(1, "CANCELLED"))


@case("without a broker a call ends at its deadline too", welcomed=False)
def _(at: Recorder) -> None:
    at.start(timeout_ms=1000)
    at.advance(1125)


@case("a cancelled call is never heard of again")
def _(at: Recorder) -> None:
    number = at.start()
    at.cancel(number)
    at.cancel(number)
    at.hear(final(1), BODY)
    at.advance(70_000)


@case("a retry comes after a pause, under a new id")
def _(at: Recorder) -> None:
    at.start()
    at.hear(error(1, "OVERLOADED", retryable=True, after_ms=400))
    at.advance(250)
    at.advance(250)
    at.hear(final(2), BODY)


@case("pauses of retries double")
def _(at: Recorder) -> None:
    at.start()
    for request_id in range(1, 10):
        at.hear(error(request_id, "OUT_OF_MEMORY", retryable=True))
        at.advance(4000)
        at.hear(messages.Pong(1))
    at.hear(final(10), BODY)


@case("there is no retry beyond the deadline, nor of what is final")
def _(at: Recorder) -> None:
    at.start(timeout_ms=1000)
    at.hear(error(1, "OVERLOADED", retryable=True, after_ms=5000))
    at.start()
    at.hear(error(2, "INVALID_REQUEST"), _frames({"index": 3}))
    at.start()
    at.hear(error(3, "NEW_CODE", retryable=True), _frames([1]))
    at.advance(500)
    at.hear(error(4, "NEW_CODE"), [b"\xc1"])


@case("retries end with their budget")
def _(at: Recorder) -> None:
    for _ in range(14):
        at.start()
    for request_id in range(1, 15):
        at.hear(error(request_id, "OVERLOADED", retryable=True))


@case("a call that waits for its retry is cancelled without a word, and another expires")
def _(at: Recorder) -> None:
    first, _ = at.start(), at.start(timeout_ms=1000)
    at.hear(error(1, "OVERLOADED", retryable=True, after_ms=500))
    at.hear(error(2, "OVERLOADED", retryable=True, after_ms=900))
    at.cancel(first)
    at.advance(2000)


@case("calls beyond the places wait by lane", outstanding_max=2)
def _(at: Recorder) -> None:
    for lane in (1, 1, 2, 0):
        at.start(lane=lane)
    at.cancel(at.start(lane=0))
    at.hear(final(1), BODY)
    at.hear(error(2, "INTERNAL"))


@case("a cancel makes room for what waits", outstanding_max=1)
def _(at: Recorder) -> None:
    first = at.start()
    at.start(lane=2)
    at.cancel(first)
    at.tick()


@case("a waiting call expires where it waits", outstanding_max=1)
def _(at: Recorder) -> None:
    at.start()
    at.start(timeout_ms=1000)
    at.advance(1125)


@case("more places let more go out")
def _(at: Recorder) -> None:
    at.hear(welcome(outstanding_max=1))
    for _ in range(3):
        at.start()
    at.hear(welcome(outstanding_max=2))
    at.hear(welcome())


@case("closing ends every call and says goodbye", outstanding_max=2)
def _(at: Recorder) -> None:
    for _ in range(3):
        at.start()
    at.hear(error(1, "OVERLOADED", retryable=True))
    at.close()


@case("a pause that ends at the deadline is too long")
def _(at: Recorder) -> None:
    at.start(timeout_ms=4000)
    at.hear(error(1, "OVERLOADED", retryable=True, after_ms=3975))


@case("every call earns a tenth of a retry")
def _(at: Recorder) -> None:
    for request_id in range(1, 13):
        at.start()
        at.hear(error(request_id, "OVERLOADED", retryable=True))
