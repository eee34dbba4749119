"""mlx-mesh: call warm MLX models from Python.

from mlx_mesh import Mesh

with Mesh() as mesh:
vectors = mesh.embed(["a", "b"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh._generation import GenerateResult, Generation, TextChunk
from mlx_mesh._results import Embeddings
from mlx_mesh._stream import Stream
from mlx_mesh._sync import Mesh
from mlx_mesh_wire import (
    CancelledError,
    DeadlineExceededError,
    EngineError,
    InternalError,
    InvalidRequestError,
    MeshError,
    MeshOutOfMemoryError,
    NoWorkerError,
    OverloadedError,
    PoisonRequestError,
    ProtocolError,
    SlowConsumerError,
    Tensor,
    TooLargeError,
    UnauthorizedError,
    UnknownModelError,
    UnknownOpError,
    WorkerLostError,
)

if TYPE_CHECKING:
    from mlx_mesh._async import AsyncMesh
    from mlx_mesh._async_stream import AsyncStream
    from mlx_mesh._generation import AsyncGeneration

__version__ = "0.1.0"

__all__ = [
    "AsyncGeneration",
    "AsyncMesh",
    "AsyncStream",
    "CancelledError",
    "DeadlineExceededError",
    "Embeddings",
    "EngineError",
    "GenerateResult",
    "Generation",
    "InternalError",
    "InvalidRequestError",
    "Mesh",
    "MeshError",
    "MeshOutOfMemoryError",
    "NoWorkerError",
    "OverloadedError",
    "PoisonRequestError",
    "ProtocolError",
    "SlowConsumerError",
    "Stream",
    "Tensor",
    "TextChunk",
    "TooLargeError",
    "UnauthorizedError",
    "UnknownModelError",
    "UnknownOpError",
    "WorkerLostError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the asyncio client on first use: asyncio alone takes longer than everything else here."""
    if name in ("AsyncGeneration", "AsyncMesh", "AsyncStream"):
        from mlx_mesh import _async

        return getattr(_async, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
