"""Which parameters of a network a penalty acts on."""

from collections.abc import Callable, Sequence

from torch import Tensor

from service.nets.network import Network, gates_of, weights_of
from service.tricks.choices import matching
from service.tricks.penalties import Regularizer
from service.tricks.tying import Share, StoredLayer, Tie

Constants = Callable[[StoredLayer, bool], list[Tensor]]
"""The parameters of a layer of a stored model (its weights, or everything), as the network has its own."""


def acting(regularizers: Sequence[Regularizer]) -> list[Regularizer]:
    """Those that act during training; sharing acts before it, on the network itself."""
    return [penalty for penalty in regularizers if not isinstance(penalty, Share)]


def reached(penalty: Regularizer, network: Network, constants: Constants, *, frozen: Sequence[str] = ()) -> list[Tensor]:
    """The parameters that a penalty acts on, each once; of a tie those of its first side, then of its second."""
    everything = penalty.parameters == "all"
    if isinstance(penalty, Tie):
        sides = [
            weights_of(network, [s], everything=everything) if isinstance(s, str) else constants(s, everything) for s in penalty.between
        ]
        return [*sides[0], *sides[1]]
    layers = learning(penalty, list(network.layers()), frozen)
    return gates_of(network, layers) if penalty.gated else weights_of(network, layers, everything=everything)


def learning(penalty: Regularizer, names: Sequence[str], frozen: Sequence[str]) -> list[str]:
    """The layers that a penalty acts on, without those that do not learn."""
    fixed = set(matching(frozen, names))
    return [name for name in penalty.over(names) if name not in fixed]
