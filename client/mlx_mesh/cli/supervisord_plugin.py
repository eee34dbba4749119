"""What supervisord loads from ``supervisord.conf``, so that plain ``supervisord -c supervisord.conf`` finds its mesh.

supervisord can neither make a missing directory nor give an environment variable a default. It imports its plugins
while it reads its configuration, before it resolves the paths in there: importing this module makes the run
directory and goes into it. Nothing else may import it.

Nor can it start a program only if something is set: the programs of the group ``generate`` have no ``autostart``, and
are started here if a model is named for them.

``mlx_mesh.cli.supervise`` has the rest: what supervisord is taught beyond its own.
"""

from __future__ import annotations

import getopt
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor import events  # type: ignore[import-untyped]

from mlx_mesh.cli.supervise import sections, stops
from mlx_mesh.cli.supervise.namespace import Namespace
from mlx_mesh_wire.paths import RUN_DIR_VARIABLE, ensure_run_dir, run_dir
from mlx_mesh_wire.settings import CONFIG_VARIABLE, SettingsError, config_file, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP: Final = "generate"
MODEL_VARIABLE: Final = "MLX_MESH_GENERATE_MODEL"
CONF_OPTIONS: Final = ("-c", "--configuration")


def _enter_run_dir() -> None:
    """Make this process, and all that it starts, at home in the run directory.

    Raises:
        ValueError: the run directory cannot be used; supervisord prints the message and exits.
    """
    directory, config = run_dir(), config_file()
    try:
        ensure_run_dir(directory)
    except OSError as error:
        raise ValueError(str(error)) from error
    # What was relative to the folder that supervisord was started in has to stay true after leaving it.
    sys.argv = [str(Path(word).absolute()) if Path(word).is_file() else word for word in sys.argv]
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config.absolute())
    if os.environ.get(RUN_DIR_VARIABLE):
        os.environ[RUN_DIR_VARIABLE] = str(directory)
    if models := os.environ.get(MODEL_VARIABLE):
        os.environ[MODEL_VARIABLE] = ",".join(_from_anywhere(name.strip()) for name in models.split(","))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.umask(0o077)
    os.chdir(directory)


def _from_anywhere(model: str) -> str:
    """Return the name of a model, or the whole path of its folder."""
    return str(Path(model).absolute()) if model and Path(model).is_dir() else model


def _has_model(command: str, environment: Mapping[str, str]) -> bool:
    """Whether a worker with this command and environment knows what to load; by the rules of the worker's settings."""
    if "--model" in command.replace("=", " ").split():
        return True
    if MODEL_VARIABLE in environment:
        return bool(environment[MODEL_VARIABLE])
    try:
        return bool(read_config(config_file()).get(GROUP, {}).get("model"))
    except SettingsError:  # The broker refuses the file, with the reason in its log.
        return False


def _start_generate(supervisord: Any) -> None:
    """Start the programs of the group ``generate`` that have a model and were not started yet."""
    group = supervisord.process_groups.get(GROUP)
    for process in group.processes.values() if group is not None else ():
        config = process.config
        fresh = not process.laststart and not config.autostart
        if fresh and _has_model(config.command, {**os.environ, **config.environment}):
            process.spawn()


def _with_whole_path(words: list[str], options: Any) -> list[str]:
    """Return supervisord's command line with the path of its conf file, in whatever way it had found that.

    At ``supervisorctl reload``, when all processes are stopped already, it looks for the file again: from the run
    directory, where it would find none, and end.
    """
    found, rest = getopt.getopt(words, "".join(options.short_options), options.long_options)
    others = [word for name, value in found if name not in CONF_OPTIONS for word in (name, value) if word]
    return [CONF_OPTIONS[0], options.configfile, *others, *rest]


def enter(supervisord: Any) -> Namespace:
    """Finish what importing began, and return the methods ``mlx_mesh.*``; supervisord calls this for its socket."""
    options = supervisord.options
    options.configfile = str(Path(options.here) / Path(options.configfile).name)
    sys.argv[1:] = _with_whole_path(sys.argv[1:], options)
    # Before supervisord answers anybody, so that whoever asks never sees a program as off that is about to start.
    events.subscribe(events.SupervisorRunningEvent, lambda _: _start_generate(supervisord))
    events.subscribe(events.SupervisorRunningEvent, lambda _: stops.install(supervisord))
    return Namespace(supervisord)


_enter_run_dir()
sections.keep_sections()
