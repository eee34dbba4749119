"""Prompts that begin alike nowhere, so that no prefix cache helps anybody by chance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.embed.texts import texts

SHORTEST, LONGEST = 20, 200
"""Tokens of a prompt."""

MAX_TOKENS = 64
VARIED = 16
"""Texts end at different times, as in life: they have this many tokens more or fewer."""

SEED = 11


class Prompts:
    """An endless text, of which each prompt is a part that begins at a word of its own.

    Everybody is to be given the same prompts, so they are made in one place and handed around in plans.

    Args:
        folder: of the model, for its tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._words = " ".join(texts()).split()
        # The tokenizer splits at spaces first, so that the tokens of a text are those of its words.
        self._tokens = [len(each.ids) for each in tokenizer.encode_batch([f" {word}" for word in self._words])]
        self._random = random.Random(SEED)
        self._starts = list(range(len(self._words)))
        self._random.shuffle(self._starts)

    def text(self, tokens: int) -> str:
        """Return a text of so many tokens, or a few more.

        Raises:
            ValueError: there are no beginnings left.
        """
        if not self._starts:
            raise ValueError(f"all {len(self._words)} beginnings of prompts are used")
        at, found, words = self._starts.pop(), 0, []
        while found < tokens:
            words.append(self._words[at % len(self._words)])
            found += self._tokens[at % len(self._words)]
            at += 1
        return " ".join(words)

    def requests(self, streams: int, number: int) -> list[tuple[str, int]]:
        """Return prompts with the tokens to generate for each.

        The first of each stream are cut to different parts of a text, as if they had begun earlier: from the start the
        streams end one after another, and none of the measured time is a wave of beginnings.
        """
        found = []
        for index in range(number):
            length = self._random.randint(MAX_TOKENS - VARIED, MAX_TOKENS + VARIED)
            if index < streams:
                length = max(2, length * (index + 1) // streams)
            found.append((self.text(self._random.randint(SHORTEST, LONGEST)), length))
        return found

    def conversation(self, history: int, question: int) -> dict[str, Any]:
        """Return what a user says first and second, of so many tokens."""
        return {"first": self.text(history), "second": self.text(question)}
