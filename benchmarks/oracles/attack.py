"""Robust accuracy by foolbox and by ART of a network rebuilt from a model's files; runs in the oracles' own environment."""

import json
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Rebuilt(nn.Module):
    """The first member of a ReLU mlp: normalization inside, so that inputs stay in their own unit."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.shift, self.scale = tensors["preprocess.shift"], tensors["preprocess.scale"]
        names = sorted(name[: -len(".weight")] for name in tensors if name.startswith("members.0.") and name.endswith(".weight"))
        order = [name for name in names if ".trunk." in name] + [name for name in names if ".heads." in name]
        self.layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in order]

    def forward(self, x: Tensor) -> Tensor:
        x = ((x - self.shift) / self.scale).flatten(1)
        for weight, bias in self.layers[:-1]:
            x = torch.relu(nn.functional.linear(x, weight, bias))
        return nn.functional.linear(x, *self.layers[-1])


def foolbox_accuracy(model: nn.Module, x: Tensor, y: Tensor, case: dict[str, float | str]) -> float:
    import foolbox

    high = float(case["high"])
    wrapped = foolbox.PyTorchModel(model, bounds=(0, high), device="cpu")
    epsilon, norm = float(case["epsilon"]), case["norm"]
    if case["type"] == "fgsm":
        attack = foolbox.attacks.LinfFastGradientAttack() if norm == "linf" else foolbox.attacks.L2FastGradientAttack()
    else:
        kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
        attack = kind(steps=int(case["steps"]), abs_stepsize=2.5 * epsilon / int(case["steps"]), random_start=False)
    return float(1 - attack(wrapped, x, y, epsilons=epsilon)[2].float().mean())


def art_accuracy(model: nn.Module, x: Tensor, y: Tensor, case: dict[str, float | str]) -> float:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, float(case["high"])), device_type="cpu")
    norm, epsilon = (np.inf if case["norm"] == "linf" else 2), float(case["epsilon"])
    if case["type"] == "fgsm":
        attack = FastGradientMethod(wrapped, norm=norm, eps=epsilon, batch_size=1000)
    else:
        size, steps = 2.5 * epsilon / int(case["steps"]), int(case["steps"])
        attack = ProjectedGradientDescent(
            wrapped, norm=norm, eps=epsilon, eps_step=size, max_iter=steps, num_random_init=0, batch_size=1000, verbose=False
        )
    moved = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
    with torch.no_grad():
        return float((model(moved).argmax(1) == y).float().mean())


def main() -> None:
    folder = sys.argv[1]
    torch.set_num_threads(1)
    cases = json.load(open(f"{folder}/cases.json"))
    rows = np.load(f"{folder}/rows.npz")
    x, y = torch.from_numpy(rows["x"]).float(), torch.from_numpy(rows["y"]).long()
    model = Rebuilt(load_file(f"{folder}/model.safetensors")).eval()
    found = [{**case, "foolbox": foolbox_accuracy(model, x, y, case), "art": art_accuracy(model, x, y, case)} for case in cases]
    json.dump(found, open(f"{folder}/found.json", "w"))


if __name__ == "__main__":
    main()
