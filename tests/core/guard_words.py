"""What a guard says, with only that set which a test is about."""

from __future__ import annotations

from typing import Any

from mlx_mesh_wire.guard_report import GuardReport, Troubled

CALM = GuardReport(
    pid=7, uptime_s=60.0, pressure=0.5, rung="calm", paused="", paused_s=0.0, limits=[], signals={}, workers=[],
    recycles=[], troubled=[], counters={}, errors={}, recent=[],
)  # fmt: skip


def fatal(name: str, reason: str = "", **given: Any) -> Troubled:
    fields = {"group": "workers", "state": "FATAL", "since_s": 1.0, "retry_s": -1.0, **given}
    return Troubled(name=name, reason=reason, **fields)
