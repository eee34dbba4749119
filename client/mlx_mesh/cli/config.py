"""``mlx-mesh config``: the settings in force and where each comes from; ``--check`` tries a file."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh.cli.arguments import add_parser
from mlx_mesh.cli.output import EXIT_OK, fail, say
from mlx_mesh.cli.table import table
from mlx_mesh_wire.paths import client_endpoint, run_dir
from mlx_mesh_wire.settings import config_file, load_settings, read_config

if TYPE_CHECKING:
    import argparse

SETTINGS = {
    "broker": ("mlx_mesh_broker.settings", "BrokerSettings"),
    "worker": ("mlx_mesh_worker.settings", "WorkerSettings"),
    "guard": ("mlx_mesh_worker.guard.settings", "GuardSettings"),
    "generate": ("mlx_mesh_worker.engines.generate.settings", "GenerateSettings"),
}
"""Section of ``mesh.toml`` to where its fields are described. By name: a client does without broker and worker."""


MORE = """\
A later one wins: mesh.toml ($MLX_MESH_CONFIG, or the one in this folder, or in ~/.mlx-mesh), variables such as
MLX_MESH_BROKER_LOG_LEVEL, flags of mlx-mesh-broker, mlx-mesh-worker and mlx-mesh-guard. A mesh that is running keeps
the settings that it was started with.

examples:
  mlx-mesh config                      what a mesh would be started with here
  mlx-mesh config --check mesh.toml    what is wrong with that file, if anything"""


class Setting(NamedTuple):
    """One setting: its name with the section, its value, and ``default`` or where the value was given."""

    name: str
    value: Any
    source: str


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``config``."""
    parser = add_parser(
        commands,
        "config",
        summary="show the settings in force",
        about="Show every setting, its value in this environment and where that comes from; or check a file.",
        more=MORE,
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="check a mesh.toml and say what is wrong with it")
    parser.add_argument("--json", action="store_true", help="as one JSON object, for scripts")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the settings of this environment, or check a file."""
    if args.check is not None:
        if not args.check.is_file():
            fail(f"{args.check}: there is no such file")
        checked = effective(args.check, {})
        given = sum(setting.source != "default" for setting in checked)
        say(f"{args.check}: good, it sets {given} of {len(checked)} settings")
        return EXIT_OK
    file = config_file()
    settings = [
        Setting("run_dir", str(run_dir()), _source("MLX_MESH_RUN_DIR")),
        Setting("endpoint", client_endpoint(), _source("MLX_MESH_ENDPOINT", "MLX_MESH_RUN_DIR")),
        Setting(
            "config_file", str(file.absolute()) if file else "", _source("MLX_MESH_CONFIG") if file else "none found"
        ),
        *effective(file, dict(os.environ)),
    ]
    if args.json:
        say(json.dumps({name: {"value": value, "source": source} for name, value, source in settings}))
    else:
        say(table(("SETTING", "VALUE", "FROM"), [(name, _shown(value), source) for name, value, source in settings]))
    return EXIT_OK


def effective(file: Path | None, env: dict[str, str]) -> list[Setting]:
    """Return all settings of all sections that are installed here.

    Raises:
        SettingsError: the file or a variable is wrong; it names what, and what is allowed.
    """
    tables = read_config(file)
    found: list[Setting] = []
    for section, (module, name) in SETTINGS.items():
        cls = _settings_class(module, name)
        if cls is None:
            continue
        filled = load_settings(cls, section, file=file, env=env)
        for field in dataclasses.fields(cls):
            variable = f"MLX_MESH_{section}_{field.name}".upper()
            in_file = str(file) if field.name in tables.get(section, {}) else "default"
            source = variable if variable in env else in_file
            found.append(Setting(f"{section}.{field.name}", getattr(filled, field.name), source))
    return found


def _settings_class(module: str, name: str) -> type[Any] | None:
    try:
        cls: type[Any] = getattr(importlib.import_module(module), name)
    except ImportError:
        return None
    return cls


def _source(*variables: str) -> str:
    return next((name for name in variables if os.environ.get(name)), "default")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(none)"
    return str(value) if value != "" else "(empty)"
