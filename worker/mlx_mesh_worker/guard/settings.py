"""What a guard can be told; the ``[guard]`` section of ``mesh.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mlx_mesh_wire.settings import SettingsError, setting

MIB: Final = 1024 * 1024

WORKER_LEAST: Final = 32 * MIB
"""An interpreter with MLX."""

AUTO: Final = "auto"
RESERVE_SHARE: Final = 0.05
RESERVE_LEAST: Final = 256 * MIB
RESERVE_MOST: Final = 4096 * MIB
"""What is kept free by default: enough for the page cache and for what an operator starts to look into trouble."""


@dataclass(frozen=True)
class GuardSettings:
    """Times in seconds, sizes in bytes, thresholds as shares of a limit."""

    groups: tuple[str, ...] = setting(
        (), help="groups of supervisord whose workers it looks after; empty for every group that has workers"
    )
    sample_s: float = setting(1.0, low=0.1, high=60, help="how often it looks")
    ceiling_bytes: int = setting(0, low=0, help="what all workers together may take; 0 for no such limit")
    reserve_bytes: int | str = setting(
        AUTO,
        words=(AUTO,),
        low=0,
        help="memory of the machine to be kept free; auto is 5 % of it, at least 256 MiB and at most 4 GiB",
    )
    trim_at: float = setting(0.75, low=0.01, high=1, help="from here on workers give back what they do not need")
    pause_at: float = setting(0.85, low=0.01, high=1, help="from here on bulk requests wait, then standard ones")
    recycle_at: float = setting(0.92, low=0.01, high=1, help="from here on the best candidate is recycled")
    stop_at: float = setting(0.97, low=0.01, high=1, help="from here on it is stopped at once")
    hysteresis: float = setting(0.03, low=0, high=0.5, help="how far below a threshold its measures end")
    pause_max_s: float = setting(60.0, low=1, high=3600, help="longest pause; it then turns into a recycle")
    cooldown_s: float = setting(30.0, low=1, high=86400, help="least age of a worker that is recycled for memory")
    drain_s: float = setting(30.0, low=0, high=3600, help="how long a recycle waits for what the worker holds")
    start_max_s: float = setting(300.0, low=1, high=86400, help="longest time until a started worker is ready")
    surge: int = setting(
        1, low=0, high=1, help="1: a stand-in is warm before a recycled worker leaves, when memory allows it"
    )
    max_footprint_bytes: int = setting(0, low=0, help="a worker that takes more for 5 s is recycled; 0 for no limit")
    max_age_s: float = setting(0.0, low=0, help="a worker that is older is recycled; 0 for no limit")
    max_served: int = setting(0, low=0, help="a worker that has served more jobs is recycled; 0 for no limit")
    stalled_s: float = setting(2.0, low=0, high=3600, help="how long a worker may be stalled before it is replaced")
    missing_s: float = setting(
        5.0, low=0.5, high=3600, help="how long a running worker may be unknown to the broker before it is replaced"
    )
    kill_s: float = setting(5.0, low=0.5, high=3600, help="how long such a worker may take to leave before SIGKILL")
    retry_s: float = setting(
        10.0, low=0, high=86400, help="pause before a worker that supervisord gave up is started again; 0 for never"
    )
    retry_max_s: float = setting(300.0, low=1, high=86400, help="longest such pause; it doubles each time")
    log_level: str = setting("info", choices=("debug", "info", "warning", "error"), help="least level that is logged")
    log_format: str = setting("console", choices=("console", "json"), help="lines for people or for machines")

    def reserve(self, total: int) -> int:
        """Return the bytes to be kept free on a machine with so many."""
        if self.reserve_bytes == AUTO:
            return int(min(max(total * RESERVE_SHARE, RESERVE_LEAST), RESERVE_MOST))
        return int(self.reserve_bytes)


def check_settings(settings: GuardSettings, total: int) -> None:
    """Refuse what contradicts itself or the machine.

    Args:
        settings: what was given.
        total: bytes of memory of the machine.

    Raises:
        SettingsError: naming the field, what was given and what is allowed.
    """
    names = ("trim_at", "pause_at", "recycle_at", "stop_at")
    for lower, upper in pairwise(names):
        low, high = getattr(settings, lower), getattr(settings, upper)
        if low >= high:
            raise SettingsError(f"guard.{upper}: {high} is not allowed; allowed: more than {lower}, which is {low}")
    if settings.hysteresis >= settings.trim_at:
        raise SettingsError(
            f"guard.hysteresis: {settings.hysteresis} is not allowed; "
            f"allowed: less than trim_at, which is {settings.trim_at}"
        )
    if settings.reserve(total) >= total:
        raise SettingsError(
            f"guard.reserve_bytes: {settings.reserve(total)} is not allowed; "
            f"allowed: auto, or less than the memory of this machine, {total}"
        )
    for name in ("ceiling_bytes", "max_footprint_bytes"):
        given = getattr(settings, name)
        if 0 < given < WORKER_LEAST:
            raise SettingsError(
                f"guard.{name}: {given} is not allowed; allowed: 0 for no limit, or at least {WORKER_LEAST}: "
                "a worker that does nothing takes as much"
            )
    if settings.retry_s > settings.retry_max_s:
        raise SettingsError(
            f"guard.retry_max_s: {settings.retry_max_s} is not allowed; "
            f"allowed: at least retry_s, which is {settings.retry_s}"
        )


def check_groups(settings: GuardSettings, known: set[str]) -> None:
    """Refuse groups that supervisord does not have.

    Raises:
        SettingsError: naming the group and those that there are.
    """
    for group in settings.groups:
        if group not in known:
            there = ", ".join(sorted(known)) or "none"
            raise SettingsError(f"guard.groups: {group!r} is not allowed; allowed: groups with workers: {there}")
