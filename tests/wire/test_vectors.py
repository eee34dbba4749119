"""The conformance vectors, run against the codec."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_wire import DecodeError, Tensor, decode_header, encode_header, messages, pack_body, unpack_body
from mlx_mesh_wire.bundle import opened
from mlx_mesh_wire.wrapping import unwrap, wrap

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
HEADERS = json.loads((VECTORS / "headers.json").read_text(encoding="utf-8"))
BODIES = json.loads((VECTORS / "bodies.json").read_text(encoding="utf-8"))
BUNDLES = json.loads((VECTORS / "bundles.json").read_text(encoding="utf-8"))
WRAPPED = json.loads((VECTORS / "wrapped.json").read_text(encoding="utf-8"))


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$bytes": text}:
            return bytes.fromhex(text)
        case {"$float": text}:
            return float(text)
        case {"$int": text}:
            return int(text)
        case {"$tensor": {"dtype": dtype, "shape": shape, "data": data}}:
            return Tensor(bytes.fromhex(data), dtype, tuple(shape))
    return {key: from_json(item) for key, item in value.items()}


def exact(value: Any) -> Any:
    """Tell 1 from 1.0 and from True, which ``==`` does not."""
    if isinstance(value, Tensor):
        return ("tensor", bytes(value.data), value.dtype, value.shape)
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return (type(value).__name__, value)


def refuses(decode: Callable[[], object], case: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode()
    assert case["error"] == caught.value.code
    assert case["about"] in caught.value.message


@pytest.mark.parametrize("case", HEADERS, ids=lambda case: case["name"])
def test_header(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    if "error" in case:
        refuses(lambda: decode_header(data), case)
        return
    message = decode_header(data)
    if case["decoded"] is None:
        assert message is None
        return
    cls = getattr(messages, case["decoded"]["type"])
    assert type(message) is cls
    assert exact(list(from_json(case["decoded"]["fields"]).values())) == exact(list(message))
    if case.get("canonical"):
        assert data == encode_header(message)


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case["name"])
def test_body(case: dict[str, Any]) -> None:
    frames = [bytes.fromhex(frame) for frame in case["hex"]]
    if "tail" in case:
        each, times = case["tail"]
        frames[0] += bytes.fromhex(each) * times
    if "error" in case:
        refuses(lambda: unpack_body(frames), case)
        return
    value = unpack_body(frames)
    assert exact(from_json(case["decoded"])) == exact(value)
    assert exact(value) == exact(unpack_body(pack_body(value)))
    if case["canonical"]:
        assert frames == [bytes(frame) for frame in pack_body(value)]


@pytest.mark.parametrize("case", BUNDLES, ids=lambda case: case["name"])
def test_bundle(case: dict[str, Any]) -> None:
    header, *frames = [bytes.fromhex(frame) for frame in case["hex"]]
    bundle = decode_header(header)
    assert isinstance(bundle, messages.Bundle)
    if "error" in case:
        refuses(lambda: opened(bundle, frames), case)
        return
    assert case["messages"] == [[part.hex() for part in message] for message in opened(bundle, frames)]


@pytest.mark.parametrize("case", WRAPPED, ids=lambda case: case["name"])
def test_wrapped(case: dict[str, Any]) -> None:
    whole = bytes.fromhex(case["hex"])
    if "error" in case:
        refuses(lambda: unwrap(whole), case)
        return
    frames = [bytes.fromhex(frame) for frame in case["frames"]]
    assert frames == unwrap(whole)
    assert whole == wrap(frames) == wrap([memoryview(frame) for frame in frames])


def test_the_files_are_what_their_generator_writes(tmp_path: Path) -> None:
    script = tmp_path / "make_vectors.py"
    script.write_text((VECTORS / "make_vectors.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, script], check=True)
    for name in ("headers.json", "bodies.json", "bundles.json", "wrapped.json", "affinity.json"):
        assert (VECTORS / name).read_bytes() == (tmp_path / name).read_bytes()


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    for cases in (HEADERS, BODIES, BUNDLES, WRAPPED):
        names = [case["name"] for case in cases]
        assert len(set(names)) == len(names)
    assert len(HEADERS) + len(BODIES) >= 120
