"""Several targets against one each, over HTTP: made-up data on one subspace, and tic-tac-toe with the loss of AlphaGo Zero."""

import argparse
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from benchmarks.service import Answer, report, run, service
from benchmarks.tictactoe import Game, solved

INPUTS, LABELS, TEST = 20, 100, 2000
NOISE = 0.1
WINS = 9
"""Of ten seeds."""
SUBSPACE: Answer = {
    "architecture": {"type": "mlp", "hidden": [3], "activation": "tanh"},
    "regularizers": [{"type": "l2", "alpha": 1e-4}],
    "optimizer": {"type": "adam", "learning_rate": 0.01},
    "split": {"test_rows": list(range(TEST))},
    "epochs": 150, "batch_size": 32, "early_stopping": None,
}  # fmt: skip
POLICY: Answer = {"name": "policy", "task": "distribution"}
VALUE: Answer = {"name": "value", "task": "regression", "output": "tanh"}
# (z - v)^2 - pi^T log p + c |theta|^2, c = 1e-4 (Silver et al. 2017).
GAME: Answer = {
    "dataset": "tictactoe",
    "architecture": {"type": "mlp", "hidden": [128, 128]},
    "regularizers": [{"type": "l2", "alpha": 1e-4, "parameters": "all"}],
    "split": {"validation": 0.1, "test": 0.2, "group": "symmetry", "seed": 0},
    "schedule": {"type": "cosine"},
    "epochs": 60, "batch_size": 64,
}  # fmt: skip
BOARDS: Answer = {
    **GAME, "dataset": "boards", "targets": [POLICY, VALUE], "architecture": {"type": "resnet", "depth": 8, "width": 32},
}  # fmt: skip
"""The same of boards [3, 3], from a residual convolutional trunk with two heads."""
MEASURES = ("policy.kl", "policy.accuracy", "value.mse")


def upload(http: httpx2.Client, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Upload arrays as a dataset."""
    content = io.BytesIO()
    np.savez_compressed(content, **dict(arrays))
    answer = http.post("/api/v1/datasets", files={"file": (f"{name}.npz", content.getvalue())}, data={"name": name})
    if answer.status_code != 201:
        raise SystemExit(answer.text)
    return name


def subspace(seed: int) -> dict[str, NDArray[Any]]:
    """Two targets that are sums of the same three features of random rows, of which training rows have every second label.

    The first `TEST` rows have all labels; after them are 2 `LABELS` rows, so that each target has `LABELS` labels to train on.
    """
    stream = np.random.default_rng(seed)
    directions = np.linalg.qr(stream.normal(size=(INPUTS, 3)))[0]
    x = stream.normal(size=(TEST + 2 * LABELS, INPUTS))
    y = np.tanh(1.5 * x @ directions) @ stream.normal(size=(3, 2))
    y = y / y.std(axis=0) + NOISE * stream.normal(size=y.shape)
    for column in range(2):
        y[TEST + stream.permutation(2 * LABELS)[:LABELS], column] = np.nan
    first, second = y.astype(np.float32).T
    return {"x": x.astype(np.float32), "first": first, "second": second}


def together_and_apart(http: httpx2.Client, spec: Answer, targets: Sequence[Answer], **more: Any) -> tuple[Answer, list[Answer]]:
    """Test metrics of one net of all targets, and of a net of each."""
    several = report(http, run(http, {**spec, **more, "targets": list(targets)})[0])["splits"]["test"]
    each = [report(http, run(http, {**spec, **more, "targets": [target]})[0])["splits"]["test"] for target in targets]
    return several, each


def on_subspace(http: httpx2.Client, seeds: int) -> bool:
    """Whether multi-task reaches the single tasks' mean test error in nine of ten seeds."""
    wins, ratios = 0, []
    for seed in range(seeds):
        name = upload(http, f"subspace-{seed}", subspace(seed))
        targets = [{"name": "first", "task": "regression"}, {"name": "second", "task": "regression"}]
        several, each = together_and_apart(http, SUBSPACE, targets, dataset=name, seed=seed)
        together = (several["first.mse"] + several["second.mse"]) / 2
        apart = (each[0]["mse"] + each[1]["mse"]) / 2
        wins, ratios = wins + (together <= apart), [*ratios, together / apart]
        print(f"seed {seed}: test mse together {together:.4f}, apart {apart:.4f}", flush=True)
    needed = round(WINS / 10 * seeds)
    verdict = "holds" if wins >= needed else "FALLS SHORT"
    print(
        f"at least as good together in {wins} of {seeds} seeds (at least {needed}): {verdict}; ratio {statistics.fmean(ratios):.3f}",
        flush=True,
    )
    return wins >= needed


def on_game(http: httpx2.Client, seeds: int) -> None:
    """Policy and value of one net beside those of two of its size; no test position is a rotation or reflection of a training one."""
    game: Game = solved()
    upload(http, "tictactoe", game._asdict())
    rows = []
    for seed in range(seeds):
        several, (policy, value) = together_and_apart(http, GAME, [POLICY, VALUE], seed=seed)
        ours = [several[measure] for measure in MEASURES]
        rows.append(tuple(zip(ours, (policy["kl"], policy["accuracy"], value["mse"]), strict=True)))
        print(f"seed {seed}: kl, accuracy, mse " + ", ".join(f"{a:.4f} and {b:.4f}" for a, b in rows[-1]), flush=True)
    for name, pairs in zip(("policy kl", "policy accuracy", "value mse"), zip(*rows, strict=True), strict=True):
        together, apart = ([pair[side] for pair in pairs] for side in (0, 1))
        spread = statistics.stdev(together) if seeds > 1 else float("nan")
        print(f"{name}: one net {statistics.fmean(together):.4f} +- {spread:.4f}, two nets {statistics.fmean(apart):.4f}", flush=True)


def on_boards(http: httpx2.Client, seeds: int) -> None:
    """The game from one spec with a residual convolutional trunk: boards are images of 3 x 3, whose cells have neighbours."""
    game = solved()
    upload(http, "boards", {**game._asdict(), "x": game.x.reshape(-1, 3, 3)})
    print(json.dumps(BOARDS))
    rows = []
    for seed in range(seeds):
        job, seconds = run(http, {**BOARDS, "seed": seed})
        found, parameters = report(http, job)["splits"]["test"], http.get(f"/api/v1/models/{job['model']}").json()["parameters"]
        rows.append([found[measure] for measure in MEASURES])
        said = ", ".join(f"{value:.4f}" for value in rows[-1])
        print(f"seed {seed}: kl, accuracy, mse {said}; {parameters} parameters, {seconds:.0f} s", flush=True)
    for measure, values in zip(MEASURES, zip(*rows, strict=True), strict=True):
        spread = statistics.stdev(values) if seeds > 1 else float("nan")
        print(f"residual trunk, {measure}: {statistics.fmean(values):.4f} +- {spread:.4f}", flush=True)


def main() -> None:
    """All experiments; ends with 1 where the first does not hold."""
    reader = argparse.ArgumentParser(prog="python -m benchmarks.multitask")
    reader.add_argument("--seeds", type=int, default=10, help="of the made-up data; 0: only the game")
    reader.add_argument("--game-seeds", type=int, default=3, help="of the game with perceptrons")
    reader.add_argument("--board-seeds", type=int, default=3, help="of the game with a residual convolutional trunk")
    reader.add_argument("--workers", type=int, default=2)
    asked = reader.parse_args()
    with service(asked.workers) as (http, _):
        held = not asked.seeds or on_subspace(http, asked.seeds)
        if asked.game_seeds:
            on_game(http, asked.game_seeds)
        if asked.board_seeds:
            on_boards(http, asked.board_seeds)
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
