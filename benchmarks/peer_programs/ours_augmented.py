"""The same batches by Temper's transforms: python -m benchmarks.peer_programs.ours_augmented FOLDER"""

import sys

import numpy as np
import torch

from benchmarks.peer_programs.turns import Predict, data, take_turns
from service.tricks.augmentation import GaussianNoise
from service.tricks.augmenting import Augmented
from service.tricks.geometry import Rotate, Translate


def main() -> None:
    (folder,) = sys.argv[1:]
    torch.set_num_threads(1)
    given = data(folder)
    plan = given.plan
    images, rows = torch.from_numpy(given.x).view(-1, plan["side"], plan["side"]), torch.arange(len(given.x))
    transforms = (Rotate(degrees=plan["degrees"]), Translate(pixels=plan["pixels"]), GaussianNoise(std=plan["std"]))

    def turn(seed: int) -> Predict:
        changed = Augmented(transforms, (seed,), classes={})
        for epoch in range(plan["epochs"]):
            for batch, numbers in zip(images.split(plan["batch"]), rows.split(plan["batch"]), strict=True):
                changed(batch, {}, numbers, epoch=epoch)
        return lambda: np.eye(10)[given.test_y]

    take_turns(turn, given.test_y)


if __name__ == "__main__":
    main()
