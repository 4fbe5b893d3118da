"""What the estimate says that a step on bounds holds of a row, against the tensors that autograd really saves for the backward pass."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.estimate import HELD, Load, graphs_of, held_of
from service.inference.material import Material
from service.resolving import resolve
from service.settings import Settings
from workers.training.adversary import objective
from workers.training.run import start
from workers.training.task import Task

CPU = torch.device("cpu")
CONVOLUTION, RELU = {"type": "convolution", "channels": 8}, {"type": "activation"}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("digits", {"type": "mlp", "hidden": [64, 32]}),
    "mlp normalized": ("digits", {"type": "mlp", "hidden": [64, 32], "batch_norm": True, "activation": "silu"}),
    "cnn": ("digits", {"type": "cnn", "channels": [8, 16], "hidden": [32]}),
    "resnet": ("digits", {"type": "resnet", "depth": 8, "width": 8}),
    "layers": ("digits", {"type": "layers", "layers": [CONVOLUTION, RELU, {"type": "max_pool"}, CONVOLUTION, RELU, {"type": "flatten"}]}),
    "gru": ("walks", {"type": "recurrent", "cell": "gru", "hidden": [16]}),
    "lstm": ("walks", {"type": "recurrent", "cell": "lstm", "hidden": [16]}),
}


def saved(material: Material, size: int) -> int:
    """Bytes of what the objective at the end of the ramp saves for a batch of that size, each memory once."""
    run = start(material, (0,), CPU)
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x, labels = material.rows(material.parts.train[:size])
    run.network.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective(run.network, Task(material, run, CPU), x.float(), labels, run.members)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("name", NETS)
def test_what_a_step_on_bounds_holds_of_a_row(bench: Any, name: str) -> None:
    dataset, architecture = NETS[name]
    if dataset == "walks":
        generator = np.random.default_rng(0)
        bench.arrays(dataset, x=generator.normal(size=(200, 6, 3)).astype(np.float32), y=np.arange(200) % 3)
    rule = {"method": "ibp", "epsilon": 1.0}
    material = bench.material(dataset, architecture=architecture, epochs=1, batch_size=64, adversarial_training=rule)
    network, few, many = material.initial(0), 32, 96
    load = Load(1, 0, 0, 1, 1, 1, None, 1, graphs=graphs_of(material.spec), bounded=True)
    each = (saved(material, many) - saved(material, few)) / (many - few)  # parameters and what they are bounded with fall out
    assert 4 * held_of(network, load) == pytest.approx(each, rel=0.3)


def test_a_job_on_bounds_is_estimated_with_them(bench: Any) -> None:
    spec = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [64, 32]}, "batch_size": 1024, "early_stopping": None}
    plain, bounded, clean = (
        resolve({**spec, "adversarial_training": rule}, bench._source, Settings()).cost.memory_bytes
        for rule in (None, {"method": "ibp", "epsilon": 1.0}, {"method": "ibp", "epsilon": 1.0, "weight": 0})
    )
    assert clean == plain
    assert bounded - plain == pytest.approx(HELD * 4 * 1024 * (4 * 160 + 2 * 10 * 32), abs=2)
