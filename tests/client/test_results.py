"""What ``embed`` returns: vectors of many requests, seen as one sequence."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from mlx_mesh._results import Embeddings
from mlx_mesh_wire import ProtocolError, Tensor

DIMENSION = 3


def part(first: int, rows: int, truncated: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the result of one request: rows that say their place among all."""
    numbers = [float(first + row) for row in range(rows) for _ in range(DIMENSION)]
    return {
        "vectors": Tensor(struct.pack(f"<{len(numbers)}f", *numbers), "float32", (rows, DIMENSION)),
        "tokens": [first + row for row in range(rows)],
        "truncated": list(truncated),
        "model": "m",
    }


@pytest.fixture
def found() -> Embeddings:
    """Nine vectors of three requests."""
    return Embeddings([part(0, 4), part(4, 1, truncated=(0,)), part(5, 4, truncated=(1, 3))])


ROWS = [[float(index)] * DIMENSION for index in range(9)]


def test_the_parts_are_one_sequence(found: Embeddings) -> None:
    assert 9 == len(found)
    assert ROWS == list(found) == found.tolist() == [found[index] for index in range(9)]
    assert (list(range(9)), [4, 6, 8], "m", 3) == (found.tokens, found.truncated, found.model, found.dimension)
    assert np.array_equal(ROWS, found.numpy())


def test_it_is_indexed_and_sliced_as_a_list(found: Embeddings) -> None:
    assert [ROWS[-1], ROWS[-9]] == [found[-1], found[-9]]
    for cut in (slice(None), slice(3, 6), slice(None, None, -2), slice(-3, None), slice(7, 2), slice(0, 99)):
        assert ROWS[cut] == found[cut]


@pytest.mark.parametrize("index", [9, -10, 10**9])
def test_an_index_beyond_it_is_told(found: Embeddings, index: int) -> None:
    with pytest.raises(IndexError, match=f"index {index} is out of range for 9 vectors"):
        found[index]


class Counting(list[int]):
    """A list that counts how often it is looked into."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)

    def __iter__(self) -> Any:
        for item in super().__iter__():
            self.looks += 1
            yield item


def counting(requests: int) -> tuple[Embeddings, Counting]:
    found = Embeddings([part(4 * index, 4) for index in range(requests)])
    found._starts = looks = Counting(found._starts)
    return found, looks


def test_all_vectors_of_many_requests_are_read_in_one_pass() -> None:
    found, starts = counting(1000)
    assert 4000 == len(found.tolist())
    assert 0 == starts.looks, "iteration goes part by part and searches for none"


def test_one_vector_of_many_requests_is_found_by_bisection() -> None:
    found, starts = counting(1024)
    assert [4090.0] * DIMENSION == found[4090]
    assert 1 <= starts.looks <= 13


VECTORS = Tensor(bytes(16), "float32", (2, 2))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (["text"], "is a str"),
        ([{}], "no matrix"),
        ([{"vectors": [1.0]}], "no matrix"),
        ([{"vectors": Tensor(bytes(16), "float32", (4,))}], "no matrix"),
        ([{"vectors": Tensor(bytes(16), "float64", (1, 2))}], "no matrix"),
        ([{"vectors": Tensor(b"", "float32", (2, 0))}], "empty vectors"),
        ([{"vectors": VECTORS}, {"vectors": Tensor(bytes(16), "float32", (4, 1))}], "dimension 1, those before have 2"),
        ([{"vectors": VECTORS, "tokens": 5}], "tokens that are no list"),
        ([{"vectors": VECTORS, "truncated": ["x"]}], "truncated that are no list"),
        ([{"vectors": VECTORS, "model": 5}], "model that is no string"),
    ],
)
def test_what_is_no_result_of_embed_is_refused(parts: list[Any], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        Embeddings(parts)
