"""User CPU seconds that ART (as it comes, and with one batch) and foolbox take for PGD on a rebuilt network; the best of five runs each."""

import json
import resource
import sys
from collections.abc import Callable

import numpy as np
import torch
from attack import Rebuilt
from safetensors.torch import load_file
from torch import nn


def best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        work()
        times.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before)
    return min(times)


def main() -> None:
    import foolbox
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    folder = sys.argv[1]
    torch.set_num_threads(1)
    case, rows = json.load(open(f"{folder}/case.json")), torch.load(f"{folder}/rows.pt")
    x, y, model = rows["x"], rows["y"], Rebuilt(load_file(f"{folder}/model.safetensors")).eval()
    steps, size, epsilon = case["steps"], case["step_size"], case["epsilon"]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, case["high"]), device="cpu")
    theirs = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=size, random_start=False)
    found = {"foolbox": best(lambda: theirs(wrapped, x, y, epsilons=epsilon))}
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, case["high"]), device_type="cpu")
    for name, batch in (("art", {}), ("art_tuned", {"batch_size": len(x)})):
        attack = ProjectedGradientDescent(
            classifier, norm=np.inf, eps=epsilon, eps_step=size, max_iter=steps, num_random_init=0, verbose=False, **batch
        )
        found[name] = best(lambda attack=attack: attack.generate(x.numpy(), y.numpy()))
    json.dump(found, open(f"{folder}/times.json", "w"))


if __name__ == "__main__":
    main()
