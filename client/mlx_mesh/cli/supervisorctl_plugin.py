"""What supervisorctl loads from ``supervisord.conf``: it then speaks to the mesh of this run directory."""

from __future__ import annotations

from typing import Any

from supervisor.supervisorctl import ControllerPluginBase  # type: ignore[import-untyped]

from mlx_mesh_wire.paths import run_dir

_FROM_COMMAND_LINE = 2
"""supervisor's own rank of a value that was given as a flag."""


def find_mesh(controller: Any) -> Any:
    """Point supervisorctl at ``RUN_DIR/supervisor.sock``, unless ``-s`` says otherwise."""
    options = controller.options
    if options.attr_priorities.get("serverurl") != _FROM_COMMAND_LINE:
        options.serverurl = f"unix://{run_dir()}/supervisor.sock"
    return ControllerPluginBase(controller)
