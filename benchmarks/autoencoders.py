"""Autoencoders over HTTP: python -m benchmarks.autoencoders [--epochs 15] [--only wine constant tying mnist units]

wine: a linear autoencoder with a code of 2 on scikit-learn's wine (178 rows, 13 features): the squared error in normalized units,
sum over features, beside the discarded eigenvalues of the correlation matrix, 5.797176013598413; within 1 %.
constant: with a constant column, `error_original` is the mean of s^2 (z - z')^2 that is computed here from the answers, to 1e-6,
and the constant column adds exactly 0 on the training rows and its squared deviation on the test rows.
tying: `saved_by_tying` is the difference of parameters between two jobs, and the stored file has each tied weight once.
mnist: 784-128-32-128-784, tied and not: errors in both units on the 10,000 test rows.
units: the same net with a scale for each pixel, trained on either loss; constant pixels add exactly 0 on the training rows.
"""

import argparse
import io
import sys

import httpx2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from sklearn.datasets import load_wine

from benchmarks.service import Answer, report, run, service, upload_mnist

PCA = 5.797176013598413
PARTS = ("wine", "constant", "tying", "mnist", "units")
Floats = NDArray[np.float64]


def said(what: str, value: str, holds: bool | None = None) -> bool:
    """Print a line."""
    print(f"{what:66s} {value:38s} {'' if holds is None else 'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds is not False


def upload(http: httpx2.Client, name: str, x: Floats) -> None:
    """Store columns f0, f1, … as CSV."""
    content = io.StringIO()
    np.savetxt(content, x, delimiter=",", header=",".join(f"f{i}" for i in range(x.shape[1])), comments="", fmt="%.17g")
    answer = http.post("/api/v1/datasets", files={"file": (f"{name}.csv", content.getvalue().encode())}, data={"name": name})
    if answer.status_code != 201:
        raise SystemExit(answer.text)


def reconstructed(http: httpx2.Client, job: Answer, x: Floats) -> Floats:
    """What becomes of rows."""
    answer = http.post(f"/api/v1/models/{job['model']}/predict", json={"inputs": x.tolist()})
    if answer.status_code != 200:
        raise SystemExit(answer.text)
    return np.array(answer.json()["targets"]["input"]["prediction"])


def wine(http: httpx2.Client) -> bool:
    """A linear autoencoder is PCA."""
    x = load_wine().data
    upload(http, "wine", x)
    spec = {
        "dataset": "wine", "architecture": {"type": "autoencoder", "hidden": [], "code": 2}, "split": {"validation": 0, "test": 0},
        "batch_size": "full", "epochs": 4000, "optimizer": {"type": "adam", "learning_rate": 0.01}, "schedule": {"type": "cosine"},
    }  # fmt: skip
    job, seconds = run(http, spec)
    found = 13 * report(http, job)["splits"]["train"]["error_normalized"]
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(x.T))[:-2].sum()
    z = (reconstructed(http, job, x) - x) / x.std(0)
    off = max(abs(found / PCA - 1), abs(float((z**2).sum(1).mean()) / PCA - 1))
    return said(f"wine, code 2: {found:.6f}; discarded eigenvalues {eigenvalues:.6f}", f"off by {off:.1e} ({seconds:.0f} s)", off <= 0.01)


def constant(http: httpx2.Client) -> bool:
    """The original-unit error is the norm weighted by the standard deviations, with a constant column."""
    x, test = load_wine().data.copy(), np.arange(140, 178)
    x[:, 5] = 7.25
    x[test[:10], 5] = 9.25
    upload(http, "wine-constant", x)
    spec = {
        "dataset": "wine-constant", "architecture": {"type": "autoencoder", "hidden": [16], "code": 2}, "epochs": 200,
        "split": {"test_rows": test.tolist(), "validation": 0},
    }  # fmt: skip
    job, _ = run(http, spec)
    found, train = report(http, job), np.arange(140)
    mean, std = x[train].mean(0), x[train].std(0)
    z, back = (x - mean) / np.where(std > 0, std, 1), (reconstructed(http, job, x) - mean) / np.where(std > 0, std, 1)
    weighted = (std * (z - back)) ** 2
    off = abs(found["splits"]["train"]["error_original"] / weighted[train].mean() - 1)
    alone = {name: ((z - back)[rows, 5] ** 2).mean() for name, rows in (("train", train), ("test", test))}
    (told,) = found["constant_features"]["features"]
    held = [
        said("constant column: error_original over the sigma-norm, train", f"off by {off:.1e}", off <= 1e-6),
        said("  its part on train", f"{alone['train']:g} (report {told['train']:g})", alone["train"] == told["train"] == 0),
        said("  its part on test", f"{alone['test']:.6f} (report {told['test']:.6f}, 40/38)", bool(np.isclose(alone["test"], 40 / 38))),
    ]
    return all(held)


def tying(http: httpx2.Client) -> bool:
    """What tying saves, before and after training."""
    spec: Answer = {"dataset": "digits", "architecture": {"type": "autoencoder", "hidden": [48], "code": 8}, "epochs": 2}
    plans = []
    for tied in (False, True):
        plan = http.post("/api/v1/jobs:validate", json={**spec, "architecture": {**spec["architecture"], "tied": tied}}).json()
        plans.append((plan["parameters"], plan["saved_by_tying"]))
    job, _ = run(http, {**spec, "architecture": {**spec["architecture"], "tied": True}})
    tensors = load(http.get(f"/api/v1/models/{job['model']}/files/model.safetensors").content)
    weights = sum(tensor.size for name, tensor in tensors.items() if name.endswith("weight"))
    saved = plans[0][0] - plans[1][0]
    held = saved == plans[1][1] == report(http, job)["parameters"]["saved_by_tying"] == weights == 64 * 48 + 48 * 8
    return said(f"tied: {plans[1][0]:,} parameters instead of {plans[0][0]:,}", f"saves {saved:,}; {weights:,} weights stored", held)


def mnist(http: httpx2.Client, test: list[int], epochs: int, *, name: str, **fields: object) -> Answer:
    """The report of 784-128-32-128-784 on MNIST, with its errors on test printed beside a name."""
    net = {"type": "autoencoder", "hidden": [128], "code": 32, "tied": bool(fields.pop("tied", False))}
    spec = {
        "dataset": "mnist", "split": {"test_rows": test, "validation": 1 / 12}, "epochs": epochs, "batch_size": 128,
        "architecture": net, "schedule": {"type": "cosine"}, **fields,
    }  # fmt: skip
    job, seconds = run(http, spec)
    found = report(http, job)
    errors = found["splits"]["test"]
    said(
        f"mnist, {name}: {found['parameters']['member']:,} parameters",
        f"normalized {errors['error_normalized']:.4f} original {errors['error_original']:.1f} ({seconds:.0f} s)",
    )
    return found


def tied_mnist(http: httpx2.Client, epochs: int) -> bool:
    """Tied against untied; one mean and scale for all pixels, so that the two errors differ by a factor alone."""
    test = upload_mnist(http)
    free, tied = (
        mnist(http, test, epochs, name="tied" if tied else "untied", tied=tied)["splits"]["test"]["error_original"]
        for tied in (False, True)
    )
    return said("error of tied over untied, on test", f"{tied / free:.3f}")


def units(http: httpx2.Client, epochs: int) -> bool:
    """A mean and a scale for each pixel, many of them constant: each loss is best at the error that it trains."""
    test, found = upload_mnist(http), {}
    for loss in ("mse", "mse_original"):
        target = {"name": "input", "task": "reconstruction", "loss": loss}
        found[loss] = mnist(http, test, epochs, name=f"a scale for each pixel, {loss}", targets=[target], preprocessing={"per": "feature"})
    constant, errors = found["mse"]["constant_features"], {loss: each["splits"]["test"] for loss, each in found.items()}
    train, part = constant["train"] / 784, constant["test"] / 784
    held = [
        said(
            "constant pixels: count, their part of error_original on train, test", f"{constant['count']}, {train:g}, {part:.4f}", train == 0
        ),
        said(
            "error_original trained on mse_original over trained on mse",
            f"{errors['mse_original']['error_original'] / errors['mse']['error_original']:.3f}",
            errors["mse_original"]["error_original"] < errors["mse"]["error_original"],
        ),
    ]
    return all(held)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15, help="of the networks on MNIST")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts alone")
    given = parser.parse_args()
    parts = given.only or PARTS
    with service() as (http, _):
        tests = {"wine": wine, "constant": constant, "tying": tying}
        long = {"mnist": tied_mnist, "units": units}
        held = [tests[part](http) if part in tests else long[part](http, given.epochs) for part in parts]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
