"""The text of a JSON schema in a request. Imports neither MLX nor llguidance."""

from __future__ import annotations

import json
from typing import Any, Final

from mlx_mesh_wire import InvalidRequestError
from mlx_mesh_worker.engines.generate.refusal import refusal

SCHEMA_MAX_CHARS: Final = 32 * 1024
"""Of the text of a schema. Those of this length were compiled in 5 to 250 ms, in which the texts of the worker wait."""

ANY_OBJECT: Final = '{"type":"object"}'
"""What ``json_schema: true`` stands for."""

_ALLOWED: Final = f"a JSON schema of {SCHEMA_MAX_CHARS} characters at most, as a map or as JSON text of one; or true"


def schema_text(given: Any) -> str:
    """Return the JSON text of a schema: given as a map, as its JSON text, or as True for any JSON object.

    The order of the keys is kept: it is the order of the properties in what is generated.

    Raises:
        InvalidRequestError: it is something else, or too long.
    """
    if given is True:
        return ANY_OBJECT
    schema = given
    try:
        if isinstance(given, str) and len(given) <= SCHEMA_MAX_CHARS:
            schema = json.loads(given)
        if not isinstance(schema, dict):
            raise refusal("json_schema", given, _ALLOWED)
        text = _json(schema)
        text.encode()
    except RecursionError as error:
        raise refusal("json_schema", given, "fewer levels") from error
    except (ValueError, TypeError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise refusal("json_schema", given, f"{_ALLOWED}: {str(error)[:100]}") from error
    if len(text) > SCHEMA_MAX_CHARS:
        raise refusal("json_schema", given, _ALLOWED)
    if "x-guidance" in schema:
        raise refusal("json_schema", "x-guidance", "the keywords of JSON Schema; this one is llguidance's own")
    return text


def _json(schema: dict[str, Any]) -> str:
    """Return JSON text, of a long schema no more than its beginning."""
    pieces: list[str] = []
    size = 0
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for piece in encoder.iterencode(schema):
        pieces.append(piece)
        size += len(piece)
        if size > SCHEMA_MAX_CHARS:
            break
    return "".join(pieces)
