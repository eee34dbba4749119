"""What calls return."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, overload

from mlx_mesh_wire import ProtocolError, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt


class Embeddings:
    """Vectors of float32, one for each text, in order.

    ``len()``, indexing, slicing and iteration give plain lists; :meth:`numpy` gives an array without copying where one
    request was enough.

    Attributes:
        dimension: floats per vector.
        tokens: tokens that each text took.
        truncated: indices of the texts that were cut to the model's length.
        model: name of the model.

    Raises:
        ProtocolError: a part is no result of ``embed``; an engine of another kind serves that op.
    """

    def __init__(self, parts: Sequence[dict[str, Any]]) -> None:
        width = 0
        for part in parts:
            width = _check(part, width)
        self._tensors: list[Tensor] = [part["vectors"] for part in parts]
        self._views = [memoryview(tensor.data).cast("B").cast("f") for tensor in self._tensors]
        self.dimension: int = self._tensors[0].shape[1]
        self.model: str = parts[0].get("model", "")
        self.tokens: list[int] = [count for part in parts for count in part.get("tokens", ())]
        self.truncated: list[int] = []
        self._starts: list[int] = []
        total = 0
        for part, tensor in zip(parts, self._tensors, strict=True):
            self._starts.append(total)
            self.truncated += [total + index for index in part.get("truncated", ())]
            total += tensor.shape[0]
        self._length = total

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[float]]:
        width = self.dimension
        for view in self._views:
            for first in range(0, len(view), width):
                yield view[first : first + width].tolist()  # type: ignore[misc]

    @overload
    def __getitem__(self, index: int) -> list[float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[float]]: ...
    def __getitem__(self, index: int | slice) -> list[float] | list[list[float]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"index {index} is out of range for {self._length} vectors")
        index %= self._length
        part = bisect_right(self._starts, index) - 1
        first = (index - self._starts[part]) * self.dimension
        vector: list[float] = self._views[part][first : first + self.dimension].tolist()  # type: ignore[assignment]
        return vector

    def __repr__(self) -> str:
        return f"<Embeddings of {self._length} texts, dimension {self.dimension}, model {self.model!r}>"

    def tolist(self) -> list[list[float]]:
        """Return all vectors as lists."""
        return list(self)

    def numpy(self) -> npt.NDArray[np.float32]:
        """Return an array of shape ``(len(self), dimension)``.

        Raises:
            ImportError: numpy is not installed.
        """
        try:
            import numpy as np
        except ImportError as error:
            raise ImportError("Embeddings.numpy() needs numpy: pip install numpy, or use tolist()") from error
        arrays = [np.frombuffer(tensor.data, dtype="<f4").reshape(tensor.shape) for tensor in self._tensors]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _check(part: Any, width: int) -> int:
    """Return the dimension of the vectors in a result; refuse what is none, or of another width than those before."""
    if not isinstance(part, dict):
        raise _refusal(f"is a {type(part).__name__}")
    vectors = part.get("vectors")
    if not isinstance(vectors, Tensor) or vectors.dtype != "float32" or len(vectors.shape) != 2:  # noqa: PLR2004  a matrix
        raise _refusal("has no matrix of float32 as vectors")
    found = vectors.shape[1]
    if not found or (width and found != width):
        raise _refusal(f"has vectors of dimension {found}, those before have {width}" if width else "has empty vectors")
    for name in ("tokens", "truncated"):
        counts = part.get(name, [])
        if not isinstance(counts, list) or not all(type(count) is int for count in counts):
            raise _refusal(f"has {name} that are no list of integers")
    if not isinstance(part.get("model", ""), str):
        raise _refusal("has a model that is no string")
    return found


def _refusal(what: str) -> ProtocolError:
    return ProtocolError(f"the result of embed {what}; does a worker serve embed with an engine of another kind?")
