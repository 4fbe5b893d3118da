"""What changes during training, as one value that goes into a checkpoint and back bit by bit."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.inference.material import Material
from service.nets.network import Network, is_weight
from service.tricks.stopping import Patience

STREAMS = ("order", "masks", "augmentation")


@dataclass
class Run:
    """One member's training: weights, optimizer, random streams, place in the epoch, early stopping's progress, best weights."""

    member: int
    network: Network
    optimizer: torch.optim.Optimizer
    streams: dict[str, torch.Generator]
    order: Tensor | None = None
    """The order of the epoch under way, or None between epochs."""
    position: int = 0
    """Batches of the epoch that are done."""
    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sums over the epoch's rows so far."""
    patience: Patience = field(default_factory=Patience)
    best: dict[str, Tensor] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    """The series of the learning curves, one value an epoch."""
    reason: str | None = None
    """Why training ended."""

    def keep_best(self) -> None:
        """Remember the present weights; the buffers are made once."""
        learned = self.network.learned()
        if not self.best:
            self.best = {name: tensor.detach().clone() for name, tensor in learned.items()}
            return
        with torch.no_grad():
            torch._foreach_copy_([self.best[name] for name in learned], list(learned.values()))

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights (present and best) by name, and the rest as tensors and plain values."""
        weights = {f"now.{name}": tensor for name, tensor in self.network.learned().items()}
        weights |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        rest = {
            "member": self.member,
            "optimizer": self.optimizer.state_dict(),
            "streams": {name: stream.get_state() for name, stream in self.streams.items()},
            "order": self.order,
            "position": self.position,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "patience": dict(vars(self.patience)),
            "history": self.history,
        }
        return weights, rest

    def restore(self, weights: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Take over what `capture` gave."""
        self.network.load({name.removeprefix("now."): tensor for name, tensor in weights.items() if name.startswith("now.")})
        self.best = {name.removeprefix("best."): tensor.clone() for name, tensor in weights.items() if name.startswith("best.")}
        self.optimizer.load_state_dict(rest["optimizer"])
        for name, stream in self.streams.items():
            stream.set_state(rest["streams"][name])
        self.order, self.position = rest["order"], rest["position"]
        self.epoch, self.step, self.sums = rest["epoch"], rest["step"], rest["sums"]
        self.patience = Patience(**rest["patience"])
        self.history = rest["history"]


def start(material: Material, member: int, device: torch.device) -> Run:
    """A member at its first step, everything from its own seeds."""
    spec = material.spec
    seeds = {purpose: spec.ensemble.seed(member, purpose, seed=spec.seed) for purpose in ("init", *STREAMS)}
    network = build(material, torch.Generator().manual_seed(seeds["init"])).to(device)
    parameters = list(network.parameters())
    weights = [parameter for parameter in parameters if is_weight(parameter)]
    optimizer = spec.optimizer.build(weights, [parameter for parameter in parameters if not is_weight(parameter)])
    streams = {name: torch.Generator("cpu" if name == "order" else device).manual_seed(seeds[name]) for name in STREAMS}
    return Run(member, network, optimizer, streams)


def build(material: Material, generator: torch.Generator | None) -> Network:
    """A network of the material's shapes and scales; without a generator its weights stay unset."""
    return Network(material.network, material.preprocess, material.scales, generator)
