"""Twelve small nets on digits, trained here: six whose gradients are masked in a way of their own, six that are what they seem."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from service.data.encoding import ArrayInput, Encoding
from service.inference.model import Model, serving
from service.inference.robustness import Subject
from service.nets.network import Network, NetworkSpec, Scale
from service.spec import TrainSpec
from service.tricks.attacks import FGSM
from service.tricks.dropout import Sampled
from service.tricks.modes import Asking
from service.tricks.normalization import Normalize

ROWS, STEPS = 1200, 100
HIGH = 16.0
Change = Callable[[Network], None]


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All images [N, 8, 8] of 0 to 16 with their labels, shuffled."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return torch.tensor(found.images[order], dtype=torch.float32), torch.tensor(found.target[order])


def network(spec: TrainSpec, seed: int) -> Network:
    """A network of the spec, untrained."""
    described = NetworkSpec(spec.architecture, (8, 8), spec.targets or (), (10,))
    normalize = Normalize(torch.tensor(4.9), torch.tensor(6.0))
    return Network(described, normalize, [Scale(torch.zeros(1), torch.ones(1))], torch.Generator().manual_seed(seed))


def trained(spec: TrainSpec, seed: int = 0, change: Change | None = None, *, temperature: float = 1.0, epsilon: float = 0.0) -> Network:
    """A network trained by Adam on all rows at once; with an epsilon on rows that FGSM moved as well."""
    net = network(spec, seed)
    if change is not None:
        change(net)
    x, y = (part[:ROWS] for part in digits())
    optimizer, generator = torch.optim.Adam(net.parameters(), lr=0.01), torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        gate = Sampled([generator], ROWS) if spec.drops else None

        def loss_of(rows: Tensor, gate: Any = gate) -> Tensor:
            raw = net(rows) if gate is None else net(rows, gate)
            return F.cross_entropy(raw["label"] / temperature, y)

        rows = x
        if epsilon:
            leaf = x.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(loss_of(leaf), leaf)
            rows = (x + epsilon * slope.sign()).clamp(0, HIGH)
        optimizer.zero_grad()
        (loss_of(rows) if not epsilon else 0.5 * (loss_of(x) + loss_of(rows))).backward()
        optimizer.step()
    return serving(net)


def spec_of(**fields: Any) -> TrainSpec:
    """A spec for digits."""
    architecture = {"type": "mlp", "hidden": [48], **fields.pop("architecture", {})}
    target = {"task": "classification", "name": "label"}
    return TrainSpec.model_validate({"dataset": "digits", "targets": [target], "architecture": architecture, **fields})


def model_of(spec: TrainSpec, *networks: Network) -> Model:
    """The networks as one model."""
    encoding = Encoding(inputs=(ArrayInput(kind="image", name="image", shape=(8, 8), dtype="float32", low=0.0, high=HIGH),))
    return Model(spec, encoding, (tuple("0123456789"),), networks, 0)


def subject(model: Model, rows: int = 100, **asked: Any) -> Subject:
    """Rows that no net was trained on, with their true labels."""
    x, y = (part[ROWS : ROWS + rows] for part in digits())
    return Subject(model, Asking.model_validate(asked).axes(model), x, y)


# --- masked ---------------------------------------------------------------------------------------------------------


class Quantized(nn.Module):
    """A normalizer that first rounds inputs to few levels."""

    def __init__(self, inner: Normalize, levels: int) -> None:
        super().__init__()
        self.inner, self.step = inner, HIGH / (levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        """x on the grid, in normalized units."""
        return self.inner(torch.round(x / self.step) * self.step)


def logit_scale() -> Subject:
    """A factor of 30,000 on the logits, in training too: cross-entropy saturates."""
    spec = spec_of(architecture={"logit_scale": 30_000.0})
    return subject(model_of(spec, trained(spec)))


def quantized() -> Subject:
    """Inputs rounded to four levels: no gradient passes."""

    def change(net: Network) -> None:
        net.preprocess = Quantized(net.preprocess, 4)  # type: ignore[assignment]

    spec = spec_of()
    return subject(model_of(spec, trained(spec, change=change)))


def distillation() -> Subject:
    """Trained at temperature 100 and asked at 1 (Papernot et al. 2016): logits too large for a gradient."""
    spec = spec_of()
    return subject(model_of(spec, trained(spec, temperature=100.0)))


def k_winners() -> Subject:
    """Of 300 hidden units only the 8 largest stay on (Xiao et al. 2020): the gradient jumps with every step."""

    def winners(x: Tensor) -> Tensor:
        return x * (x >= x.topk(8, dim=-1).values[..., -1:])

    def change(net: Network) -> None:
        for layer in net.trunk.hidden:
            layer.activation = winners

    spec = spec_of(architecture={"hidden": [300]})
    return subject(model_of(spec, trained(spec, change=change)))


def stochastic() -> Subject:
    """Noise on the hidden units whenever the net is asked."""

    def noisy(x: Tensor) -> Tensor:
        return F.relu(x + 0.5 * torch.randn_like(x))

    def change(net: Network) -> None:
        net.trunk.hidden[0].activation = noisy

    spec = spec_of()
    return subject(model_of(spec, trained(spec, change=change)))


def detached() -> Subject:
    """A layer that lets no gradient through."""
    spec = spec_of(architecture={"hidden": [48, 48]})
    net = trained(spec)
    net.trunk.hidden[0].activation = lambda x: F.relu(x).detach()
    return subject(model_of(spec, net))


# --- honest ---------------------------------------------------------------------------------------------------------


def linear() -> Subject:
    """Softmax regression."""
    spec = spec_of(architecture={"hidden": []})
    return subject(model_of(spec, trained(spec)))


def relu() -> Subject:
    """Two hidden layers."""
    spec = spec_of(architecture={"hidden": [48, 48]})
    return subject(model_of(spec, trained(spec)))


def batch_norm() -> Subject:
    """tanh with batch normalization."""
    spec = spec_of(architecture={"activation": "tanh", "batch_norm": True})
    return subject(model_of(spec, trained(spec)))


def ensemble() -> Subject:
    """The average of three."""
    spec = spec_of(ensemble={"size": 3})
    return subject(model_of(spec, *(trained(spec, seed) for seed in range(3))))


def dropout() -> Subject:
    """Monte Carlo dropout: random, but attacked through the mean over its masks."""
    spec = spec_of(architecture={"hidden": [96], "dropout": {"hidden": 0.3}})
    return subject(model_of(spec, trained(spec)), 40, mode="monte_carlo", samples=12)


def hardened() -> Subject:
    """Trained on rows that FGSM moved: more robust, and no trick."""
    method = {"method": "fgsm", "epsilon": 2.0}
    spec = spec_of(architecture={"hidden": [96]}, adversarial_training=method)
    return subject(model_of(spec, trained(spec, epsilon=FGSM(epsilon=2.0).epsilon)))


MASKED: dict[Callable[[], Subject], set[str]] = {
    logit_scale: {"zero_gradients"},
    quantized: {"zero_gradients"},
    distillation: {"zero_gradients"},
    k_winners: {"black_box_weaker_than_white_box"},
    stochastic: {"passes_agree"},
    detached: {"zero_gradients"},
}
"""Each with the checks that have to name what is wrong."""
HONEST = (linear, relu, batch_norm, ensemble, dropout, hardened)
