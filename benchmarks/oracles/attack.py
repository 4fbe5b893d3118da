"""Robust accuracy by foolbox, ART and torchattacks of a network rebuilt from a model's files; runs in the oracles' own environment."""

import contextlib
import json
import os
import sys
from typing import Any

import numpy as np
import torch
from rebuilt import rebuilt
from torch import Tensor, nn

Case = dict[str, Any]


def _left(model: nn.Module, moved: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(moved).argmax(1) == y).float().mean())


def foolbox(model: nn.Module, x: Tensor, y: Tensor, case: Case) -> float | None:
    import foolbox

    linf, steps, epsilon = case["norm"] == "linf", case["steps"], case["epsilon"]
    attacks = foolbox.attacks
    if case["type"] == "fgsm":
        attack = attacks.LinfFastGradientAttack() if linf else attacks.L2FastGradientAttack()
    elif case["type"] == "pgd":
        kind = attacks.LinfPGD if linf else attacks.L2PGD
        attack = kind(steps=steps, abs_stepsize=2.5 * epsilon / steps, random_start=False)
    elif case["type"] == "deepfool":
        kind = attacks.LinfDeepFoolAttack if linf else attacks.L2DeepFoolAttack
        attack = kind(steps=50, candidates=10, overshoot=0.02, loss="logits")
    else:
        return None
    wrapped = foolbox.PyTorchModel(model, bounds=(0, case["high"]), device="cpu")
    return float(1 - attack(wrapped, x, y, epsilons=epsilon)[2].float().mean())


def art(model: nn.Module, x: Tensor, y: Tensor, case: Case) -> float | None:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, case["high"]), device_type="cpu")
    norm, epsilon, steps = (np.inf if case["norm"] == "linf" else 2), case["epsilon"], case["steps"]
    shared = {"norm": norm, "eps": epsilon, "batch_size": len(x)}
    if case["type"] == "fgsm":
        attack = evasion.FastGradientMethod(wrapped, **shared)
    elif case["type"] == "pgd":
        size = 2.5 * epsilon / steps
        attack = evasion.ProjectedGradientDescent(wrapped, **shared, eps_step=size, max_iter=steps, num_random_init=0, verbose=False)
    elif case["type"] == "apgd" and not case["targets"]:
        loss = "cross_entropy" if case["loss"] == "cross_entropy" else "difference_logits_ratio"
        kind = evasion.AutoProjectedGradientDescent
        np.random.seed(case["seed"])
        attack = kind(wrapped, **shared, eps_step=2 * epsilon, max_iter=steps, nb_random_init=1, loss_type=loss, verbose=False)
    else:
        return None
    return _left(model, torch.from_numpy(attack.generate(x.numpy(), y.numpy())), y)


class Unit(nn.Module):
    """The network before images [N, 1, H, W] of 0 to 1, which torchattacks asks for."""

    def __init__(self, model: nn.Module, high: float) -> None:
        super().__init__()
        self.model, self.high = model, high

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.squeeze(1) * self.high)


def torchattacks(model: nn.Module, x: Tensor, y: Tensor, case: Case) -> float | None:
    import torchattacks

    high, steps = case["high"], case["steps"]
    unit, shared = Unit(model, high).eval(), {"norm": "Linf" if case["norm"] == "linf" else "L2", "eps": case["epsilon"] / high}
    drawn = {**shared, "seed": case["seed"]}
    if case["type"] == "apgd" and case["targets"]:
        attack = torchattacks.APGDT(unit, **drawn, steps=steps, n_classes=10)
    elif case["type"] == "apgd":
        attack = torchattacks.APGD(unit, **drawn, steps=steps, loss="ce" if case["loss"] == "cross_entropy" else "dlr")
    elif case["type"] == "fab":
        attack = torchattacks.FAB(unit, **drawn, steps=steps, n_classes=10)
    elif case["type"] == "square":
        attack = torchattacks.Square(unit, **drawn, n_queries=case["queries"], loss="margin")
    else:
        return None
    moved = attack(x.unsqueeze(1) / high, y).squeeze(1) * high
    delta = (moved - x).flatten(1)
    length = delta.abs().amax(1) if case["norm"] == "linf" else delta.norm(dim=1)
    # FAB gives the nearest point it found, however far.
    return _left(model, torch.where((length <= case["epsilon"] * (1 + 1e-5)).view(-1, 1, 1), moved, x), y)


def main() -> None:
    folder = sys.argv[1]
    torch.set_num_threads(1)
    cases = json.load(open(f"{folder}/cases.json"))
    rows = np.load(f"{folder}/rows.npz")
    x, y, model = torch.from_numpy(rows["x"]).float(), torch.from_numpy(rows["y"]).long(), rebuilt(folder)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        found = [{**case, **{each.__name__: each(model, x, y, case) for each in (foolbox, art, torchattacks)}} for case in cases]
    json.dump(found, open(f"{folder}/found.json", "w"))


if __name__ == "__main__":
    main()
