"""Echo of 1 KB through the mesh and through its peers, side by side in rounds."""

from benchmarks.rpc.run import run

__all__ = ["run"]
