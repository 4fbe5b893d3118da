"""What is compiled for a CPU against the same in torch, which other devices use."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from service.nets.gates import Gated
from service.tricks.penalties import L1, ElasticNet
from service.tricks.proximal import Metric, Scales
from service.tricks.sparsity import chances
from workers.training.gating import _Behind, _OnCpu

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("penalty", [L1(alpha=0.3), ElasticNet(l1=0.3, l2=0.7), ElasticNet(l1=0.0, l2=0.7)], ids=["l1", "both", "l2"])
@pytest.mark.parametrize("size", [1, 7, 1003])
def test_a_proximal_step_has_the_bits_of_torchs(penalty: L1 | ElasticNet, dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    weights, moments = torch.randn(size, generator=generator, dtype=dtype), torch.rand(size, generator=generator, dtype=dtype)
    weights[3:5] = 0.0
    weights[5:7] = torch.tensor([math.inf, math.nan], dtype=dtype)[: len(weights[5:7])]
    ours, theirs = [weights.clone()], [weights.clone()]
    penalty.shrink(ours, learning_rate=9.0, metric=Scales(ours, [moments]).at(0.2, 1e-3))
    # A square root of numpy's: torch's may be a last bit off.
    scales = torch.from_numpy(np.sqrt(moments.numpy())) + 1e-3
    penalty.shrink(theirs, learning_rate=9.0, metric=Metric(0.2, [scales]))
    assert np.array_equal(ours[0].numpy(), theirs[0].numpy(), equal_nan=True)
    assert torch.equal(ours[0].signbit(), theirs[0].signbit())
    assert not ours[0].equal(weights)


def test_what_is_not_side_by_side_in_memory_is_softened_too() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, moments = torch.randn(6, 4, generator=generator).t(), torch.rand(6, 4, generator=generator).t()
    ours, theirs = [weights.clone()], [weights.clone(memory_format=torch.contiguous_format)]
    assert not ours[0].is_contiguous()
    for found, own in ((ours, moments), (theirs, moments.contiguous())):
        L1(alpha=0.3).shrink(found, learning_rate=9.0, metric=Scales(found, [own]).at(0.2, 1e-3))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)  # a difference to the threshold may be small


@pytest.mark.parametrize("members", [1, 3])
def test_gates_are_torchs(members: int) -> None:
    """To rounding: sums over outputs and the sigmoids round otherwise."""
    torch.manual_seed(0)
    layer = Gated(torch.nn.Linear(9, 5), 0.4, torch.Generator().manual_seed(0))
    if members > 1:
        layer.weight, layer.log_alpha = (torch.nn.Parameter(torch.randn(members, *each.shape)) for each in (layer.weight, layer.log_alpha))
    u = torch.rand(members, 20)[:, 7:16]
    gradient = torch.randn_like(layer.weight)
    found = []
    for kind in (_OnCpu, _Behind):
        layer.weight.grad = torch.ones_like(layer.weight)
        behind = kind(layer, u)
        behind.prices.copy_(torch.linspace(0, 1, 9))
        assert layer.folded is not None
        with torch.no_grad():
            behind.draw()
            layer.folded.grad = gradient.clone()
            behind.add_gradients()
        assert layer.folded.grad is None
        found.append([layer.folded.detach(), layer.weight.grad, layer.log_alpha.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert float(ours.std()) > 0


def test_weights_that_were_put_elsewhere_are_read_there() -> None:
    layer = Gated(torch.nn.Linear(9, 5), 0.4, torch.Generator().manual_seed(0))
    behind = _OnCpu(layer, torch.full((1, 9), 0.5))
    behind.draw()
    assert layer.folded is not None
    before = layer.folded.detach().clone()
    layer.weight.data, layer.log_alpha.data = 2 * layer.weight.data, layer.log_alpha.data.clone()
    behind.draw()
    torch.testing.assert_close(layer.folded.detach(), 2 * before, rtol=0, atol=0)


def test_gates_that_no_loss_depends_on_have_their_price_alone() -> None:
    layer = Gated(torch.nn.Linear(9, 5), 0.4, torch.Generator().manual_seed(0))
    for kind in (_OnCpu, _Behind):
        layer.weight.grad = None
        behind = kind(layer, torch.full((1, 9), 0.5))
        behind.prices.fill_(1.0)
        with torch.no_grad():
            behind.draw()
            behind.add_gradients()
        chance = chances(layer.log_alpha.detach())
        torch.testing.assert_close(layer.log_alpha.grad, chance * (1 - chance), rtol=1e-5, atol=1e-7)


def test_what_is_not_a_number_goes_through_gates() -> None:
    layer = Gated(torch.nn.Linear(9, 5), 0.4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.log_alpha[3], layer.weight[2, 7] = math.nan, math.nan
    for kind in (_OnCpu, _Behind):
        kind(layer, torch.full((1, 9), 0.5)).draw()
        assert layer.folded is not None
        assert layer.folded.isnan().sum() == 5 + 1


PROGRAM = """
import torch
from service.tricks.penalties import L1
from service.tricks.proximal import Scales
w = [torch.tensor([3.0, -0.01])]
L1(alpha=0.3).shrink(w, learning_rate=9.0, metric=Scales(w, [torch.ones(2)]).at(0.2, 1e-3))
print(w[0].tolist()[1])
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The sources in a folder of their own, where nothing was compiled."""
    shutil.copytree(ROOT / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def compiles(installed: Path) -> list[Path]:
    """What is kept of compiled kernels after a proximal step that had the right answer."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(installed / "home")}
    command = [sys.executable, "-c", PROGRAM]
    said = subprocess.run(command, env=environment, cwd=installed, capture_output=True, text=True, timeout=240, check=False)
    assert said.stdout == "0.0\n", said.stderr
    assert not (installed / "home").exists()
    return sorted((installed / "service/tricks/__pycache__").glob("*.nb*"))


def test_what_is_compiled_is_kept_beside_its_source_and_its_damage_does_no_harm(installed: Path) -> None:
    kept = compiles(installed)
    assert [path.suffix for path in kept] == [".nbc", ".nbi"]
    for damaged in kept:
        damaged.write_bytes(b"")
        compiles(installed)


def test_nothing_is_kept_where_python_keeps_nothing(installed: Path) -> None:
    """As in an image whose sources are not the service's own; here it is a file that is in the way."""
    (installed / "service/tricks/__pycache__").write_text("")
    assert compiles(installed) == []


def test_no_compiler_is_loaded_before_it_is_needed() -> None:
    program = "import sys, service.app, workers.training.trainer; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=240)
