"""One way to configure every program: ``mesh.toml``, then ``MLX_MESH_*``, then flags.

A program describes its settings as a frozen dataclass whose fields carry their bounds::

    @dataclass(frozen=True)
    class BrokerSettings:
        queue_max_requests: int = setting(1024, low=1, high=10**7, help="requests waiting in one queue")

and gets them filled by :func:`load_settings`. That field is set by the section ``[broker]`` of the file, by
``MLX_MESH_BROKER_QUEUE_MAX_REQUESTS`` and by ``--queue-max-requests``. Whatever is wrong is refused with the name,
what was given and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping, Sequence

CONFIG_VARIABLE = "MLX_MESH_CONFIG"
SECTIONS = ("broker", "worker", "generate", "client", "guard", "telemetry")

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that is refused; the message names it, what was given and what is allowed."""


def setting(
    default: Any,
    *,
    help: str,  # noqa: A002  the word that argparse uses for it
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    words: Sequence[str] | None = None,
) -> Any:
    """Return a dataclass field with a default, its bounds (both ends allowed) or choices, and one line of help.

    An integer may have ``words`` that stand beside the numbers; annotate it as ``int | str``.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices or ()), "words": tuple(words or ())}
    return dataclasses.field(default=default, metadata=metadata)


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, cls: type[Any], *, without: Collection[str] = ()
) -> None:
    """Add one ``--flag VALUE`` for every field of a settings class, but for those that are there already.

    Read them with :func:`load_settings`.
    """
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            default=None,
            metavar=_allowed(field, kinds(cls)[field.name]).upper().replace(" ", "_")[:24],
            help=f"{field.metadata['help']} (default: {field.default!r})".replace("%", "%%"),
        )


def config_file(env: Mapping[str, str] = os.environ) -> Path | None:
    """Return ``$MLX_MESH_CONFIG`` or ``./mesh.toml`` or ``~/.mlx-mesh/mesh.toml``, the first that is there."""
    if given := env.get(CONFIG_VARIABLE, ""):
        return Path(given).expanduser()
    found = (p for p in (Path("mesh.toml"), Path.home() / ".mlx-mesh" / "mesh.toml") if p.is_file())
    return next(found, None)


def read_config(path: Path | None) -> dict[str, Any]:
    """Return the tables of a ``mesh.toml``; empty without a file.

    Raises:
        SettingsError: unreadable, not TOML, or a section that does not exist.
    """
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib lets those of int and of deep nesting through
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    for name, table in tables.items():
        if name not in SECTIONS or not isinstance(table, dict):
            raise SettingsError(f"{path}: [{name}] is not a section; allowed are {', '.join(SECTIONS)}")
    return tables


def load_settings(
    cls: type[T],
    section: str,
    *,
    file: Path | None = None,
    env: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> T:
    """Return the filled settings of a section.

    Args:
        cls: frozen dataclass made with :func:`setting`; field types are those that :func:`kinds` returns.
        section: table of the file and infix of the environment variables.
        file: a ``mesh.toml``; None reads none.
        env: the environment.
        flags: values by field name; None values are skipped.

    Raises:
        SettingsError: naming the first field that is unknown, of the wrong type or out of bounds.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = kinds(cls)
    values: dict[str, Any] = {}
    for name, given in read_config(file).get(section, {}).items():
        if name not in fields:
            raise SettingsError(f"{file}: [{section}] has no setting {name!r}{_meant(name, fields)}")
        values[name] = _checked(f"{file}: {section}.{name}", fields[name], hints[name], given)
    variables = {f"MLX_MESH_{section}_{name}".upper(): name for name in fields}
    for variable in env:
        if variable.startswith(f"MLX_MESH_{section}_".upper()) and variable not in variables:
            raise SettingsError(f"{variable}: there is no such setting{_meant(variable, variables)}")
    for variable, name in variables.items():
        field = fields[name]
        if variable in env:
            values[name] = _checked(variable, field, hints[name], _parsed(variable, field, hints[name], env[variable]))
        if flags and flags.get(name) is not None:
            flag = "--" + name.replace("_", "-")
            values[name] = _checked(flag, field, hints[name], _parsed(flag, field, hints[name], flags[name]))
    return cls(**values)


def _meant(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def kinds(cls: type[Any]) -> dict[str, Any]:
    """Return the type of each field: int, float, bool, str or ``tuple[str, ...]``; int where words are allowed too."""
    hints = get_type_hints(cls)
    return {field.name: int if field.metadata["words"] else hints[field.name] for field in dataclasses.fields(cls)}


_INTEGER_MAX = 2**53
"""No setting has a bound above it; integers of hundreds of digits are no floats."""

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _parsed(source: str, field: dataclasses.Field[Any], kind: Any, text: Any) -> Any:
    if not isinstance(text, str) or text in field.metadata["words"]:
        return text
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (ValueError, KeyError):
        raise _refusal(source, field, kind, text) from None
    return [part.strip() for part in text.split(",") if part.strip()] if kind == tuple[str, ...] else text


def _checked(source: str, field: dataclasses.Field[Any], kind: Any, given: Any) -> Any:
    low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
    if kind == tuple[str, ...]:
        if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
            raise _refusal(source, field, kind, given)
        return tuple(given)
    if isinstance(given, str) and given in field.metadata["words"]:
        return given
    if kind is float and type(given) is int and abs(given) <= _INTEGER_MAX:
        given = float(given)
    if type(given) is not kind or (choices and given not in choices):
        raise _refusal(source, field, kind, given)
    # Written so that NaN, which compares false with everything, is refused too.
    if kind in (int, float) and not ((low is None or given >= low) and (high is None or given <= high)):
        raise _refusal(source, field, kind, given)
    return given


def _refusal(source: str, field: dataclasses.Field[Any], kind: Any, given: Any) -> SettingsError:
    return SettingsError(f"{source}: {_shown(given)} is not allowed; allowed: {_allowed(field, kind)}")


def _shown(given: Any) -> str:
    try:
        return repr(given)
    except ValueError:  # of thousands of digits
        return "such a long integer"


def _allowed(field: dataclasses.Field[Any], kind: Any) -> str:
    low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(choices)
    name = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(kind, "a list of strings")
    if low is not None and high is not None:
        return ", ".join([*field.metadata["words"], f"{name} from {low} to {high}"])
    if low is not None:
        return f"{name} of at least {low}"
    return f"{name} of at most {high}" if high is not None else name
