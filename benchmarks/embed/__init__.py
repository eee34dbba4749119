"""The embed engine through the mesh, in a plain loop, behind mosec, and in a process spawned for every call."""

from benchmarks.embed.run import run

__all__ = ["run"]
