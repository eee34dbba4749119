"""Loads a model and its tokenizer by mlx-lm, and knows what the engine has to know of both."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_mesh_wire import InvalidRequestError
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.model_files import find_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_mesh_worker.engines.generate.request import GenerateBody

CONTEXT_DEFAULT: Final = 4096
"""Where a configuration does not say how much the model reads."""

CONTEXT_FIELDS: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "model_max_length")


class LoadedModel(NamedTuple):
    """A model that can be batched.

    Attributes:
        names: what it is served under.
        vocabulary: number of token ids.
        context: tokens that prompt and answer may have together.
        end_tokens: ids that end a text.
    """

    names: tuple[str, ...]
    model: Any
    tokenizer: Any
    vocabulary: int
    context: int
    end_tokens: tuple[int, ...]

    def detokenizer(self) -> Any:
        """Return a fresh streaming detokenizer."""
        return self.tokenizer.detokenizer

    def stop_sequences(self, extra: Sequence[int]) -> Any:
        """Return what ends a text, as the generator takes it."""
        from mlx_lm.generate import StopSequences

        return StopSequences([[token] for token in (*self.end_tokens, *extra)])

    def prompt_of(self, op: str, body: GenerateBody) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            InvalidRequestError: there is no chat template, or it refuses the messages.
        """
        if op == "chat":
            return self._apply_template(body)
        prompt: Any = body.prompt
        return [int(token) for token in (self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)]

    def _apply_template(self, body: GenerateBody) -> list[int]:
        where = {"field": "messages"}
        if not getattr(self.tokenizer, "chat_template", None):
            raise InvalidRequestError(f"{self.names[0]} has no chat template; use generate", details=where)
        try:
            ids = self.tokenizer.apply_chat_template(body.prompt, tools=body.tools, add_generation_prompt=True)
        except Exception as error:  # templates raise whatever they like
            raise InvalidRequestError(f"the chat template refuses the messages: {error}", details=where) from error
        return [int(token) for token in (ids["input_ids"] if hasattr(ids, "keys") else ids)]


def load_model(name: str) -> LoadedModel:
    """Return the model of this name or folder.

    Raises:
        EngineLoadError: naming the file or field at fault.
    """
    if not name:
        raise EngineLoadError("the generate engine needs --model: a folder in mlx-lm's format, or a name on the hub")
    name, folder = find_model(name)
    config = _config(folder)
    from mlx_lm import load
    from mlx_lm.models.cache import make_prompt_cache

    try:
        model, tokenizer = load(str(folder))[:2]
    except Exception as error:
        raise EngineLoadError(f"{folder}: mlx-lm cannot load it: {type(error).__name__}: {error}") from error
    lacking = {type(c).__name__ for c in make_prompt_cache(model) if not hasattr(c, "merge")}
    if lacking:
        raise EngineLoadError(f"{folder}: a model with {', '.join(sorted(lacking))} cannot be batched")
    short = name.rpartition("/")[2]
    text = config.get("text_config", config)
    return LoadedModel(
        names=(name,) if short == name else (name, short),
        model=model,
        tokenizer=tokenizer,
        vocabulary=int(text.get("vocab_size") or tokenizer.vocab_size),
        context=next((int(text[field]) for field in CONTEXT_FIELDS if text.get(field)), CONTEXT_DEFAULT),
        end_tokens=tuple(sorted(tokenizer.eos_token_ids)),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise EngineLoadError(f"{path}: model_type is missing")
    return config
