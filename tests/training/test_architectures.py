"""Every architecture but the dense ones with every trick, mode and attack that it takes: a table, each row trained and asked."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from service.inference.asking import ask
from service.inference.deployed import Deployed, DeployedNumbers
from service.inference.measuring import Inquiry
from service.inference.model import rebuild
from service.inference.pools import Classes, Numbers
from service.inference.report_activations import activations
from service.nets.network import stackable
from service.tricks.attacks import PGD
from service.tricks.modes import Asking
from service.tricks.perturbation import Box
from tests.training.test_resume import COMMON, CPU, facts, on
from workers.training.checkpointing import pack
from workers.training.run import build, start
from workers.training.task import Task

DROPOUT = {"input": 0.1, "hidden": 0.3, "channel": 0.2}
TRAINED: dict[str, dict[str, Any]] = {
    "cnn": {
        "architecture": {"type": "cnn", "channels": [4, 6], "hidden": [12], "batch_norm": True, "dropout": DROPOUT},
        "augmentation": [{"type": "translate", "pixels": 1}],
        "regularizers": [{"type": "l1", "alpha": 1e-4}, {"type": "max_norm", "limit": 2.0}],
    },
    "cnn shared": {
        "architecture": {"type": "cnn", "channels": [4, 4, 4], "pool": "none", "kernel": 2, "hidden": []},
        "regularizers": [{"type": "share", "layers": ["conv.1", "conv.2"]}, {"type": "l2", "alpha": 1e-4}],
        "adversarial_training": {"method": "pgd", "epsilon": 1.0, "steps": 2},
    },
    "resnet": {
        "architecture": {"type": "resnet", "depth": 8, "width": 4, "zero_init": True, "dropout": DROPOUT},
        "adversarial_training": {"method": "fgsm", "epsilon": 1.0},
        "gradient_clip": {"norm": 1.0},
    },
    "resnet preactivation": {"architecture": {"type": "resnet", "depth": 8, "width": 4, "block": "preactivation"}},
    "resnet bottleneck": {"architecture": {"type": "resnet", "depth": 11, "width": 2, "block": "bottleneck", "residual": False}},
    "conv autoencoder": {
        "architecture": {"type": "conv_autoencoder", "channels": [4, 6], "kernel": 4, "code": 5, "dropout": {"hidden": 0.1}},
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
        "targets": [{"name": "input", "task": "reconstruction"}, {"name": "label"}],
    },
    "unpooling": {"architecture": {"type": "conv_autoencoder", "channels": [4, 6], "upsampling": "unpooling", "tied": True}},
    "lstm": {"dataset": "waves", "architecture": {"type": "recurrent", "hidden": [6, 5], "dropout": {"input": 0.1, "hidden": 0.2}}},
    "gru": {
        "dataset": "waves",
        "architecture": {"type": "recurrent", "cell": "gru", "hidden": [6], "bidirectional": True},
        "regularizers": [{"type": "elastic_net", "l1": 1e-4, "l2": 1e-4}],
    },
    "layers": {
        "architecture": {
            "type": "layers",
            "init": "he",
            "layers": [
                {"type": "convolution", "channels": 4, "kernel": 2, "bias": False, "name": "stem"},
                {"type": "batch_norm"},
                {"type": "activation"},
                {"type": "max_pool"},
                {
                    "type": "residual",
                    "layers": [
                        {"type": "convolution", "channels": 4, "name": "inner"},
                        {"type": "activation"},
                        {"type": "share", "as": "inner"},
                        {"type": "layer_norm"},
                    ],
                },
                {"type": "dropout", "rate": 0.2, "channel": True},
                {"type": "flatten"},
                {"type": "linear", "width": 8},
                {"type": "activation", "function": "tanh"},
                {"type": "dropout", "rate": 0.3},
            ],
        },
        "augmentation": [{"type": "translate", "pixels": 1}],
        "regularizers": [
            {"type": "l1", "alpha": 1e-4},
            {"type": "max_norm", "limit": 2.0, "layers": ["inner", "linear.*"]},
            {"type": "l2", "alpha": 1e-4, "parameters": "all"},
        ],
        "adversarial_training": {"method": "fgsm", "epsilon": 1.0},
    },
    "layers to a code and back": {
        "architecture": {
            "type": "layers",
            "layers": [
                {"type": "convolution", "channels": 4},
                {"type": "activation"},
                {"type": "max_pool", "name": "pool"},
                {"type": "flatten"},
                {"type": "linear", "width": 5, "name": "code"},
                {"type": "linear", "width": 16},
                {"type": "reshape", "shape": [2, 2, 4]},
                {"type": "transposed_convolution", "channels": 4, "kernel": 4, "stride": 2},
                {"type": "unpool", "of": "pool"},
            ],
        },
        "targets": [{"name": "input", "task": "reconstruction"}, {"name": "label", "weight": "learned"}],
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
    },
    "layers of sequences": {
        "dataset": "waves",
        "architecture": {
            "type": "layers",
            "layers": [
                {"type": "dropout", "rate": 0.1},
                {"type": "convolution", "channels": 6, "dilation": 2, "groups": 3, "name": "one"},
                {"type": "activation"},
                {"type": "convolution", "channels": 6, "groups": 3, "name": "two"},
                {"type": "average_pool"},
                {"type": "flatten"},
                {"type": "linear", "width": 6},
                {"type": "layer_norm"},
                {"type": "activation"},
            ],
        },
        "regularizers": [
            {"type": "l0", "method": "projection", "keep": 0.5, "layers": ["linear.0"]},
            {"type": "l2", "alpha": 1e-4, "layers": ["one", "two"]},
        ],
        "adversarial_training": {"method": "pgd", "epsilon": 0.1, "steps": 2},
    },
    "cnn of sequences": {"dataset": "waves", "architecture": {"type": "cnn", "channels": [4], "dropout": 0.2}},
}


def material_of(bench: Any, name: str, **fields: Any) -> Any:
    stream = np.random.default_rng(0)
    x = stream.normal(size=(400, 9, 3)).astype(np.float32)
    bench.arrays("waves", x=x, y=np.where(x[:, :, 0].sum(1) > 0, "up", "down"))
    given = {**COMMON, **TRAINED[name], **fields}
    return bench.material(given.pop("dataset", "digits"), **given)


@pytest.mark.parametrize("name", TRAINED)
def test_an_interruption_does_not_show(bench: Any, name: str) -> None:
    material = material_of(bench, name)
    straight = start(material, (0,), CPU)
    frozen = [bench.freeze(straight) for _ in on(straight, Task(material, straight, CPU)) if straight.reason is None]
    for at in (0, len(frozen) // 2, len(frozen) - 1):
        run = bench.thaw(material, 0, frozen[at])
        list(on(run, Task(material, run, CPU)))
        assert facts(run) == facts(straight), f"after pause {at}"


@pytest.mark.parametrize("name", TRAINED)
def test_members_are_asked_in_every_mode_and_after_being_stored(bench: Any, name: str) -> None:
    material = material_of(bench, name, ensemble={"size": 2}, epochs=1)
    assert not stackable(build(material, None)), "trained by the plain engine"
    model = bench.model(material, *(bench.train(material, member) for member in (0, 1)))
    stored = rebuild(json.loads(json.dumps(model.spec.dump())), json.loads(json.dumps(model.describe())), pack(model.tensors()))
    x = material.rows(material.parts.test[:5])[0].float()
    modes: list[dict[str, Any]] = [{"mode": "single"}, {"mode": "ensemble"}]
    if model.drops:
        modes += [{"mode": "monte_carlo", "samples": 3}, {"members": "all", "dropout": "sampled"}]
    for mode in modes:
        axes = Asking(**mode).axes(model)
        said, again = ask(model, x, axes), ask(stored, x, axes)
        alone = [ask(model, row.unsqueeze(0), axes) for row in x]
        for target, answer in said.items():
            values = answer.probabilities if isinstance(answer, Classes) else answer.mean
            other = again[target]
            assert torch.equal(values, other.probabilities if isinstance(other, Classes) else other.mean)
            each = torch.cat([own[target].probabilities if isinstance(own[target], Classes) else own[target].mean for own in alone])
            torch.testing.assert_close(values, each, rtol=1e-4, atol=1e-5)
            assert values.isfinite().all()


@pytest.mark.parametrize("name", TRAINED)
def test_attacks_raise_the_loss_and_leave_no_trace(bench: Any, name: str) -> None:
    material = material_of(bench, name, epochs=1)
    model = bench.model(material, bench.train(material))
    rows = material.parts.test[:8]
    x, axes = material.rows(rows)[0].float(), Asking(mode="single").axes(model)
    target = model.spec.targets[-1]
    answer = ask(model, x, axes)[target.name]
    before = {key: tensor.clone() for key, tensor in model.networks[0].state_dict().items()}
    if isinstance(answer, Numbers):
        loss: Any = DeployedNumbers(model, axes, target.name, torch.from_numpy(material.truth(target, rows)))
    else:
        loss = Deployed(model, axes, target.name, answer.prediction)
    moved = PGD(epsilon=1.0, steps=4).resolved()(x, loss, Box()).inputs
    assert float((moved - x).abs().max()) <= 1.0 + 1e-5
    with torch.no_grad():
        assert float(loss(moved).mean()) > float(loss(x).mean())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.networks[0].state_dict().items())
    assert not model.networks[0].training
    assert all(parameter.grad is None for parameter in model.networks[0].parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_units_are_looked_at(bench: Any, name: str) -> None:
    material = material_of(bench, name, epochs=1)
    found = activations(Inquiry(bench.model(material, bench.train(material)), material))
    assert found is not None
    assert found["layers"]
    assert all(0 <= layer[moment]["dead"] <= 1 for layer in found["layers"].values() for moment in ("first", "best"))


def test_what_a_convolution_costs(bench: Any) -> None:
    """Products are those of its matrix; memory grows with what it gives at every place."""
    network = build(material_of(bench, "cnn"), None)
    assert network.products == (4 * 9 * 64 + 6 * 4 * 9 * 16) + 24 * 12 + 12 * 10
    assert network.entries >= 64 + 4 * 64 + 6 * 16 + 12
