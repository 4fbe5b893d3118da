"""One small net by a peer: python single.py {skorch,lightning,loader,sklearn} FOLDER

Each is used as its documentation has it, less what costs time and is not training: no validation, logs, checkpoints, bars.
"""

import sys
from collections.abc import Callable

from turns import Data, Predict, data, take_turns


def skorch(given: Data) -> Callable[[int], Predict]:
    import torch
    from skorch import NeuralNetClassifier
    from torch_net import Net, scores

    torch.set_num_threads(1)
    plan = given.plan

    def train(seed: int) -> Predict:
        torch.manual_seed(seed)
        net = NeuralNetClassifier(
            Net, module__widths=plan["widths"], module__rate=plan["dropout"], criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam, lr=1e-3, max_epochs=plan["epochs"], batch_size=plan["batch"], train_split=None,
            iterator_train__shuffle=True, verbose=0,
        )  # fmt: skip
        net.fit(given.x, given.y)
        return lambda: scores(net.module_, given.test_x)

    return train


def lightning(given: Data) -> Callable[[int], Predict]:
    import logging
    import warnings

    import torch
    from lightning.pytorch import LightningModule, Trainer
    from torch_net import Net, scores

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    plan = given.plan

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(plan["widths"], plan["dropout"])

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            x, y = batch
            return torch.nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train(seed: int) -> Predict:
        torch.manual_seed(seed)
        module = Module()
        trainer = Trainer(
            accelerator="cpu", max_epochs=plan["epochs"], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, _loader(given))
        return lambda: scores(module.net, given.test_x)

    return train


def loader(given: Data) -> Callable[[int], Predict]:
    import torch
    from torch_net import Net, scores

    torch.set_num_threads(1)
    plan = given.plan

    def train(seed: int) -> Predict:
        torch.manual_seed(seed)
        net, loss = Net(plan["widths"], plan["dropout"]), torch.nn.CrossEntropyLoss()
        optimizer, batches = torch.optim.Adam(net.parameters(), lr=1e-3), _loader(given)
        for _ in range(plan["epochs"]):
            for x, y in batches:
                optimizer.zero_grad()
                loss(net(x), y).backward()
                optimizer.step()
        return lambda: scores(net, given.test_x)

    return train


def _loader(given: Data):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(torch.from_numpy(given.x), torch.from_numpy(given.y)), batch_size=given.plan["batch"], shuffle=True)


def sklearn(given: Data) -> Callable[[int], Predict]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    plan = given.plan

    def train(seed: int) -> Predict:
        net = MLPClassifier(
            plan["widths"][1:-1], batch_size=plan["batch"], max_iter=plan["epochs"], alpha=0.0, tol=0.0,
            n_iter_no_change=plan["epochs"] + 1, random_state=seed,
        )  # fmt: skip
        net.fit(given.x, given.y)
        return lambda: net.predict_proba(given.test_x)

    return train


if __name__ == "__main__":
    asked = data(sys.argv[2])
    take_turns({"skorch": skorch, "lightning": lightning, "loader": loader, "sklearn": sklearn}[sys.argv[1]](asked), asked.test_y)
