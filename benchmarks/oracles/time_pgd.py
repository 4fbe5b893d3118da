"""User CPU seconds that ART (as it comes, and with one batch) and foolbox take for PGD on a rebuilt network, and the accuracy they leave.

The best of three runs each.
"""

import json
import resource
import sys
from collections.abc import Callable

import numpy as np
import torch
from rebuilt import rebuilt
from torch import Tensor, nn


def main() -> None:
    import foolbox
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    folder = sys.argv[1]
    torch.set_num_threads(1)
    case, rows = json.load(open(f"{folder}/case.json")), torch.load(f"{folder}/rows.pt")
    x, y, model = rows["x"], rows["y"], rebuilt(folder)
    steps, size, epsilon = case["steps"], case["step_size"], case["epsilon"]

    def best(work: Callable[[], Tensor]) -> tuple[float, float]:
        times, moved = [], x
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            moved = work()
            times.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before)
        with torch.no_grad():
            return min(times), float((model(moved).argmax(1) == y).float().mean())

    wrapped = foolbox.PyTorchModel(model, bounds=(0, case["high"]), device="cpu")
    theirs = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=size, random_start=False)
    found = {"foolbox": best(lambda: theirs(wrapped, x, y, epsilons=epsilon)[1])}
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, case["high"]), device_type="cpu")
    for name, batch in (("art", {}), ("art_tuned", {"batch_size": len(x)})):
        attack = ProjectedGradientDescent(
            classifier, norm=np.inf, eps=epsilon, eps_step=size, max_iter=steps, num_random_init=0, verbose=False, **batch
        )
        found[name] = best(lambda attack=attack: torch.from_numpy(attack.generate(x.numpy(), y.numpy())))
    json.dump(found, open(f"{folder}/times.json", "w"))


if __name__ == "__main__":
    main()
