"""mlx-lm's BatchGenerator with nothing around it: what the mesh is compared with.

``python -m benchmarks.generate.bare FOLDER`` measures for every line on standard input, which names a plan, as the
client processes do. Texts are tokenised before the time begins and never become text again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.generate.meter import Meter, Track
from mlx_mesh_worker.blas import load_blas

ROWS = 32


class Bare:
    """A model, and batches of texts by it."""

    def __init__(self, folder: Path) -> None:
        load_blas()
        from mlx_lm import load
        from mlx_lm.generate import BatchGenerator

        self._model, self._tokenizer = load(str(folder))[:2]
        self._generator_class: Any = BatchGenerator

    def closed(self, plan: Mapping[str, Any]) -> dict[str, float]:
        """Keep some rows filled: a new one begins in the step after one has ended."""
        feed = iter([(self._tokenizer.encode(prompt), length) for prompt, length in plan["requests"]])
        ends = [[token] for token in self._tokenizer.eos_token_ids]
        generator = self._generator_class(self._model, stop_tokens=ends, completion_batch_size=ROWS)
        cpu = time.process_time()
        meter = Meter(plan["streams"], plan["seconds"])
        tracks: dict[int, Track] = {}

        def insert(number: int, *, opens: bool = False) -> None:
            asked = [next(feed) for _ in range(number)]
            uids = generator.insert([prompt for prompt, _ in asked], max_tokens=[length for _, length in asked])
            tracks.update((uid, meter.begin(opens=opens)) for uid in uids)

        insert(plan["streams"], opens=True)
        while not meter.over:
            ended = 0
            for response in generator.next()[1]:
                meter.piece(tracks[response.uid], 1)
                ended += response.finish_reason is not None
            if ended:
                insert(ended)
        generator.remove(list(tracks))
        return {**meter.figures(), "engine_cpu_s": time.process_time() - cpu}


def main(folder: Path) -> None:
    """Answer each line with a measurement."""
    bare = Bare(folder)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        plan = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
        print(json.dumps(bare.closed(plan)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
