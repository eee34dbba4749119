"""Which versions run here, for READY; only of what is imported already."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {"mlx_mesh_wire": "mlx-mesh", "zmq": "pyzmq", "mlx": "mlx", "mlx_lm": "mlx-lm", "tokenizers": "tokenizers"}


def versions() -> dict[str, str]:
    """Return the version by package name, and Python's."""
    found = {"python": sys.version.split()[0]}
    for module, package in PACKAGES.items():
        if module in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "unknown"
    return found
