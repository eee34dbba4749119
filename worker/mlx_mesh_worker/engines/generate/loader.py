"""Loads a model and its tokenizer by mlx-lm, and knows what the engine has to know of both."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_mesh_wire import InvalidRequestError
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.model_files import find_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_mesh_worker.engines.generate.request import GenerateBody

CONTEXT_DEFAULT: Final = 4096
"""Where a configuration does not say how much the model reads."""

CONTEXT_FIELDS: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "model_max_length")


class FoundModel(NamedTuple):
    """A model that can be loaded: the names it is served under, and its folder."""

    names: tuple[str, ...]
    folder: Path


class Prompt(NamedTuple):
    """Token ids of a prompt; the first ``system`` of them are a system prompt, with which others may begin too."""

    tokens: list[int]
    system: int = 0


class LoadedModel:
    """A model and its tokenizer.

    Attributes:
        names: what it is served under.
        draft: a smaller model that guesses ahead, or None.
        vocabulary: number of token ids.
        context: tokens that prompt and answer may have together.
        end_tokens: ids that end a text.
        alone: why its texts are generated one at a time; empty if they are batched.
        replaced: functions of the model that are slow on this device.
    """

    def __init__(self, found: FoundModel, model: Any, tokenizer: Any, draft: Any, alone: str) -> None:
        from mlx_mesh_worker.engines.generate.cpu import Replaced

        config = _config(found.folder)
        text = config.get("text_config", config)
        self.names = found.names
        self.model = model
        self.tokenizer = tokenizer
        self.draft = draft
        self.alone = alone
        self.replaced = [Replaced(each) for each in (model, draft) if each is not None]
        self.vocabulary = int(text.get("vocab_size") or tokenizer.vocab_size)
        self.context = next((int(text[field]) for field in CONTEXT_FIELDS if text.get(field)), CONTEXT_DEFAULT)
        self.end_tokens: frozenset[int] = frozenset(tokenizer.eos_token_ids)

    @cached_property
    def schemas(self) -> Any:
        """Compiles JSON schemas for this vocabulary; made when the first one comes."""
        from mlx_mesh_worker.engines.generate.schema import SchemaCompiler

        return SchemaCompiler(self.tokenizer, self.vocabulary, tuple(sorted(self.end_tokens)))

    def detokenizer(self) -> Any:
        """Return a fresh streaming detokenizer."""
        return self.tokenizer.detokenizer

    def prompt_of(self, op: str, body: GenerateBody) -> Prompt:
        """Return the tokens of a prompt.

        Raises:
            InvalidRequestError: there is no chat template, it refuses the messages, or the prompt is too long.
        """
        field = "prompt" if op == "generate" else "messages"
        found = self._plain(body.prompt) if op == "generate" else self._conversation(body)
        if not found.tokens:
            raise InvalidRequestError(f"{field} has no tokens", details={"field": field})
        if len(found.tokens) >= self.context:
            count = len(found.tokens)
            text = f"{field} has {count} tokens, the model reads {self.context} with the answer"
            raise InvalidRequestError(text, details={"field": field, "tokens": count, "limit": self.context})
        return found

    def _plain(self, prompt: Any) -> Prompt:
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return Prompt([int(token) for token in tokens])

    def _conversation(self, body: GenerateBody) -> Prompt:
        where = {"field": "messages"}
        if not getattr(self.tokenizer, "chat_template", None):
            raise InvalidRequestError(f"{self.names[0]} has no chat template; use generate", details=where)
        messages: Any = body.prompt
        try:
            tokens = self._applied(messages, body.tools, add_generation_prompt=True)
        except Exception as error:  # templates raise whatever they like
            text = f"the chat template refuses the messages: {type(error).__name__}: {error}"
            raise InvalidRequestError(text[:800], details=where) from error
        return Prompt(tokens, self._system(messages, body.tools, tokens))

    def _system(self, messages: list[dict[str, Any]], tools: Any, tokens: list[int]) -> int:
        """Return how many tokens the system prompt has, as far as the template tells."""
        if len(messages) < 2 or messages[0]["role"] != "system":  # noqa: PLR2004  alone it begins nothing
            return 0
        try:
            system = self._applied(messages[:1], tools, add_generation_prompt=False)
        except Exception:  # noqa: BLE001  a template may want more than a system prompt
            return 0
        return next((n for n, (a, b) in enumerate(zip(system, tokens, strict=False)) if a != b), len(system))

    def _applied(self, messages: Any, tools: Any, **how: Any) -> list[int]:
        ids = self.tokenizer.apply_chat_template(messages, tools=tools, **how)
        return [int(token) for token in (ids["input_ids"] if hasattr(ids, "keys") else ids)]


def find(name: str) -> FoundModel:
    """Return where the model of this name or folder is.

    Raises:
        EngineLoadError: saying where it was looked for.
    """
    if not name:
        raise EngineLoadError("the generate engine needs --model: a folder in mlx-lm's format, or a name on the hub")
    name, folder = find_model(name)
    short = name.rpartition("/")[2]
    return FoundModel((name,) if short == name else (name, short), folder)


def load_model(found: FoundModel, adapter: str = "", draft: str = "") -> LoadedModel:
    """Load a model, quantised or not, with its adapter and the model that drafts for it, if any.

    Raises:
        EngineLoadError: naming the file, field or flag at fault.
    """
    from pathlib import Path

    _config(found.folder)
    folder = Path(adapter).expanduser() if adapter else None
    if folder is not None and not (folder / "adapter_config.json").is_file():
        raise EngineLoadError(f"--adapter: {folder} has no adapter_config.json; allowed is a folder that mlx-lm wrote")
    model, tokenizer = _loaded(found.folder, folder)
    if not draft:
        from mlx_mesh_worker.engines.generate.probe import why_alone

        return LoadedModel(found, model, tokenizer, None, why_alone(model))
    drafting = find(draft)
    small, theirs = _loaded(drafting.folder, None)
    if theirs.get_vocab() != tokenizer.get_vocab():
        text = f"--draft-model: {drafting.names[0]} has another vocabulary than {found.names[0]}; it has to be the same"
        raise EngineLoadError(text)
    return LoadedModel(found, model, tokenizer, small, "a draft model is used")


def _loaded(folder: Path, adapter: Path | None) -> tuple[Any, Any]:
    import mlx_lm

    load: Callable[..., Any] = mlx_lm.load
    try:
        model, tokenizer = load(str(folder), adapter_path=str(adapter) if adapter else None)[:2]
    except Exception as error:
        where = f"{folder} with --adapter {adapter}" if adapter else str(folder)
        raise EngineLoadError(f"{where}: mlx-lm cannot load it: {type(error).__name__}: {error}") from error
    return model, tokenizer


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise EngineLoadError(f"{path}: model_type is missing")
    return config
