"""Which section of the conf describes a process: supervisord reads it and forgets it."""

from __future__ import annotations

import functools
from typing import Any, Final

from supervisor.options import ServerOptions  # type: ignore[import-untyped]

_NOTE: Final = "mlx_mesh_section"


def keep_sections() -> None:
    """Have supervisord note the section on every process that it reads; to be called before it reads its groups."""
    original = ServerOptions.processes_from_section
    if hasattr(original, _NOTE):
        return

    @functools.wraps(original)
    def processes_from_section(self: Any, parser: Any, section: str, group_name: str, klass: Any = None) -> Any:
        configs = original(self, parser, section, group_name, klass)
        for config in configs:
            setattr(config, _NOTE, section)
        return configs

    setattr(processes_from_section, _NOTE, True)
    ServerOptions.processes_from_section = processes_from_section


def section_of(config: Any) -> str:
    """Return the section that describes a process, as ``program:embed``; empty if it was not noted."""
    return str(getattr(config, _NOTE, ""))


def program_of(config: Any) -> str:
    """Return the name of the program that a process belongs to."""
    return section_of(config).partition(":")[2].strip()
