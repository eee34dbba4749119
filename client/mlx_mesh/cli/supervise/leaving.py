"""What is to happen to a process of supervisord once it has ended: it is started again, or leaves its group.

The promise lies on the process itself, and nobody else has to come back for it. supervisord compares its processes by
priority, so that they can be no keys of a dict and members of no set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

START: Final = "start"
REMOVE: Final = "remove"
_PROMISE: Final = "mlx_mesh_promise"


def promise(process: Any, what: str, then: Callable[[], None]) -> None:
    """Have ``then`` called as soon as supervisord finds that the process has ended; an earlier promise is void."""
    call_off(process)

    def finish(pid: int, status: int) -> None:
        call_off(process)
        process.finish(pid, status)
        then()

    process.finish = finish
    setattr(process, _PROMISE, what)


def promised(process: Any) -> str:
    """Return what is to happen, ``START`` or ``REMOVE``; empty for nothing."""
    return str(getattr(process, _PROMISE, ""))


def call_off(process: Any) -> None:
    """Let it stay where it is once it has stopped."""
    if promised(process):
        del process.finish
        delattr(process, _PROMISE)
