"""Which texts go to the same worker: those that begin alike, since it has read that beginning before.

Every client language makes the same keys: they are held to ``protocol/vectors/affinity.json``.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import Any

AFFINITY_CHARS = 512
"""Long enough to tell system prompts apart, short enough for the questions behind one to share a key."""

MESSAGES = 2
"""A system prompt and the first question: what all turns of a conversation have in common."""


def prompt_affinity(prompt: Any) -> bytes:
    """Return the key of a prompt, a text or token ids."""
    if isinstance(prompt, str):
        return _digest(prompt)
    # Each id is at least one character, so that more ids than characters are not needed.
    return _digest(",".join(map(str, prompt[:AFFINITY_CHARS])) if isinstance(prompt, list | tuple) else "")


def chat_affinity(messages: Any) -> bytes:
    """Return the key of a conversation."""
    first = islice(messages, MESSAGES) if isinstance(messages, list | tuple) else ()
    return _digest("\n".join(map(_text, first)))


def _text(message: Any) -> str:
    """Return the text of a message; empty where it has none, which is for the worker to judge."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list | tuple):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _digest(beginning: str) -> bytes:
    # Lone surrogates are refused where the body is packed, not here.
    return hashlib.sha256(beginning[:AFFINITY_CHARS].encode("utf-8", "surrogatepass")).digest()
