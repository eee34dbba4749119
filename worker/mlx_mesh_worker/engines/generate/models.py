"""The models that an engine may serve: loaded when they are asked for, let go when they are not."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

import mlx.core as mx

from mlx_mesh_wire import MeshOutOfMemoryError
from mlx_mesh_wire.logs import log
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.engines.generate.budget import kv_limit
from mlx_mesh_worker.engines.generate.loader import load_model
from mlx_mesh_worker.engines.generate.scheduler import Scheduler
from mlx_mesh_worker.engines.generate.single import SingleFile
from mlx_mesh_worker.engines.mlx_memory import device_working_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlx_mesh_worker.engines.generate.loader import FoundModel, LoadedModel
    from mlx_mesh_worker.engines.generate.settings import GenerateSettings
    from mlx_mesh_worker.job import Job

WEIGHTS_MARGIN: Final = 1.2
"""What loading takes at most, as a multiple of the weights' files."""


class Served:
    """A model in memory and its texts.

    Attributes:
        used: when it last had a text, by the engine's clock.
    """

    def __init__(self, loaded: LoadedModel, texts: Scheduler | SingleFile, now: float) -> None:
        self.loaded = loaded
        self.texts = texts
        self.used = now


class Models:
    """Those that may be loaded, and those that are.

    Args:
        allowed: the first one is the default; it is never let go.
        settings: of the engine.
        mark: told the jobs that a step is about to compute.
    """

    def __init__(
        self,
        allowed: Sequence[FoundModel],
        settings: GenerateSettings,
        mark: Callable[[Iterable[Job]], None],
    ) -> None:
        self._allowed = list(allowed)
        self._settings = settings
        self._mark = mark
        self._served: dict[int, Served] = {}
        self._by_name = {name: index for index, found in enumerate(allowed) for name in found.names}
        self._limit = 0
        self._weights: dict[int, int] = {}
        self._let_go: dict[str, int] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    @property
    def warm(self) -> list[str]:
        """Names of the models in memory."""
        return [name for index in self._served for name in self._allowed[index].names]

    def get(self, name: str) -> Served | None:
        """Return a model if it is in memory; an empty name is the default's."""
        return self._served.get(self._by_name[name] if name else 0)

    def load(self, name: str = "") -> Served:
        """Bring a model into memory, letting go of idle ones if there is too little.

        Raises:
            EngineLoadError: it cannot be loaded.
            MeshOutOfMemoryError: there is no room for it beside those that are busy.
        """
        index = self._by_name[name] if name else 0
        found = self._allowed[index]
        if index:
            self._make_room(found)
        before, active = time.monotonic(), mx.get_active_memory()
        settings = self._settings
        loaded = load_model(found, *((settings.adapter, settings.draft_model) if not index else ()))
        kind = SingleFile if loaded.alone else Scheduler
        try:
            texts = kind(loaded, settings, lambda: self._limit_of(index), self._mark)
        except ValueError as error:
            raise EngineLoadError(f"--draft-model: {error}") from error
        if self._limit and settings.kv_max_bytes == "auto":  # What was free is taken by weights now.
            self._weights[index] = max(0, mx.get_active_memory() - active)
        self._limit = self._limit or kv_limit(settings)
        texts.warm()
        now = time.monotonic()
        self._served[index] = served = Served(loaded, texts, now)
        log("info", "model_loaded", model=found.names[0], seconds=round(now - before, 3), alone=loaded.alone)
        return served

    def let_go(self, now: float) -> float | None:
        """Let go of models that were not used for long; return in how many seconds to look again, None if never."""
        keep = self._settings.keep_alive_s
        for index, served in list(self._served.items()):
            if len(served.texts):
                served.used = now
            elif index and now - served.used >= keep:
                self._unload(index)
        waits = [served.used + keep - now for index, served in self._served.items() if index]
        return max(0.01, min(waits)) if waits else None

    def counters(self) -> dict[str, int]:
        """Return what all models counted together, those that were let go too."""
        total = dict(self._let_go)
        for served in self:
            for name, count in _counts(served).items():
                total[name] = total.get(name, 0) + count
        return total

    def _limit_of(self, index: int) -> int:
        others = (each for at, each in self._served.items() if at != index)
        free = self._limit - sum(self._weights.values())
        return free - sum(each.texts.nbytes + each.texts.prefixes.nbytes for each in others)

    def _make_room(self, found: FoundModel) -> None:
        needed = int(WEIGHTS_MARGIN * sum(path.stat().st_size for path in found.folder.glob("*.safetensors")))
        while (free := _free()) < needed:
            idle = [index for index, served in self._served.items() if index and not len(served.texts)]
            if not idle and any(len(served.texts.prefixes) for served in self):
                for served in self:
                    served.texts.prefixes.clear()
                mx.clear_cache()
                continue
            if not idle:
                text = f"loading {found.names[0]} needs {needed} bytes, {free} are free"
                raise MeshOutOfMemoryError(text, details={"needed": needed, "free": free})
            self._unload(min(idle, key=lambda index: self._served[index].used))

    def _unload(self, index: int) -> None:
        served = self._served.pop(index)
        self._weights.pop(index, None)
        for name, count in _counts(served).items():
            self._let_go[name] = self._let_go.get(name, 0) + count
        log("info", "model_let_go", model=served.loaded.names[0])
        del served
        gc.collect()
        mx.clear_cache()


def _counts(served: Served) -> dict[str, int]:
    prefixes = served.texts.prefixes
    return {
        **served.texts.counters(),
        "prefix_hits": prefixes.hits,
        "prefix_saved_tokens": prefixes.saved_tokens,
    }


def _free() -> int:
    """Return the bytes that may still be taken."""
    working_set = device_working_set(mx)
    if working_set:
        return working_set - mx.get_active_memory()
    import psutil

    return int(psutil.virtual_memory().available)
