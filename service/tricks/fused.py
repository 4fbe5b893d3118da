"""Kernels that go over numbers once, on a CPU: what takes several of torch's, each with its own way through memory.

They are compiled by numba when a process first calls them; arithmetic is IEEE's, in the order written. What is stated here is stated in
torch as well, for other devices, and tests hold the two together.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Function = Callable[..., Any]


class Kernel:
    """A function over arrays, for one signature in numba's notation: single precision, side by side in memory.

    What is compiled for it is kept where Python keeps what it compiles, and nowhere else. Other types are compiled for the process alone:
    numba's cache is not locked, and two signatures written at once could be taken for each other.
    """

    def __init__(self, signature: str) -> None:
        self._signature = signature

    def __call__(self, function: Function) -> Function:
        """The kernel that a function becomes. Arrays are written in place."""
        held: list[Function] = []

        def call(*arguments: Any) -> Any:
            if not held:
                held.extend(_compiled(function, self._signature))
            try:
                return held[0](*arguments)
            except TypeError:  # other types
                return held[1](*arguments)

        return call


def _compiled(function: Function, signature: str) -> tuple[Function, Function]:
    """For the signature, and for any other."""
    # Where Intel's library of vectors is installed, the last bits of exp would depend on a number's place in a vector.
    os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")
    from numba import njit  # noqa: PLC0415 - loading a compiler takes half a second, and most processes need none

    other = njit(function, error_model="numpy")
    if _kept(Path(function.__code__.co_filename).parent):
        try:
            return njit(signature, error_model="numpy", cache=True)(function), other
        except Exception:
            pass  # what was kept is damaged, or the disk is full: nothing was computed yet
    return njit(signature, error_model="numpy")(function), other


def _kept(folder: Path) -> bool:
    """Whether Python keeps what it compiles beside these sources; numba would look for another folder, among a user's own files."""
    kept = folder / "__pycache__"
    return os.access(kept, os.W_OK) if kept.is_dir() else not kept.exists() and os.access(folder, os.W_OK)


@Kernel("void(f4[::1], f4[::1], f4, f4, f4)")
def soften(weights: Any, moments: Any, shift: Any, threshold: Any, extra: Any) -> None:
    """w <- soft(h w, threshold) / (h + extra) with h = sqrt(v) + shift, for flat arrays."""
    for i in range(weights.size):
        scale = math.sqrt(moments[i]) + shift
        scaled = weights[i] * scale
        weights[i] = (scaled - min(max(scaled, -threshold), threshold)) / (scale + extra)
