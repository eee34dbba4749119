"""Texts to token ids, by the folder's ``tokenizer.json`` and prepared as by sentence-transformers. Imports no MLX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_mesh_wire import InvalidRequestError
from mlx_mesh_worker.engine import EngineLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Encoding

    from mlx_mesh_worker.engines.embed.config import EncoderConfig

HEAD_CHARS_PER_TOKEN: Final = 32
"""Of a long text only a head is read if that fills the model: tokens have 1 to 6 characters in most languages.

Tokenising all of a request of 64 MiB, to throw nearly all of it away, takes 13 s and 2 GB.
"""

HEAD_GROWTH: Final = 16
"""A head that does not fill the model is read again so many times as long: a gap of some thousand characters, or a word
as long as that, does not cost the reading of all that follows it."""


class Row(NamedTuple):
    """One text: its token ids, special ones included, and whether it was cut."""

    ids: Sequence[int]
    truncated: bool


class TextTokenizer:
    """The tokenizer of a model folder.

    Raises:
        EngineLoadError: naming the file.

    Attributes:
        ids_end: one more than the largest token id.
    """

    def __init__(self, folder: Path, config: EncoderConfig) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise EngineLoadError(f"{path} is missing")
        try:
            self._tokenizer = tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise EngineLoadError(f"{path} cannot be read: {error}") from error
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if config.tokens_max <= special:
            # With no room left, tokenizers would cut nothing at all.
            raise EngineLoadError(
                f"{folder}: an input of {config.tokens_max} tokens has no room beside the {special} special tokens"
            )
        tokenizer.enable_truncation(config.tokens_max)
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        self.ids_end = max(tokenizer.get_vocab_size(with_added_tokens=False), max(added, default=-1) + 1)
        self._lower = config.lower
        self._head_chars = HEAD_CHARS_PER_TOKEN * config.tokens_max

    def __call__(self, texts: Sequence[str], first: int = 0) -> list[Row]:
        """Return the token ids of each text.

        Args:
            texts: some texts of a request, in order.
            first: index of the first of them in the request.

        Raises:
            InvalidRequestError: a text has no tokens at all, which only tokenizers without special tokens make of it.
        """
        ready = [text.strip().lower() if self._lower else text.strip() for text in texts]
        encodings = self._tokenizer.encode_batch_fast([text[: self._head_chars] for text in ready])
        rows = [self._row(text, encoding) for text, encoding in zip(ready, encodings, strict=True)]
        for index, row in enumerate(rows, first):
            if not row.ids:
                where = {"field": "texts", "index": index}
                raise InvalidRequestError(f"texts[{index}] has nothing that the model reads", details=where)
        return rows

    def _row(self, text: str, encoding: Encoding) -> Row:
        read = self._head_chars
        while read < len(text) and len(encoding.overflowing) < 2:  # noqa: PLR2004
            # The head may not fill the model, or its last word, which was cut, may reach into what the model reads.
            read *= HEAD_GROWTH
            (encoding,) = self._tokenizer.encode_batch_fast([text[:read]])
        return Row(encoding.ids, len(encoding.overflowing) > 0)
