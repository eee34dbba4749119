"""What CURVE seals of a frame and what it does not, by the libzmq that is installed, and what that lets pass.

Where one of these fails because a later libzmq notices, strike what it states out of docs/security.md.
"""

from __future__ import annotations

from itertools import product

import pytest

from tests.security.framing import COMMAND, MORE, Frame, carried, carried_wrapped

SENT = [[b"h0", b"b0"], [b"h1", b"b1"], [b"h2", b"b2"], [b"h3", b"b3"]]
B0, H1, B1 = 1, 2, 3
"""Places of frames."""


def with_bits(frames: list[Frame], place: int, bits: int) -> list[Frame]:
    return [frame._replace(flags=frame.flags | bits) if at == place else frame for at, frame in enumerate(frames)]


def without(frames: list[Frame], *places: int) -> list[Frame]:
    return [frame for at, frame in enumerate(frames) if at not in places]


def with_byte(frames: list[Frame], place: int, at: int) -> list[Frame]:
    body = bytearray(frames[place].body)
    body[at] ^= 0x10
    return [*frames[:place], frames[place]._replace(body=bytes(body)), *frames[place + 1 :]]


def test_what_nobody_edits_comes_as_it_was_sent() -> None:
    assert (SENT, False) == carried(SENT, lambda frames: frames)
    large = [[b"h0", bytes(1000)], [b"h1", b"b1"]]
    assert (large, False) == carried(large, lambda frames: frames)


def test_a_frame_marked_as_a_command_is_gone_and_the_connection_lives() -> None:
    header = carried(SENT, lambda frames: with_bits(frames, H1, COMMAND))
    assert ([SENT[0], [b"b1"], *SENT[2:]], False) == header
    body = carried(SENT, lambda frames: with_bits(frames, B1, COMMAND))
    assert ([SENT[0], [b"h1", b"h2", b"b2"], SENT[3]], False) == body


def test_a_message_whose_last_frame_is_marked_as_one_of_more_is_joined_to_the_next() -> None:
    joined = carried(SENT, lambda frames: with_bits(frames, B1, MORE))
    assert ([SENT[0], [b"h1", b"b1", b"h2", b"b2"], SENT[3]], False) == joined


def test_no_message_can_be_ended_early_since_that_bit_is_sealed_too() -> None:
    cleared = carried(SENT, lambda frames: [frame._replace(flags=frame.flags & ~MORE) for frame in frames])
    assert (SENT, False) == cleared


def test_frames_that_are_taken_out_are_not_missed() -> None:
    assert ([SENT[0], *SENT[2:]], False) == carried(SENT, lambda frames: without(frames, H1, B1))
    other = carried(SENT, lambda frames: without(frames, B0, H1))
    assert ([[b"h0", b"b1"], *SENT[2:]], False) == other, "the body of one message under the header of another"


@pytest.mark.parametrize("at", [0, 15, 16, 33], ids=["command", "nonce", "seal", "content"])
def test_another_byte_of_the_content_ends_the_connection(at: int) -> None:
    outcome = carried(SENT, lambda frames: with_byte(frames, B1, at))
    assert ([SENT[0]], True) == outcome


def test_a_frame_that_comes_twice_or_after_a_later_one_ends_the_connection() -> None:
    twice = carried(SENT, lambda frames: [*frames[: B1 + 1], *frames[H1:]])
    assert (SENT[:2], True) == twice
    swapped = carried(SENT, lambda frames: [*frames[:H1], frames[B1], frames[H1], *frames[B1 + 1 :]])
    assert ([SENT[0], [b"b1"]], True) == swapped


WAYS = ("let pass", "take out", "mark as a command", "join to the next")


def edited(frames: list[Frame], ways: tuple[str, ...]) -> list[Frame]:
    """Do to each of the first frames what there is a way for."""
    kept = []
    for frame, way in zip(frames, [*ways, *["let pass"] * len(frames)], strict=False):
        bits = {"mark as a command": COMMAND, "join to the next": MORE}.get(way, 0)
        if way != "take out":
            kept.append(frame._replace(flags=frame.flags | bits))
    return kept


@pytest.mark.parametrize("first", WAYS)
def test_of_a_wrapped_message_nothing_is_taken_and_nothing_is_added_to_it(first: str) -> None:
    """Whatever is done to the frames of three messages: each comes as it was sent or does not come."""
    sent = [*SENT, [b"the end"]]
    for ways in product([first], WAYS, WAYS):
        taken = [
            message for message in carried_wrapped(sent, lambda frames, ways=ways: edited(frames, ways)) if message
        ]
        rest = iter(sent)
        assert all(message in rest for message in taken), (ways, taken)
        untouched = [message for message, way in zip(SENT[:2], ways, strict=False) if way == "let pass"]
        joined = {"join to the next"} & set(ways)
        assert joined or all(message in taken for message in untouched), (ways, taken)


def test_what_is_let_pass_comes_wrapped_too() -> None:
    sent = [*SENT, [b"buffers", b"", bytes(100_000), b"x"], [b"the end"]]
    assert sent == carried_wrapped(sent, lambda frames: frames)
