"""Log probabilities of tokens, as a request may ask for them."""

from __future__ import annotations

from math import isfinite
from typing import Any

import mlx.core as mx

from mlx_mesh_worker.engines.generate.request import TOP_LOGPROBS_MAX


def token_details(logprobs: mx.array, token: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Return a token's log probability, the likeliest tokens, and theirs."""
    count = min(TOP_LOGPROBS_MAX, logprobs.shape[-1])
    likeliest = mx.argsort(-logprobs)[:count]
    return logprobs[token], likeliest, logprobs[likeliest]


def read_details(
    own: mx.array, likeliest: mx.array, theirs: mx.array, count: int
) -> tuple[float, list[tuple[int, float]]]:
    """Return what :func:`token_details` gave as numbers, with as many of the likeliest tokens.

    Tokens that a schema or a bias rules out are not among these.
    """
    pairs = zip(as_list(likeliest), as_list(theirs), strict=True)
    return as_list(own), [(token, logprob) for token, logprob in pairs if isfinite(logprob)][:count]


def as_list(array: mx.array) -> Any:
    """Return the numbers of an array."""
    return array.tolist()
