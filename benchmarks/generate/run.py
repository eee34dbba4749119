"""Runs the generate benchmark: streams in rounds, then what happens beside them."""

from __future__ import annotations

import json
import struct
import tempfile
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.generate.contest import BARE, MESH, ONE_PROCESS, REQUESTS, SERVER, Contest
from benchmarks.generate.prompts import Prompts
from benchmarks.generate.summary import data, plot, targets
from benchmarks.llama import make_llama
from benchmarks.progress import progress
from benchmarks.results import Result

SIZE = "small"
PARAMETERS_MIN = 20_000_000
"""Fewer, and what is measured is Python and not a model."""


class Scale(NamedTuple):
    """How much is measured.

    Attributes:
        seconds: that are measured, by number of streams.
        side: streams beside which clients leave and a long prompt is read.
        long: tokens of the long prompt.
        history: tokens of what a conversation begins with.
    """

    rounds: int
    seconds: dict[int, float]
    side: int
    cancels: int
    longs: int
    long: int
    conversations: int
    history: int
    usual_s: float


Figures = dict[str, dict[str, dict[str, float]]]
"""Of a round: by number of streams and contestant."""

ORDER = (MESH, BARE, SERVER)
FULL = Scale(3, {1: 5.0, 8: 8.0, 16: 10.0, 32: 14.0}, 8, 10, 2, 4000, 3, 1500, 3.0)
QUICK = Scale(1, {1: 1.0, 4: 1.5}, 4, 1, 1, 400, 1, 300, 0.5)

SIDE_PROMPT, SHORT_PROMPT, QUESTION, ANSWER = 40, 20, 40, 32
"""Tokens."""

SHORTS = 40
CANCEL_PAUSE_S = (0.3, 0.9)
"""mlx_lm.server looks after who left every half a second."""


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure; write generate.json and generate.svg, and print the tables."""
    scale = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="bench-llama-", dir="/tmp") as made:
        model = make_llama(Path(made) / SIZE, SIZE)
        parameters = count_parameters(model)
        if parameters < PARAMETERS_MIN:
            raise ValueError(f"the model has {parameters:,} parameters, {PARAMETERS_MIN:,} are the fewest")
        progress(f"generate: a llama of {parameters / 1e6:.1f} M parameters")
        prompts = Prompts(model)
        progress("generate: starting the mesh, mlx_lm.server and a bare BatchGenerator")
        with Contest(model, prompts) as contest:
            rounds = _streams(contest, prompts, scale)
            beside = _beside(contest, prompts, scale)
    found: dict[str, Any] = {"parameters": parameters, "long_tokens": scale.long, "side_streams": scale.side}
    found |= data(rounds, beside, scale.side)
    result = Result("generate", targets(rounds, beside, scale.side), found, quick)
    result.save(folder)
    plot(result, folder)
    return result


def count_parameters(folder: Path) -> int:
    """Return how many numbers the weights of a model are, by the header of its file."""
    with (folder / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _streams(contest: Contest, prompts: Prompts, scale: Scale) -> list[Figures]:
    """Return the figures of each round."""
    rounds = []
    for number in range(scale.rounds):
        rounds.append(found := Figures())
        for streams, seconds in scale.seconds.items():
            plan = {"streams": streams, "seconds": seconds, "requests": prompts.requests(streams, REQUESTS)}
            found[str(streams)] = figures = {}
            for name in ORDER if number % 2 == 0 else reversed(ORDER):
                figures[name] = got = contest.closed(name, plan)
                progress(
                    f"generate: round {number + 1}, {streams:2} streams, {name}: {got['tokens_per_s']:.0f} "
                    f"tokens/s, first token p95 {got['first_p95_ms']:,.0f} ms, gap p50 {got['gap_p50_ms']:.0f} ms"
                )
    return rounds


def _beside(contest: Contest, prompts: Prompts, scale: Scale) -> dict[str, Any]:
    """Return what happens beside running streams, by scene and contestant."""
    plan = _cancel_plan(prompts, scale)
    cancel = {
        name: place.removals(contest.scene("cancel", place, plan)["left"]) for name, place in contest.places.items()
    }
    cancel[ONE_PROCESS] = contest.steps(plan)
    for name, got in cancel.items():
        ms, steps = got["ms"], max(got["steps"])
        progress(f"generate: cancel, {name}: p50 {median(ms):.0f} ms, worst {max(ms):.0f} ms and {steps} steps")
    long: dict[str, list[Any]] = {name: [] for name in contest.places}
    for number in range(scale.longs):
        plan = _long_plan(prompts, scale)
        for name, place in contest.places.items():
            long[name].append(got := contest.scene("long", place, plan))
            progress(
                f"generate: long prompt {number + 1}, {name}: worst gap {got['worst_of_usual']:.1f} x the usual "
                f"{got['usual_ms']:.0f} ms, short first token {median(got['short_first_ms']):,.0f} ms, "
                f"its own {got['long_first_ms']:,.0f} ms"
            )
    plan = _chat_plan(prompts, scale)
    chat = {name: contest.scene("chat", place, plan) for name, place in contest.places.items()}
    for name, got in chat.items():
        known, cold = median(got["known_ms"]), median(got["cold_ms"])
        progress(f"generate: second turn, {name}: {known:,.0f} ms, unknown conversation {cold:,.0f} ms")
    return {"cancel": cancel, "long": long, "chat": chat}


def _cancel_plan(prompts: Prompts, scale: Scale) -> dict[str, Any]:
    texts = [prompts.text(SIDE_PROMPT) for _ in range(scale.side + scale.cancels)]
    return {"streams": scale.side, "prompts": texts, "pause_s": CANCEL_PAUSE_S}


def _long_plan(prompts: Prompts, scale: Scale) -> dict[str, Any]:
    return {
        "prompts": [prompts.text(SIDE_PROMPT) for _ in range(scale.side)],
        "long": prompts.text(scale.long),
        "shorts": [prompts.text(SHORT_PROMPT) for _ in range(SHORTS)],
        "usual_s": scale.usual_s,
    }


def _chat_plan(prompts: Prompts, scale: Scale) -> dict[str, Any]:
    pairs = [
        [prompts.conversation(scale.history, QUESTION), prompts.conversation(scale.history, QUESTION)]
        for _ in range(scale.conversations)
    ]
    return {"conversations": pairs, "answer": ANSWER}
