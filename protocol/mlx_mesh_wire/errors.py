"""The error table: one stable code, one class and one default for ``retryable`` per meaning.

Whoever adds a row adds it to ``protocol/SPEC.md`` too; the same classes exist in every client language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class MeshError(Exception):
    """The root of everything that mlx-mesh raises on purpose.

    Attributes:
        code: stable, upper-case name of the meaning (``"OVERLOADED"``).
        message: what happened and what to do, for people.
        retryable: whether sending the same request again may help.
        retry_after_ms: how long to wait before that, in milliseconds; 0 if unknown.
        details: machine-readable facts such as ``{"field": "texts", "index": 3}``.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after_ms: int = 0,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after_ms = retry_after_ms
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidRequestError(MeshError, ValueError):
    """The request is malformed; ``details`` names the field and, for lists, the index of the item."""

    code = "INVALID_REQUEST"


class UnknownOpError(MeshError):
    """The worker that got the job does not serve this op."""

    code = "UNKNOWN_OP"


class UnknownModelError(MeshError):
    """Workers for the op exist, but none of them serves this model."""

    code = "UNKNOWN_MODEL"


class NoWorkerError(MeshError):
    """No worker for the op is connected, loading or expected back."""

    code = "NO_WORKER"


class OverloadedError(MeshError):
    """A queue or a client's share of it is full; try again after ``retry_after_ms``."""

    code = "OVERLOADED"
    retryable_by_default = True


class DeadlineExceededError(MeshError, TimeoutError):
    """The deadline passed before there was an answer."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(MeshError):
    """The caller, or an operator, cancelled the request."""

    code = "CANCELLED"


class WorkerLostError(MeshError):
    """The worker died and the request must not, or could not, be run again."""

    code = "WORKER_LOST"


class PoisonRequestError(MeshError):
    """The request was being computed by two workers when they died; it will not get a third."""

    code = "POISON_REQUEST"


class MeshOutOfMemoryError(MeshError):
    """The model server has no memory for this request; ``details`` has the figures."""

    code = "OUT_OF_MEMORY"
    retryable_by_default = True


class SlowConsumerError(MeshError):
    """The reader of a stream granted no credit for too long, or let its replies pile up."""

    code = "SLOW_CONSUMER"


class TooLargeError(MeshError):
    """A frame, message or item is over its limit; ``details`` has the limit."""

    code = "TOO_LARGE"


class UnauthorizedError(MeshError):
    """The peer's key does not allow this."""

    code = "UNAUTHORIZED"


class EngineError(MeshError):
    """The engine raised an exception while it computed the request."""

    code = "ENGINE_ERROR"


class ProtocolError(MeshError):
    """The peer broke the protocol, or speaks another major version of it."""

    code = "PROTOCOL_ERROR"


class InternalError(MeshError):
    """A defect in mlx-mesh itself."""

    code = "INTERNAL"


class DecodeError(ProtocolError, ValueError):
    """Bytes that are not a valid header or body. The only exception that decoding raises."""


ERROR_CLASSES: dict[str, type[MeshError]] = {
    cls.code: cls
    for cls in (
        InvalidRequestError,
        UnknownOpError,
        UnknownModelError,
        NoWorkerError,
        OverloadedError,
        DeadlineExceededError,
        CancelledError,
        WorkerLostError,
        PoisonRequestError,
        MeshOutOfMemoryError,
        SlowConsumerError,
        TooLargeError,
        UnauthorizedError,
        EngineError,
        ProtocolError,
        InternalError,
    )
}
"""Code to class. A code that is not in here is read as :class:`InternalError` (see :func:`error_from_wire`)."""


def error_from_wire(
    code: str, message: str, retryable: bool, retry_after_ms: int, details: Mapping[str, Any] | None = None
) -> MeshError:
    """Return the exception for an ERROR message; an unknown code keeps its name in the message."""
    cls = ERROR_CLASSES.get(code)
    if cls is None:
        cls, message = InternalError, f"(unknown code {code}) {message}"
    return cls(message, retryable=retryable, retry_after_ms=retry_after_ms, details=details)
