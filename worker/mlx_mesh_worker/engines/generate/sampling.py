"""Choosing tokens. The random number of a token depends on the seed and its place in the text, and on nothing else.

So a request gives the same tokens alone, in any batch, and when it is run a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_logits_processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_worker.engines.generate.request import Sampling

    Processor = Callable[[mx.array, mx.array], mx.array]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_MASK: Final = 2**64 - 1
"""SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195): neighbouring seeds and places share nothing."""


def key_of(seed: int, position: int) -> mx.array:
    """Return the random key of the token at a place of a text."""
    value = (seed * _GOLDEN + position + 1) * _GOLDEN & _MASK
    for shift, factor in _MIX:
        value = (value ^ value >> shift) * factor & _MASK
    return mx.random.key(value ^ value >> 31)


class Sampler:
    """Chooses the tokens of one request, one for each call.

    Attributes:
        position: how many tokens have been chosen, those of an earlier attempt included.
    """

    def __init__(self, sampling: Sampling, position: int = 0) -> None:
        self._sampling = sampling
        self.position = position

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Return the token, of shape ``(1,)``, for log probabilities of shape ``(1, vocabulary)``."""
        position, self.position = self.position, self.position + 1
        chosen = self._sampling
        if 0 < chosen.top_p < 1:
            logprobs = apply_top_p(logprobs, chosen.top_p)
        if chosen.min_p:
            logprobs = apply_min_p(logprobs, chosen.min_p)
        if 0 < chosen.top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, chosen.top_k)
        return mx.random.categorical(logprobs / chosen.temperature, key=key_of(chosen.seed, position))


def processors(sampling: Sampling) -> list[Processor]:
    """Return what changes the logits before a token is chosen; empty for the usual request."""
    made: list[Processor] = make_logits_processors(
        logit_bias=sampling.logit_bias or None,
        repetition_penalty=sampling.repetition_penalty or None,
        presence_penalty=sampling.presence_penalty or None,
        frequency_penalty=sampling.frequency_penalty or None,
    )
    return made
