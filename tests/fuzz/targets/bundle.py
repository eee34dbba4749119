"""A bundle opens into messages that make up all of its bytes, or is a DecodeError; what opened it bundles again."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_mesh_wire import DecodeError, decode_header, encode_header, messages, pack_body
from mlx_mesh_wire.bundle import bundles, opened
from mlx_mesh_wire.messages import Bundle
from tests.fuzz.tape import Tape


def one(data: bytes) -> int:
    tape = Tape(data)
    try:
        bundle = decode_header(tape.blob())
    except DecodeError:
        return 1
    if type(bundle) is not Bundle:
        return 1
    payload = tape.rest()
    try:
        parts = opened(bundle, [payload])
    except DecodeError:
        return 1
    assert payload == b"".join(frame for part in parts for frame in part)
    mail = []
    for header, *frames in parts:
        try:
            message = decode_header(header)
        except DecodeError:
            continue
        if message is not None and type(message) is not Bundle:
            mail.append((message, tuple(frames)))
    if mail:
        assert mail == [each for carried, _ in bundles(mail) for each in carried]
    return 1


def seeds() -> Iterator[bytes]:
    body = bytes(pack_body("b")[0])
    parts = [encode_header(messages.Cancel(1)), b"", encode_header(messages.Final(1, 1, 0, 0, 0)), body]
    for count in (2, 4):
        header = encode_header(Bundle([len(part) for part in parts[:count]]))
        yield bytes([len(header)]) + header + b"".join(parts[:count])
