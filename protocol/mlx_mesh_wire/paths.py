"""Where the parts of one mesh on one machine meet: the run directory and the endpoints inside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_DIR_VARIABLE: Final = "MLX_MESH_RUN_DIR"
ENDPOINT_VARIABLE: Final = "MLX_MESH_ENDPOINT"
CONTROL_VARIABLE: Final = "MLX_MESH_CONTROL"

IPC_PATH_MAX_BYTES: Final = 103
"""``sun_path`` holds 104 bytes on macOS and 108 on Linux, with the closing zero."""


def run_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Return the run directory, ``$MLX_MESH_RUN_DIR`` or ``~/.mlx-mesh/run``. It need not exist yet."""
    given = env.get(RUN_DIR_VARIABLE, "")
    return Path(given).expanduser().absolute() if given else Path.home() / ".mlx-mesh" / "run"


def ensure_run_dir(path: Path) -> None:
    """Make the run directory with mode 0700, or check that an existing one is ours alone.

    Raises:
        PermissionError: it belongs to somebody else, or others may enter it.
        ValueError: its path is too long for an ipc socket.
    """
    longest = len(os.fsencode(path / "supervisor.sock"))
    if longest > IPC_PATH_MAX_BYTES:
        raise ValueError(
            f"{RUN_DIR_VARIABLE}: {path} is too long: socket paths would have {longest} bytes, "
            f"allowed are {IPC_PATH_MAX_BYTES}; choose a shorter directory"
        )
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{RUN_DIR_VARIABLE}: {path} belongs to user {found.st_uid}, not to you ({os.getuid()})")
    if found.st_mode & 0o077:
        raise PermissionError(
            f"{RUN_DIR_VARIABLE}: {path} has mode {found.st_mode & 0o777:04o}, others may enter it; "
            f"run: chmod 700 {path}"
        )


def ipc_endpoint(name: str, env: Mapping[str, str] = os.environ) -> str:
    """Return the endpoint ``ipc://RUN_DIR/NAME.sock``; names are frontend, backend, control and events."""
    return f"ipc://{run_dir(env)}/{name}.sock"


def client_endpoint(env: Mapping[str, str] = os.environ) -> str:
    """Return where clients connect: ``$MLX_MESH_ENDPOINT`` or the frontend of the run directory."""
    return env.get(ENDPOINT_VARIABLE, "") or ipc_endpoint("frontend", env)


def control_endpoint(env: Mapping[str, str] = os.environ) -> str:
    """Return where operators' commands go: ``$MLX_MESH_CONTROL`` or the control socket of the run directory."""
    return env.get(CONTROL_VARIABLE, "") or ipc_endpoint("control", env)
