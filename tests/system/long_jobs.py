"""Jobs that last: one that is stopped before its end, and one that ends, whose bytes are compared with those of disturbed ones."""

from typing import Any

LONG: dict[str, Any] = {
    "name": "long",
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [64, 64], "dropout": {"input": 0.1, "hidden": 0.4}},
    "augmentation": [{"type": "gaussian_noise", "std": 0.5}],
    "ensemble": {"size": 2, "bootstrap": True},
    "schedule": {"type": "cosine"},
    "early_stopping": None,
    "epochs": 100_000,
}
MARATHON: dict[str, Any] = {**LONG, "epochs": 120, "checkpoint_interval_s": 0.2}
