"""mlx_lm.server on the BLAS that workers use: ``python -m benchmarks.generate.mlx_server FLAGS``.

Without it the server would be tens of times slower on Linux CPUs, and nothing would be learned from that.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.generate.trace import VARIABLE, to_file, trace_batch_generator
from mlx_mesh_worker.blas import load_blas

if __name__ == "__main__":
    load_blas()
    import mlx_lm.server

    if VARIABLE in os.environ:
        trace_batch_generator(to_file())
    server: Any = mlx_lm.server  # it has no types
    server.main()
