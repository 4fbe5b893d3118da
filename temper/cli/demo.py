"""`temper demo`: one job on real data, from its start to a prediction and an attack."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.models import model_rows
from temper.errors import NotFound

if TYPE_CHECKING:
    from temper.client import Client
    from temper.models import Model
    from temper.steps import Blocking

SPEC: Mapping[str, Any] = {
    "name": "digits",
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [128, 128], "dropout": {"input": 0.2, "hidden": 0.5}},
    "regularizers": [{"type": "l2", "alpha": 1e-4}],
    "ensemble": {"size": 5, "bootstrap": True},
    "early_stopping": {"patience": 10},
    "epochs": 200,
}
ROW = 17
EPSILON = 1.0
PORT = 8000


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(demo)


def demo(data: Annotated[Path, typer.Option(envvar="TEMPER_DATA", help="Folder of the embedded service.")] = Path(".temper")) -> None:
    """Train a network on real data, show what it found, and stop. Takes a running service or starts one."""
    from temper.client import Client

    with _service(data) as url, Client(url) as client:
        print(f"temper · {data}/   {url}   (docs {url}/docs)", flush=True)
        started = time.monotonic()
        job = client.jobs.create(SPEC)
        print(f"{job.id}  {_plan(client, SPEC)}", flush=True)
        job.wait(progress=True)
        model = job.model()
        print(f"succeeded in {time.monotonic() - started:.1f} s   {_measured(model.report())}", flush=True)
        reports = data / "reports"
        reports.mkdir(exist_ok=True)
        body = _try(client, model, reports / f"row-{ROW}.json")
        print(f"report  {_report(model, reports / job.id)}")
    print(f"try     temper up, then: temper jobs · temper watch {job.id} · temper predict {model.name} --dataset digits --rows {ROW}")
    print(f"        curl {url}/api/v1/models/{model.name}/predict -H 'Content-Type: application/json' -d @{body}")


@contextmanager
def _service(data: Path) -> Iterator[str]:
    """The address of the running service of this folder, or of one that lives as long as the block."""
    from temper.embedded.address import free_port
    from temper.embedded.folder import running
    from temper.embedded.launch import Launch
    from temper.errors import CannotStart

    found = running(data)
    if found is not None:
        yield found.url
        return
    try:
        port = free_port("127.0.0.1", PORT)
    except CannotStart:
        port = 0
    print("starting …", file=sys.stderr, flush=True)
    with Launch(data, port=port) as service:
        yield service.url


def _plan(client: "Client", spec: Mapping[str, Any]) -> str:
    """One line on what is trained."""
    fields = client.datasets.get(spec["dataset"]).fields
    inputs = sum(math.prod(field["shape"]) for field in fields if field["kind"] == "image")
    outputs = sum(len(field["classes"]) for field in fields if field["kind"] == "categorical")
    sizes = "-".join(map(str, (inputs, *spec["architecture"]["hidden"], outputs)))
    dropout, penalty = spec["architecture"]["dropout"], spec["regularizers"][0]
    return (
        f"{spec['name']} · mlp {sizes} · dropout {dropout['input']}/{dropout['hidden']} · L2 {penalty['alpha']:g} · "
        f"{spec['ensemble']['size']} members bagged · early stopping, patience {spec['early_stopping']['patience']}"
    )


def _measured(report: Mapping[str, Any]) -> str:
    """Accuracy on the test rows: of the members, of the single network, of its masks averaged, of the ensemble."""
    accuracy = {mode: values["accuracy"] for mode, values in report["modes"].items()}
    members = [member["accuracy"] for member in report["members"]]
    ensemble = report["ensemble"]
    return (
        f"test accuracy: members {min(members):.3f} to {max(members):.3f} · single (weight-scaled) {accuracy['weight_scaled']:.3f} · "
        f"monte carlo {accuracy['monte_carlo']:.3f} · ensemble {accuracy['ensemble']:.3f}\n"
        f"        {ensemble['error']} of the ensemble: v/k + (k-1)c/k = {ensemble['predicted_error']:.4f}, "
        f"measured {ensemble['measured_error']:.4f}, a member's {ensemble['mean_member_error']:.4f}"
    )


def _try(client: "Client", model: "Model[Blocking]", body: Path) -> Path:
    """One prediction and one attack on the same row, which is kept as a request's body."""
    inputs, labels = model_rows(client, model, "digits", range(ROW, ROW + 1))
    target = next(iter(model.predict(inputs).targets.values()))
    print(f"predict row {ROW} -> {target.prediction[0]}, p {target.probabilities[0].max():.2f} (it is a {labels[0]})")
    attacked = model.attack(inputs, labels, {"type": "fgsm", "epsilon": EPSILON})
    after = next(iter(attacked.adversarial.values()))
    print(f"attack  FGSM, epsilon {EPSILON:g} -> {after.prediction[0]}, p {after.probabilities[0].max():.2f}")
    body.write_text(json.dumps({"inputs": inputs}))
    return body


def _report(model: "Model[Blocking]", path: Path) -> Path:
    """Keeps the report as one page, or as JSON where this service makes no pages."""
    try:
        return model.download("report.html", path.with_suffix(".html"))
    except NotFound:
        path.with_suffix(".json").write_text(json.dumps(model.report(), indent=2))
        return path.with_suffix(".json")
