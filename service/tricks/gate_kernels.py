"""Hard concrete gates and the weights behind them, drawn and taken back in one pass each on a CPU.

`service.tricks.sparsity` has the formulas. Its constants are here, since what is compiled is kept as long as this file is as it is.
"""

import math
from typing import Any

from service.tricks.fused import Kernel

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""The concrete distribution's temperature, and the interval that it is stretched to before it is clipped to [0, 1]."""
EPS = 1e-6
"""How far the uniform numbers stay from 0 and 1."""
STEEPNESS = (ZETA - GAMMA) / BETA
"""Of the gate before it is clipped, over s (1 - s)."""
OPENING = -BETA * math.log(-GAMMA / ZETA)
"""By how much the logit of a gate's chance to be open is above its log_alpha."""
_SHUT = math.exp(-OPENING)
if BETA != 2 / 3:
    raise AssertionError("these kernels take the power 1 / beta as a product with a square root")


@Kernel("void(f4[:,::1], f4[:,::1], f4[:,:,::1], f4[:,::1], f4[:,:,::1], f4[:,:,::1])")
def draw_gates(u: Any, logits: Any, weights: Any, z: Any, sigmoids: Any, folded: Any) -> None:
    """Gates z [K, n] from uniform numbers, the two sigmoids [2, K, n] of their slope, and weights [K, m, n] times gates.

    Some hundred gates are computed in double precision, the weights in single.
    """
    for k in range(z.shape[0]):
        for i in range(z.shape[1]):
            # exp(-(logit(p) + log_alpha)), whose power of 1 / beta is the first sigmoid's.
            p, closing = min(max(u[k, i], EPS), 1 - EPS), math.exp(-logits[k, i])
            odds = closing * (1 - p) / p
            sigmoids[0, k, i] = 1 / (1 + odds * math.sqrt(odds))
            sigmoids[1, k, i] = 1 / (1 + closing * _SHUT)
            z[k, i] = min(max(sigmoids[0, k, i] * (ZETA - GAMMA) + GAMMA, 0), 1)
        for j in range(weights.shape[1]):
            for i in range(z.shape[1]):
                folded[k, j, i] = weights[k, j, i] * z[k, i]


@Kernel("void(f4[:,:,::1], f4[:,:,::1], f4[:,::1], f4[:,:,::1], f4[:,::1], f4[:,::1])")
def pass_back(gradient: Any, weights: Any, z: Any, sigmoids: Any, prices: Any, slopes: Any) -> None:
    """From dL/dV [K, m, n] of V = W z to dL/dW, in its place, and to the slopes [K, n] at the logits, with what open gates cost."""
    for k in range(z.shape[0]):
        slopes[k] = 0
        for j in range(weights.shape[1]):
            for i in range(z.shape[1]):
                slopes[k, i] += gradient[k, j, i] * weights[k, j, i]
                gradient[k, j, i] *= z[k, i]
        for i in range(z.shape[1]):
            s, chance = sigmoids[0, k, i], sigmoids[1, k, i]
            inside = slopes[k, i] * s * (1 - s) * STEEPNESS if 0 < z[k, i] < 1 else 0.0
            slopes[k, i] = inside + prices[k, i] * chance * (1 - chance)
