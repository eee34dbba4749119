"""A fast BLAS for MLX on Linux CPUs, loaded before MLX so that its symbols win.

The ``mlx-cpu`` wheel is linked to the reference BLAS, which is 20 to 40 times slower than OpenBLAS or MKL at matrix
products. Symbols of a library that was loaded with RTLD_GLOBAL before take precedence (dlopen(3)).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

LIBRARIES: Final = ("libopenblas.so.0", "libmkl_rt.so.2", "libmkl_rt.so")
REFERENCE: Final = "reference"
HINT: Final = "install OpenBLAS (Debian: apt-get install libopenblas0-pthread) for products that are 35 times faster"


def load_blas() -> str:
    """Load the first BLAS that is there and return its name; call it before the first import of mlx.core.

    Returns "accelerate" on macOS, where nothing is to be done, and "reference" if there is no fast one.
    """
    if sys.platform == "darwin":
        return "accelerate"
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name, mode=os.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return REFERENCE
