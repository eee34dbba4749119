"""Real text: paragraphs of the standard library's docstrings, in requests of a few."""

from __future__ import annotations

from mlx_mesh.cli.demo_texts import docstrings

TEXTS_PER_REQUEST = 4
"""About 0.06 s of work for one core; a worker holds nine requests and answers them in bursts, so few are better."""


TEXTS = 500


def texts() -> list[str]:
    """Return so many paragraphs of docstrings; those of this project change too often to be measured with."""
    return list(dict.fromkeys(paragraph.text for paragraph in docstrings()))[:TEXTS]


def requests() -> list[list[str]]:
    """Return all texts as the requests that every contestant gets."""
    every = texts()
    return [every[start : start + TEXTS_PER_REQUEST] for start in range(0, len(every), TEXTS_PER_REQUEST)]
