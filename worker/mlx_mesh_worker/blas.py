"""A fast BLAS for MLX on Linux CPUs, loaded before MLX so that its symbols win.

The ``mlx-cpu`` wheel is linked to the reference BLAS, which is 20 to 40 times slower than OpenBLAS or MKL at matrix
products. Symbols of a library that was loaded with RTLD_GLOBAL before take precedence (dlopen(3)).
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Final

OPENBLAS: Final = "libopenblas.so.0"
LIBRARIES: Final = (OPENBLAS, "libmkl_rt.so.2", "libmkl_rt.so")
REFERENCE: Final = "reference"
HINT: Final = "install OpenBLAS (Debian: apt-get install libopenblas0-pthread) for products that are 35 times faster"

KERNEL_VARIABLE: Final = "OPENBLAS_CORETYPE"
FALLBACKS: Final = frozenset({"Prescott", "Core2", "Nehalem", "Sandybridge"})
"""Kernels without AVX2. OpenBLAS takes a processor that is newer than itself for one of these."""

KERNELS: Final = (
    ("SkylakeX", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("Haswell", {"avx2", "fma"}),
)
"""OpenBLAS's kernels and the instruction sets that each needs, the fastest first (its file ``cpuid_x86.c``)."""


def load_blas() -> str:
    """Load the first BLAS that is there and return its name; call it before the first import of mlx.core.

    Returns "accelerate" on macOS, where nothing is to be done, and "reference" if there is no fast one.
    """
    if sys.platform == "darwin":
        return "accelerate"
    for name in LIBRARIES:
        try:
            if name == OPENBLAS:
                _choose_kernel()
            ctypes.CDLL(name, mode=os.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return REFERENCE


def _choose_kernel() -> None:
    """Ask OpenBLAS for the kernel that suits this processor if it would take one that is many times slower.

    Its choice is made when it is loaded, so it is loaded once to see, and thrown away. A choice of the user stands.

    Raises:
        OSError: there is no OpenBLAS.
    """
    if KERNEL_VARIABLE in os.environ or platform.machine() != "x86_64":
        return
    library = ctypes.CDLL(OPENBLAS, mode=os.RTLD_LOCAL)
    core_name = library.openblas_get_corename
    core_name.restype = ctypes.c_char_p
    chosen = core_name().decode()
    _ctypes.dlclose(library._handle)  # noqa: SLF001  ctypes has no name of its own for it
    if chosen in FALLBACKS:
        better = better_kernel(_cpu_flags())
        if better:
            os.environ[KERNEL_VARIABLE] = better


def better_kernel(flags: set[str]) -> str:
    """Return the fastest kernel for a processor with these flags; empty if none is better than a fallback."""
    return next((name for name, needs in KERNELS if needs <= flags), "")


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
