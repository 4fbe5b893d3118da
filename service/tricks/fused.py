"""Kernels that go over numbers once, on a CPU: what takes several of torch's, each with its own way through memory.

They are compiled by numba when a process first calls them, for arrays of that kind; arithmetic is IEEE's, in the order written.
What is stated here is stated in torch as well, for other devices, and a test holds the two together.
"""

import math
from collections.abc import Callable
from typing import Any


class Kernel:
    """A function over arrays that is compiled at its first call; what is compiled is kept beside this file, or for the process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Arrays are written in place; numbers have to have the arrays' type, or the whole is computed in float64."""
        if self._compiled is None:
            self._compiled = _compiled(self._function)
        return self._compiled(*arguments)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    from numba import njit  # noqa: PLC0415 - loading a compiler takes half a second, and most processes need none

    try:
        return njit(function, error_model="numpy", cache=True)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder for what it compiles
        return njit(function, error_model="numpy")  # type: ignore[no-any-return]


@Kernel
def soften(weights: Any, moments: Any, shift: Any, threshold: Any, extra: Any) -> None:
    """w <- soft(h w, threshold) / (h + extra) with h = sqrt(v) + shift, for flat arrays."""
    for i in range(weights.size):
        scale = math.sqrt(moments[i]) + shift
        scaled = weights[i] * scale
        weights[i] = (scaled - min(max(scaled, -threshold), threshold)) / (scale + extra)
