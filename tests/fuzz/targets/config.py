"""A text is a mesh.toml whose settings of every program are within their bounds, or a SettingsError; so is every value
of an environment variable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from mlx_mesh.cli.config import SETTINGS, _settings_class, effective
from mlx_mesh_broker.settings import BrokerSettings, check_endpoints
from mlx_mesh_wire.settings import SettingsError, load_settings
from mlx_mesh_worker.settings import WorkerSettings, check_settings

_CLASSES = [(section, _settings_class(*where)) for section, where in SETTINGS.items()]
FIELDS = [
    (section, cls, field.name)
    for section, cls in _CLASSES
    if cls is not None
    for field in dataclasses.fields(cls)
]  # fmt: skip


class Text:
    """Stands for the path of a file that holds some bytes; to write each would take longer than to read it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_text(self, encoding: str) -> str:
        return self._data.decode(encoding)

    def __str__(self) -> str:
        return "mesh.toml"


def one(data: bytes) -> int:
    which, rest = data[:1], data[1:]
    if which and which[0] >= 128:
        _variable(FIELDS[which[0] % len(FIELDS)], rest.decode("utf-8", "surrogateescape"))
        return 1
    file: Any = Text(rest)
    try:
        for setting in effective(file, {}):
            assert setting.value is not None
        broker = load_settings(BrokerSettings, "broker", file=file, env={})
        check_endpoints(broker.listen, "listen")
        check_settings(load_settings(WorkerSettings, "worker", file=file, env={}))
    except SettingsError as error:
        assert str(error)
    return 1


def _variable(field: tuple[str, type[Any], str], text: str) -> None:
    section, cls, name = field
    try:
        load_settings(cls, section, env={f"MLX_MESH_{section}_{name}".upper(): text})
    except SettingsError as error:
        assert name.upper() in str(error)


def seeds() -> Iterator[bytes]:
    for section, _, name in FIELDS:
        for value in ("1", '["tcp://127.0.0.1:5555"]'):
            yield f"\0[{section}]\n{name} = {value}\n".encode()
    yield b"\x80ipc:///x"
