"""Looks the installed packages up in the advisory databases, or writes down what the mesh is made of.

Usage: python scripts/audit.py advisories    exit status 1 if an advisory concerns one of them
                                             or a package of the Node client
       python scripts/audit.py sbom FILE     a CycloneDX bill of materials of the mesh with all its extras

The tools live in an environment of their own, so that what they need is not audited along with the mesh.
"""

# ruff: noqa: INP001  a script, not a package

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv" / "audit"
REQUIREMENTS = ("pip-audit>=2.10", "cyclonedx-bom>=7.0")
SERVICE_TIMEOUT_S = 5
"""One advisory service answers in well under a second; where there is no network this is what `make check` waits."""

AUDIT_TIMEOUT_S = 120

NODE = ROOT / "client" / "node"


def run(*command: str | Path, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed."""
    return subprocess.run(  # noqa: S603  the commands are those of this file
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=timeout_s
    )


def say(text: str) -> None:
    """Print a line in the name of this script."""
    print(f"audit: {text}", flush=True)  # noqa: T201


def tool(name: str) -> Path:
    """Return the path of an audit tool, installed if it is not there yet.

    Raises:
        OSError: it cannot be installed, with pip's last line.
    """
    path = TOOLS / "bin" / name
    if not path.exists():
        venv.create(TOOLS, with_pip=True)
        done = run(TOOLS / "bin" / "python", "-m", "pip", "install", "--quiet", *REQUIREMENTS)
        if done.returncode:
            raise OSError((done.stderr.strip() or "pip failed").splitlines()[-1])
    return path


def told_by(*command: str | Path) -> dict[str, Any]:
    """Return the JSON that a tool prints.

    Raises:
        OSError: it prints none, or takes too long.
    """
    try:
        done = run(*command, timeout_s=AUDIT_TIMEOUT_S)
        told: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer within {AUDIT_TIMEOUT_S} s") from error
    except ValueError as error:
        raise OSError((done.stderr.strip() or "no report").splitlines()[-1]) from error
    return told


def report() -> list[dict[str, Any]]:
    """Return what the advisory service says of each installed package.

    Raises:
        OSError: the tool is not there, or the service cannot be reached.
    """
    packages = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    command = [tool("pip-audit"), "--format", "json", "--path", packages, "--progress-spinner", "off"]
    found: list[dict[str, Any]] = told_by(*command, "--timeout", str(SERVICE_TIMEOUT_S))["dependencies"]
    if not any("vulns" in each for each in found):
        raise OSError("the service knows none of the packages")
    return found


def node_report() -> dict[str, Any]:
    """Return what the npm registry says of the packages of the Node client, by package.

    Raises:
        OSError: there is no npm, or no registry that knows advisories; not every mirror does.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("there is no npm")
    options = ("--json", "--package-lock-only", f"--fetch-timeout={SERVICE_TIMEOUT_S * 1000}", "--fetch-retries=0")
    told = told_by(npm, "--prefix", NODE, "audit", *options)
    if "vulnerabilities" not in told:
        # What npm says after the dash is the address of the registry.
        raise OSError(str(told.get("message") or told.get("error")).partition(" - ")[0])
    found: dict[str, Any] = told["vulnerabilities"]
    return found


def node_advisories() -> int:
    """Print the advisories that concern the packages of the Node client; 1 if there is one."""
    try:
        found = node_report()
    except OSError as error:
        say(f"npm: skipped, no registry with advisories can be reached from here ({error})")
        return 0
    # A package is listed for what it depends on, too; `via` then has that one's name, which has an entry of its own.
    bad = [(name, each) for name, entry in found.items() for each in entry["via"] if isinstance(each, dict)]
    for name, advisory in bad:
        say(f"npm: {name} {advisory['range']}: {advisory['title']} ({advisory['severity']}), {advisory['url']}")
    say(f"npm: {len(bad)} advisories")
    return int(bool(bad))


def python_advisories() -> int:
    """Print the advisories that concern what is installed; 1 if there is one, 0 if none or if it cannot be told."""
    try:
        found = report()
    except OSError as error:
        say(f"skipped, no advisory database can be reached from here ({error})")
        return 0
    bad = [(each, advisory) for each in found for advisory in each.get("vulns", ())]
    for each, advisory in bad:
        fixed = ", ".join(advisory.get("fix_versions", ())) or "no release"
        say(f"{each['name']} {each['version']}: {advisory['id']}, fixed in {fixed}")
    known = sum("vulns" in each for each in found)
    say(f"{len(bad)} advisories for {known} packages; {len(found) - known} are not in the database")
    return int(bool(bad))


def sbom(target: Path) -> int:
    """Write the bill of materials of an environment that holds the mesh with all its extras and nothing else."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        say("installing the mesh and its extras into an empty environment")
        steps = (
            [python, "-m", "pip", "install", "--quiet", f"{ROOT}[all]"],
            [python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools"],
            [tool("cyclonedx-py"), "environment", "--output-reproducible", "--pyproject", ROOT / "pyproject.toml",
             "--output-file", target, python],
        )  # fmt: skip
        for step in steps:
            done = run(*step)
            if done.returncode:
                say(done.stderr.strip() or f"{step[0]} failed")
                return 1
    parts = json.loads(target.read_text())["components"]
    say(f"{target} lists {len(parts)} packages")
    return 0


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("advisories", help="look the installed packages up")
    commands.add_parser("sbom", help="write a bill of materials").add_argument("file", type=Path)
    args = parser.parse_args()
    return sbom(args.file) if args.command == "sbom" else python_advisories() | node_advisories()


if __name__ == "__main__":
    raise SystemExit(main())
