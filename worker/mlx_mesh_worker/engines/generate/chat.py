"""Messages and tools of ``chat``, checked as far as they are the same for all chat templates."""

from __future__ import annotations

from typing import Any, Final

from mlx_mesh_worker.engines.generate.refusal import refusal

MESSAGES_MAX: Final = 4096
PARTS_MAX: Final = 1024
TOOLS_MAX: Final = 1024
ROLES: Final = ("system", "user", "assistant", "tool")


def check_messages(given: Any) -> list[dict[str, Any]]:
    """Return the messages, the contents made texts; what else they have is for the chat template."""
    if not isinstance(given, list) or not 1 <= len(given) <= MESSAGES_MAX:
        raise refusal("messages", given, f"a list of 1 to {MESSAGES_MAX} messages")
    return [_message(message, index) for index, message in enumerate(given)]


def _message(message: Any, index: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise refusal("messages", message, "maps with a role and content", index)
    role = message.get("role")
    if role not in ROLES:
        raise refusal("messages", role, f"as role one of {', '.join(ROLES)}", index)
    calls = message.get("tool_calls")
    if calls is not None and not (role == "assistant" and _are_maps(calls)):
        raise refusal("messages", calls, "as tool_calls, which only an assistant has, a list of maps", index)
    for name in ("tool_call_id", "name"):
        if not isinstance(message.get(name, ""), str):
            raise refusal("messages", message[name], f"a text as {name}", index)
    content = message.get("content")
    if content is None and calls:
        return {**message, "content": ""}
    return {**message, "content": _content(content, index)}


def _content(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or len(content) > PARTS_MAX:
        raise refusal("messages", content, f"as content a text, or a list of {PARTS_MAX} text parts at most", index)
    for part in content:
        if not isinstance(part, dict):
            raise refusal("messages", part, 'as parts of the content maps like {"type": "text", "text": "..."}', index)
        if part.get("type") != "text":
            raise refusal("messages", part.get("type"), 'parts of the type "text" only', index)
        if not isinstance(part.get("text"), str):
            raise refusal("messages", part.get("text"), "a text as text of a part", index)
    return "".join(part["text"] for part in content)


def check_tools(given: Any) -> list[Any] | None:
    """Return the tools as they are."""
    if given is None:
        return None
    if not _are_maps(given) or len(given) > TOOLS_MAX:
        raise refusal("tools", given, f"a list of {TOOLS_MAX} maps at most")
    return list(given)


def _are_maps(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(item, dict) for item in given)
