"""Adversarial training's perturbations: identities of each method, without a trace on the network."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from service.catalog import kinds
from service.tricks import adversarial, smoothing
from service.tricks.adversarial import AdversarialTraining, FastTraining, FGSMTraining, NoiseTraining, PGDTraining
from service.tricks.certification import IBPTraining
from service.tricks.divergence import divergence, speaks
from service.tricks.multitask import Classification, Reconstruction, Regression, SoftLabels
from service.tricks.norms import NORMS
from service.tricks.smoothing import TRADES, VAT

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
W = torch.tensor([3.0, -4.0, 0.0, 12.0], dtype=torch.float64)
DUAL = {"linf": float(W.abs().sum()), "l2": float(W.norm())}
RULES: dict[str, Any] = {
    "fgsm": FGSMTraining(epsilon=0.3),
    "pgd": PGDTraining(epsilon=0.3, steps=5),
    "fast": FastTraining(epsilon=0.3),
    "trades": TRADES(epsilon=0.3),
    "vat": VAT(epsilon=0.3, steps=2),
    "noise": NoiseTraining(std=0.3),
}
SIZED = [name for name in RULES if name != "noise"]
MOVABLE = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def streams(count: int = 1, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + seed) for seed in range(count)]


def sized(name: str, norm: Any) -> Any:
    return RULES[name].model_copy(update={"norm": norm})


def net(outputs: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs)).double()


def kl(network: nn.Module, x: Tensor, moved: Tensor) -> Tensor:
    """The divergence [N] by torch's own function."""
    return F.kl_div(network(moved).log_softmax(-1), network(x).detach().log_softmax(-1), log_target=True, reduction="none").sum(-1)


def test_every_kind_is_tested_here() -> None:
    """But for training on bounds, which moves no rows: tests/training/test_certified.py."""
    kept = {type(rule) for rule in RULES.values()} | {IBPTraining}
    assert kept == set(kinds(AdversarialTraining)) == set(get_args(get_args(AdversarialTraining)[0]))
    written = {
        value for module in (adversarial, smoothing) for value in vars(module).values()
        if isinstance(value, type) and "method" in getattr(value, "model_fields", ())
    }  # fmt: skip
    assert written | {IBPTraining} == set(kinds(AdversarialTraining))
    assert all(RULES[name].method == name for name in RULES)


@pytest.mark.parametrize("norm", DUAL)
@pytest.mark.parametrize("name", SIZED)
def test_a_linear_loss_rises_by_epsilon_times_the_dual_norm(name: str, norm: Any) -> None:
    """Every method gets to the far side of the ball of a linear loss, and no further."""
    moved = sized(name, norm).perturb(X, lambda x: (x @ W).mean())
    torch.testing.assert_close((moved - X) @ W, torch.full((6,), 0.3 * DUAL[norm], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert bool(((moved - X)[:, 2] == 0).all()), "sign(0) = 0"


@pytest.mark.parametrize("name", ["fgsm", "pgd", "fast"])
def test_the_margin_of_a_linear_model_falls_by_epsilon_times_its_l1_norm(name: str) -> None:
    """Goodfellow et al. 2015, section 5: training on it is training with that margin; random starts end in the same corner."""
    labels = torch.tensor([1.0, -1, 1, 1, -1, -1], dtype=torch.float64)

    def margin(x: Tensor) -> Tensor:
        return labels * (x @ W + 0.5)

    rule = PGDTraining(epsilon=0.3, steps=9) if name == "pgd" else RULES[name]
    for drawn in ([], streams()):
        moved = rule.perturb(X, lambda x: F.softplus(-margin(x)).mean(), None, drawn)
        if name == "fast" and drawn:  # a start beyond the middle ends 1.25 epsilon further, one before it not at the edge
            assert bool((margin(moved) >= margin(X) - 0.3 * DUAL["linf"] - 1e-12).all())
            continue
        torch.testing.assert_close(margin(moved), margin(X) - 0.3 * DUAL["linf"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_the_loss_of_a_batch_moves_each_row_as_alone(name: str) -> None:
    network = net(1)

    def loss(x: Tensor) -> Tensor:
        return network(x).square().mean()

    rule = RULES[name] if name == "noise" else sized(name, "l2")
    together = rule.perturb(X, loss, None, streams(6))
    alone = torch.cat([rule.perturb(row, loss, None, [stream]) for row, stream in zip(X.split(1), streams(6), strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_nothing_of_it_stays_behind(name: str, drawn: bool) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).double().eval()
    before = {key: value.detach().clone() for key, value in network.state_dict().items()}
    clean = X.clone()
    moved = RULES[name].perturb(X, lambda x: network(x).square().mean(), None, streams() if drawn else ())
    assert not moved.requires_grad, "no gradient flows through the perturbed rows"
    assert torch.equal(X, clean)
    assert not X.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("norm", DUAL)
@pytest.mark.parametrize("name", SIZED)
def test_the_ball_and_what_may_not_move_are_kept(name: str, norm: Any) -> None:
    network = net()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    moved = sized(name, norm).perturb(X, lambda x: F.cross_entropy(network(x), labels), MOVABLE, streams())
    length = NORMS[norm].length(moved - X)
    assert float(length.max()) <= 0.3 * (1 + 1e-6)
    assert float(length.min()) > 0
    assert torch.equal(moved[:, 1], X[:, 1])


@pytest.mark.parametrize("name", SIZED)
def test_epsilon_zero_moves_nothing(name: str) -> None:
    rule = RULES[name].model_copy(update={"epsilon": 0.0})
    assert torch.equal(rule.perturb(X, lambda x: (x @ W).mean(), None, streams()), X)


@pytest.mark.parametrize("norm", DUAL)
@pytest.mark.parametrize("name", SIZED)
def test_a_flat_loss_moves_nothing(name: str, norm: Any) -> None:
    assert torch.equal(sized(name, norm).perturb(X, lambda x: (x * 0).mean()), X)


@pytest.mark.parametrize("name", SIZED)
def test_what_is_raised_is_higher_than_at_the_clean_rows(name: str) -> None:
    network = net()
    if name in ("trades", "vat"):
        moved = RULES[name].perturb(X, lambda x: kl(network, X, x).mean(), None, streams())
        random = X + 0.3 * torch.sign(torch.randn(X.shape, generator=streams(1, 9)[0], dtype=X.dtype))
        assert bool((kl(network, X, moved) > 0).all())
        assert float(kl(network, X, moved).mean().detach()) > float(kl(network, X, random).mean().detach())
        return
    labels = network(X).argmax(-1)
    moved = RULES[name].perturb(X, lambda x: F.cross_entropy(network(x), labels), None, streams())
    before, after = (F.cross_entropy(network(rows), labels, reduction="none").detach() for rows in (X, moved))
    assert bool((after > before).all())


def test_one_pgd_step_of_full_length_from_the_row_is_fgsm_bit_for_bit() -> None:
    network = net()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(network(x), labels)

    one = PGDTraining(epsilon=0.3, steps=1, step_size=0.3).perturb(X, loss)
    assert torch.equal(one, FGSMTraining(epsilon=0.3).perturb(X, loss))
    assert torch.equal(FastTraining(epsilon=0.3).perturb(X, loss), one), "from the row itself a longer step ends at the ball"


def test_more_steps_of_trades_raise_the_divergence() -> None:
    network = net()
    found = []
    for steps in (1, 3, 10, 30):
        moved = TRADES(epsilon=0.5, steps=steps, norm="l2").perturb(X, lambda x: kl(network, X, x).sum(), None, streams())
        found.append(float(kl(network, X, moved).mean().detach()))
    assert found[0] < found[1] < found[2] <= found[3] * (1 + 1e-3)


def test_the_start_of_trades_is_not_rounded_away() -> None:
    """.001 N(0, 1) as published for epsilon up to .3; rows in thousands are lost in float32 unless it grows with epsilon."""
    flat = TRADES(epsilon=0.3).perturb(X, lambda x: (x * 0).mean(), None, streams())
    assert float((flat - X).std()) == pytest.approx(0.001, rel=0.3)
    far = 1e6 * torch.ones(200, 4)
    moved = TRADES(epsilon=3000.0).perturb(far, lambda x: (x * 0).mean(), None, streams())
    assert float((moved - far).std()) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize("row", range(3))
def test_vat_finds_the_first_eigenvector_of_the_divergences_hessian(row: int) -> None:
    """Miyato et al. 2018, section 3.3: KL is 0 and flat at r = 0, so that there it is r' H r / 2."""
    network, x = net(3, seed=row), X[row : row + 1]
    hessian = torch.autograd.functional.hessian(lambda r: kl(network, x, x + r).sum(), torch.zeros(1, 4, dtype=x.dtype)).view(4, 4)
    values, vectors = torch.linalg.eigh(hessian)
    assert values[-1] > 1.2 * values[-2], "the first is told from the second"
    r = VAT(epsilon=1e-3, norm="l2", steps=60).perturb(x, lambda moved: kl(network, x, moved).sum(), None, streams()) - x
    assert float(r.norm()) == pytest.approx(1e-3, rel=1e-9)
    assert abs(float(r.view(-1) @ vectors[:, -1])) == pytest.approx(1e-3, rel=1e-3)
    once = VAT(epsilon=1e-3, norm="l2").perturb(x, lambda moved: kl(network, x, moved).sum(), None, streams()) - x
    assert float(kl(network, x, x + once).detach()) < float(kl(network, x, x + r).detach()) * (1 + 1e-6)


def test_noise_has_the_rows_as_its_mean() -> None:
    rows = torch.full((40_000, 2), 3.0, dtype=torch.float64)
    delta = (NoiseTraining(std=0.5).perturb(rows, lambda x: x.mean(), None, streams()) - rows).numpy()
    assert np.abs(delta.mean(0)).max() < 4 * 0.5 / 200
    assert stats.kstest(delta[:, 0] / 0.5, "norm").pvalue > 1e-3
    assert stats.kstest(delta[:, 1] / 0.5, "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", ["pgd", "fast", "trades", "vat", "noise"])
def test_a_member_draws_from_its_own_stream(name: str) -> None:
    """Rows of a stack lie one member after the other: each as alone, and the others' numbers do not matter."""
    network, rule = net(1), RULES[name] if name == "noise" else sized(name, "l2")

    def loss(x: Tensor) -> Tensor:
        return network(x).square().mean()

    both = rule.perturb(torch.cat([X, X]), loss, None, [*streams(1, 5), *streams(1, 7)])
    for place, seed in enumerate((5, 7)):
        alone = rule.perturb(X, loss, None, streams(1, seed))
        torch.testing.assert_close(both[6 * place :][:6], alone, rtol=1e-12, atol=1e-12)
    assert not torch.equal(both[:6], both[6:])
    assert torch.equal(rule.perturb(X, loss), rule.perturb(X, loss)), "without streams nothing is random"


def test_what_is_left_of_the_step_of_fast_is_each_rows_own() -> None:
    shares = torch.tensor([1.0, 0.5, 0.25, 0.0, 1.0, 0.5], dtype=torch.float64)
    moved = FastTraining(epsilon=1.0, step_size=0.8).perturb(X, lambda x: (x @ W).mean(), None, (), shares=shares)
    torch.testing.assert_close((moved - X)[:, 0], 0.8 * shares, rtol=1e-12, atol=1e-12)


def test_passes_are_counted() -> None:
    """A plain step takes three; the rules' own are counted where the loss is called."""
    network, labels = net(), torch.tensor([0, 1, 2, 0, 1, 2])
    for name, rule in RULES.items():
        calls = []

        def loss(x: Tensor) -> Tensor:
            calls.append(1)  # noqa: B023
            return F.cross_entropy(network(x), labels)

        rule.perturb(X, loss, None, streams())
        learned = 1 if getattr(rule, "weight", None) == 1 and name != "vat" else 2
        assert rule.passes == 3 * learned + 2 * len(calls), name
    assert [rule.model_copy(update={"weight": 0.0, "beta": 0.0}).passes for rule in RULES.values()] == [3] * 6


# --- divergence -----------------------------------------------------------------------------------------------------


def test_the_divergence_of_classes_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q))
    torch.testing.assert_close(divergence(Classification(name="y"), p, q), expected, rtol=1e-10, atol=1e-12)


def test_the_divergence_of_gaussians_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    target = Regression(name="y", loss="gaussian_nll")
    normals = []
    for raw in (p, q):
        mean, spread = raw.chunk(2, dim=-1)
        normals.append(torch.distributions.Normal(mean, (F.softplus(spread) + 1e-6).sqrt()))
    expected = torch.distributions.kl_divergence(*normals).mean(-1)
    torch.testing.assert_close(divergence(target, p, q), expected, rtol=1e-10, atol=1e-12)
    one = torch.distributions.kl_divergence(torch.distributions.Normal(p, 1.0), torch.distributions.Normal(q, 1.0)).mean(-1)
    torch.testing.assert_close(divergence(Regression(name="y"), p, q), one, rtol=1e-10, atol=1e-12)


def test_which_heads_say_a_distribution() -> None:
    for target in (Classification(name="y"), Classification(name="y", loss="focal", gamma=2.0), SoftLabels(name="y")):
        assert speaks(target)
    assert speaks(Regression(name="y", loss="gaussian_nll"))
    for target in (Regression(name="y"), Regression(name="y", loss="quantile", quantiles=(0.1, 0.5, 0.9)), Reconstruction(name="input")):
        assert not speaks(target)
