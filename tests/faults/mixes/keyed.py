"""The mesh of a trial over TCP with keys: what is changed on the way is noticed, since CURVE seals each frame.

All but the byte of flags that it begins with (see ``tests/security/test_framing.py``). Where that is hit, a
frame may be lost or joined to the next message and nobody notices: about once in 100,000 calls of a trial.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from typing import Any

from mlx_mesh.cli.main import main
from tests.faults.mixes.stage import Stage
from tests.live import LiveMesh

_QUIET = threading.Lock()
"""What the command says is kept from the terminal, which belongs to the process: one trial at a time."""


class Keyed(Stage):
    """A stage whose clients and workers have keys, each client its own."""

    def __init__(self, mesh: LiveMesh, seed: int, **options: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            clients, workers = (f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
        mesh.env |= {
            "MLX_MESH_KEYS_DIR": str(mesh.dir / "keys"),
            "MLX_MESH_BROKER_KEYS": "always",
            "MLX_MESH_BROKER_LISTEN": clients,
            "MLX_MESH_BROKER_LISTEN_WORKERS": workers,
        }
        super().__init__(mesh, seed, targets=(clients, workers), **options)

    def start(self) -> None:
        """Make the keys, then start everything."""
        self._keys("init")
        self._keys("add-worker", "worker")
        self.mesh.env["MLX_MESH_WORKER_KEYS"] = str(self.mesh.dir / "keys" / "worker.key")
        super().start()

    def client_env(self, who: str) -> dict[str, str]:
        """Return the environment of a client, who gets a key."""
        self._keys("add-client", who)
        return {**self.mesh.env, "MLX_MESH_KEYS": str(self.mesh.dir / "keys" / f"{who}.key")}

    def _keys(self, action: str, *words: str) -> None:
        # In this process: a command for each key would take longer than a short trial.
        with _QUIET, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert not main(["keys", action, "--keys-dir", str(self.mesh.dir / "keys"), *words])
