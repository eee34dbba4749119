"""What the benchmark needs of Node: the compiled client, and the packages it is compared with."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import ROOT
from benchmarks.progress import progress

CLIENT = ROOT / "client" / "node"
PEERS = Path(__file__).parent / "package.json"
INSTALLED = ROOT / "build" / "node-peers"
INSTALL_WITHIN_S = 300.0


class MissingError(Exception):
    """Something cannot run here; the message says what to do about it."""


class Tools(NamedTuple):
    """Where things are; ``peers`` is None if they cannot be installed, for the reason in ``lacks``."""

    node: str
    client: Path
    peers: Path | None
    lacks: str
    versions: dict[str, str]


def prepare(*, compared: bool = True) -> Tools:
    """Compile the client, and install what it is compared with where that is not there yet.

    Raises:
        MissingError: there is no Node, or the client cannot be compiled.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError("Node 20 or newer is not installed")
    if not (CLIENT / "node_modules").exists():
        _run([ROOT / "scripts" / "setup", "node"], ROOT, "the packages of client/node cannot be installed")
    compiled = CLIENT / "build" / "benchmark"  # Below client/node, where it finds its dependencies.
    compiler = CLIENT / "node_modules" / ".bin" / "tsc"
    _run([compiler, "-p", "tsconfig.build.json", "--outDir", compiled], CLIENT, "the Node client cannot be compiled")
    versions = {"node": _run([node, "--version"], CLIENT, "Node does not run").strip().removeprefix("v")}
    versions["zeromq"] = _version(CLIENT / "node_modules", "zeromq")
    if not compared:
        return Tools(node, compiled, None, "only the mesh is measured", versions)
    try:
        return Tools(node, compiled, INSTALLED, "", versions | _install(npm))
    except MissingError as error:
        return Tools(node, compiled, None, str(error), versions)


def _install(npm: str) -> dict[str, str]:
    wanted = json.loads(PEERS.read_text(encoding="utf-8"))["dependencies"]
    modules = INSTALLED / "node_modules"
    if any(_version(modules, name) != version for name, version in wanted.items()):
        progress("node: installing what it is compared with")
        INSTALLED.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PEERS, INSTALLED / "package.json")
        command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel", "error"]
        _run(command, INSTALLED, "its peers cannot be installed by npm")
    return {name: _version(modules, name) for name in wanted}


def _version(modules: Path, name: str) -> str:
    """Return the version of an installed package, empty if there is none."""
    manifest = modules / name / "package.json"
    return str(json.loads(manifest.read_text(encoding="utf-8"))["version"]) if manifest.exists() else ""


def _run(command: Sequence[str | Path], folder: Path, fault: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{fault}: {error}") from error
    if done.returncode:
        raise MissingError(f"{fault}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
