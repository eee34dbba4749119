"""The Node client beside nats.js, a thread of piscina and a process for every call; and its latency of ``embed``."""

from benchmarks.node.run import run

__all__ = ["run"]
