"""Batches of images turned, moved and noised by kornia: python augmented.py {separate|affine} FOLDER

`separate` has a module for each transform, as Temper has; `affine` turns and moves in one pass, the quickest that there is.
"""

import sys
from collections.abc import Callable

import kornia.augmentation as K
import numpy as np
import torch
from turns import Predict, data, take_turns


def main() -> None:
    kind, folder = sys.argv[1:]
    torch.set_num_threads(1)
    given = data(folder)
    plan = given.plan
    share = plan["pixels"] / plan["side"]
    noise = K.RandomGaussianNoise(mean=0.0, std=plan["std"], p=1.0)
    if kind == "affine":
        moves = [K.RandomAffine(plan["degrees"], translate=(share, share), p=1.0)]
    else:
        moves = [K.RandomRotation(plan["degrees"], p=1.0), K.RandomTranslate((-share, share), (-share, share), p=1.0)]
    changed: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Sequential(*moves, noise)
    images = torch.from_numpy(given.x).view(-1, 1, plan["side"], plan["side"])

    def turn(seed: int) -> Predict:
        torch.manual_seed(seed)
        with torch.no_grad():
            for _ in range(plan["epochs"]):
                for batch in images.split(plan["batch"]):
                    changed(batch)
        return lambda: np.eye(10)[given.test_y]

    take_turns(turn, given.test_y)


if __name__ == "__main__":
    main()
