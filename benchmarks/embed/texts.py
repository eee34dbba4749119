"""Real text: paragraphs of the standard library's docstrings, in requests of a few."""

from __future__ import annotations

from mlx_mesh.cli.demo_texts import paragraphs

TEXTS_PER_REQUEST = 4
"""About 0.06 s of work for one core; a worker holds nine requests and answers them in bursts, so few are better."""


def texts() -> list[str]:
    """Return the paragraphs of docstrings; those of this project change too often to be measured with."""
    return [paragraph.text for paragraph in paragraphs() if ".md" not in paragraph.place]


def requests() -> list[list[str]]:
    """Return all texts as the requests that every contestant gets."""
    every = texts()
    return [every[start : start + TEXTS_PER_REQUEST] for start in range(0, len(every), TEXTS_PER_REQUEST)]
