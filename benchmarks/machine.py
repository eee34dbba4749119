"""What a result was measured on and with."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = (
    "mlx-mesh",
    "pyzmq",
    "msgpack",
    "mlx",
    "mlx-lm",
    "tokenizers",
    "numpy",
    "nats-py",
    "mosec",
    "zerorpc",
    "gevent",
)


def machine() -> dict[str, str | int]:
    """Return the processor, its cores, the memory in bytes and the system."""
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count() or 0,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.version.split()[0],
    }


def versions() -> dict[str, str]:
    """Return the versions of what takes part, as far as it is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:
        import zmq

        found["libzmq"] = zmq.zmq_version()
    except ImportError:
        pass
    if server := nats_server():
        said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
        found["nats-server"] = said.strip().rpartition("v")[2]
    return found


def nats_server() -> str | None:
    """Return the path of nats-server, which Debian keeps outside the PATH of ordinary users."""
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists() and (match := re.search(r"model name\s*: (.+)", info.read_text(encoding="utf-8"))):
        return match[1]
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or "unknown"
