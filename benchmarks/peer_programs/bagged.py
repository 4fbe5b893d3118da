"""Bagged nets by a peer: python bagged.py {torchensemble,torchensemble-1,sklearn} FOLDER

scikit-learn with two jobs; torchensemble with two jobs, and with one, which may be quicker.
"""

import sys
from collections.abc import Callable

from turns import Data, Predict, data, take_turns


def torchensemble(given: Data, jobs: int) -> Callable[[int], Predict]:
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from torch_net import Net
    from torchensemble import BaggingClassifier

    torch.set_num_threads(1)
    plan = given.plan
    rows = TensorDataset(torch.from_numpy(given.x), torch.from_numpy(given.y))

    def train(seed: int) -> Predict:
        torch.manual_seed(seed)
        np.random.seed(seed)
        arguments = {"widths": plan["widths"], "rate": plan["dropout"]}
        bag = BaggingClassifier(estimator=Net, estimator_args=arguments, n_estimators=plan["members"], cuda=False, n_jobs=jobs)
        bag.set_criterion(torch.nn.CrossEntropyLoss())
        bag.set_optimizer("Adam", lr=1e-3)
        bag.fit(DataLoader(rows, batch_size=plan["batch"], shuffle=True), epochs=plan["epochs"], log_interval=10**9, save_model=False)

        def predict() -> np.ndarray:
            bag.eval()
            with torch.no_grad():
                said: np.ndarray = bag(torch.from_numpy(given.test_x)).numpy()
            return said

        return predict

    return train


def sklearn(given: Data) -> Callable[[int], Predict]:
    import os

    from sklearn.ensemble import BaggingClassifier
    from sklearn.neural_network import MLPClassifier

    os.environ["PYTHONWARNINGS"] = "ignore"  # of the processes that it starts: nets that have not converged
    plan = given.plan

    def train(seed: int) -> Predict:
        net = MLPClassifier(
            plan["widths"][1:-1], batch_size=plan["batch"], max_iter=plan["epochs"], alpha=0.0, tol=0.0,
            n_iter_no_change=plan["epochs"] + 1,
        )  # fmt: skip
        bag = BaggingClassifier(net, n_estimators=plan["members"], n_jobs=2, random_state=seed)
        bag.fit(given.x, given.y)
        return lambda: bag.predict_proba(given.test_x)

    return train


if __name__ == "__main__":
    asked = data(sys.argv[2])
    peers = {
        "torchensemble": lambda: torchensemble(asked, 2),
        "torchensemble-1": lambda: torchensemble(asked, 1),
        "sklearn": lambda: sklearn(asked),
    }
    take_turns(peers[sys.argv[1]](), asked.test_y)
