"""What supervisord loads from ``supervisord.conf``, so that plain ``supervisord -c supervisord.conf`` finds its mesh.

supervisord can neither make a missing directory nor give an environment variable a default. It imports its plugins
while it reads its configuration, before it resolves the paths in there: importing this module makes the run
directory and goes into it. Nothing else may import it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mlx_mesh_wire.paths import RUN_DIR_VARIABLE, ensure_run_dir, run_dir
from mlx_mesh_wire.settings import CONFIG_VARIABLE, config_file


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
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.umask(0o077)
    os.chdir(directory)


class _NoMethods:
    """An RPC namespace has to be some object; this one adds no methods."""


def enter(supervisord: Any) -> object:
    """Finish what importing began; supervisord calls this when it opens its socket."""
    options = supervisord.options
    options.configfile = str(Path(options.here) / Path(options.configfile).name)
    return _NoMethods()


_enter_run_dir()
