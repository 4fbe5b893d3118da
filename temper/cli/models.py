"""Commands on models and datasets: models, predict, attack, project, download, datasets, upload."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from temper.cli.files import read_rows, save_arrays
from temper.cli.output import Format, FormatOption, show

if TYPE_CHECKING:
    from temper.client import Client
    from temper.models import Model
    from temper.predictions import Target
    from temper.steps import Blocking

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="mdl_…, NAME, NAME:VERSION or NAME@ALIAS")]
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Rows: JSON, CSV, NPY or NPZ (x).")]
Source = Annotated[str | None, typer.Option("--dataset", help="Take rows of a stored dataset instead of a file.")]
Rows = Annotated[str, typer.Option("--rows", help="Which rows of the dataset: 17, or 10:20.")]
Mode = Annotated[str | None, typer.Option(help="single, weight_scaled, monte_carlo, exact or ensemble")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (predict, attack, project, models, download, datasets, upload):
        app.command()(command)


def predict(
    model: Reference,
    file: File = None,
    dataset: Source = None,
    rows: Rows = "0",
    mode: Mode = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Masks drawn in the mode monte_carlo.")] = None,
    output: FormatOption = Format.table,
) -> None:
    """Predict rows of a file or of a stored dataset."""
    from temper.client import Client
    from temper.requests import given

    wanted = _wanted(file, dataset, rows)
    with Client() as client:
        found = client.models.get(model)
        inputs, _ = wanted.read(client, found)
        answer = found.predict(inputs, mode=mode, **given({"samples": samples}))
    if output is Format.json:
        print(json.dumps(answer.data))
        return
    lines = [{"row": row} for row in range(len(answer))]
    for name, target in answer.targets.items():
        _add(lines, name, target)
    show(lines, list(lines[0]) if lines else ["row"], output)


def attack(
    model: Reference,
    file: File = None,
    dataset: Source = None,
    rows: Rows = "0:10",
    labels: Annotated[Path | None, typer.Option(help="A JSON list of the file's labels.")] = None,
    kind: Annotated[str, typer.Option("--type", help="As fgsm, pgd or gaussian_noise.")] = "fgsm",
    epsilon: Annotated[float, typer.Option(min=0, help="In the inputs' own units.")] = 1.0,
    norm: Annotated[str, typer.Option(help="linf, l2 or l1")] = "linf",
    mode: Mode = None,
    output: FormatOption = Format.table,
) -> None:
    """Attack a model on rows of a file or of a stored dataset."""
    from temper.client import Client

    wanted = _wanted(file, dataset, rows)
    with Client() as client:
        found = client.models.get(model)
        inputs, known = wanted.read(client, found)
        truth = known if labels is None else json.loads(labels.read_text())
        if truth is None:
            raise typer.BadParameter("rows of a file need --labels")
        answer = found.attack(inputs, truth, {"type": kind, "epsilon": epsilon, "norm": norm}, mode=mode)
    if output is Format.json:
        print(json.dumps(answer.data))
        return
    lines: list[dict[str, Any]] = [{"row": row, "label": label} for row, label in enumerate(truth)]
    for when, targets in (("clean", answer.clean), ("adversarial", answer.adversarial)):
        for name, target in targets.items():
            _add(lines, when if len(targets) == 1 else f"{name} {when}", target)
    for line, success in zip(lines, answer.success, strict=True):
        line["success"] = success
    show(lines, list(lines[0]) if lines else ["row"], output)


def project(
    model: Reference,
    layer: Annotated[str, typer.Argument(help="A convolution by its name, as conv.0.")],
    file: File = None,
    dataset: Source = None,
    rows: Rows = "0",
    strongest: Annotated[int | None, typer.Option(min=1, help="How many of each row's strongest channels; 9 unless given.")] = None,
    channels: Annotated[list[int] | None, typer.Option("--channel", min=0, help="This channel instead; may be repeated.")] = None,
    member: Annotated[int | None, typer.Option(min=0, help="Whose layer it is; the best member's unless given.")] = None,
    rectify: Annotated[bool, typer.Option(help="Whether the signal is rectified on its way back.")] = True,
    to: Annotated[Path | None, typer.Option(help="An NPZ file for channels, places, values and projections.")] = None,
    output: FormatOption = Format.table,
) -> None:
    """Project the strongest units of a convolution back to rows of a file or of a stored dataset."""
    from temper.client import Client
    from temper.requests import given

    wanted = _wanted(file, dataset, rows)
    with Client() as client:
        found = client.models.get(model)
        inputs, _ = wanted.read(client, found)
        options = given({"strongest": strongest, "channels": channels or None, "members": member})
        answer = found.project(inputs, layer, rectify=rectify, **options)
    if to is not None:
        save_arrays(to, channels=answer.channels, places=answer.places, values=answer.values, projections=answer.projections)
    if output is Format.json:
        print(json.dumps(answer.data))
        return
    lines = [
        {"row": row, "channel": int(answer.channels[row, unit]), "place": answer.places[row, unit].tolist(), "value": float(value)}
        for row, units in enumerate(answer.values)
        for unit, value in enumerate(units)
    ]
    show(lines, ("row", "channel", "place", "value"), output)


def models(limit: Annotated[int, typer.Option(min=1)] = 20, output: FormatOption = Format.table) -> None:
    """List models, newest first."""
    from temper.client import Client

    with Client() as client:
        found = client.models.list(limit=limit)
    show([model.data for model in found], ("id", "name", "version", "aliases", "members", "parameters", "created_at"), output)


def download(
    model: Reference,
    name: Annotated[str, typer.Argument(help="model.onnx, card.md, model.safetensors, spec.json, encoding.json, report.html, …")],
    to: Annotated[Path | None, typer.Option(help="A file or a folder; the name itself unless given.")] = None,
) -> None:
    """Write one of a model's files."""
    from temper.client import Client

    place = Path(name) if to is None else to / name if to.is_dir() else to
    with Client() as client:
        print(client.models.get(model).download(name, place))


def datasets(limit: Annotated[int, typer.Option(min=1)] = 20, output: FormatOption = Format.table) -> None:
    """List datasets, newest first."""
    from temper.client import Client

    with Client() as client:
        found = client.datasets.list(limit=limit)
    show([dataset.data for dataset in found], ("id", "name", "format", "rows", "size", "created_at"), output)


def upload(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, Parquet, NPZ, or a ZIP of class folders.")],
    name: Annotated[str | None, typer.Option(help="The file's stem unless given.")] = None,
    output: FormatOption = Format.table,
) -> None:
    """Upload a dataset."""
    from temper.client import Client

    with Client() as client:
        dataset = client.datasets.upload(file, name)
    show([dataset.data], ("id", "name", "format", "rows", "size"), output)


class Wanted(NamedTuple):
    """The rows that a command was asked to take: those of a file, or some of a dataset."""

    file: Path | None
    dataset: str
    rows: range

    def read(self, client: "Client", model: "Model[Blocking]") -> tuple[Any, list[Any] | None]:
        """The rows, and their labels (of the first target) where they come from a dataset."""
        if self.file is not None:
            return read_rows(self.file, model.signature["inputs"]), None
        return model_rows(client, model, self.dataset, self.rows)


def _wanted(file: Path | None, dataset: str | None, rows: str) -> Wanted:
    if (file is None) == (dataset is None):
        raise typer.BadParameter("give either a FILE or --dataset")
    first, _, last = rows.partition(":")
    try:
        return Wanted(file, dataset or "", range(int(first), int(last or int(first) + 1)))
    except ValueError as error:
        raise typer.BadParameter(f"--rows is a number or two with a colon, not {rows!r}") from error


def model_rows(client: "Client", model: "Model[Blocking]", dataset: str, rows: range) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows of a dataset as a model takes them, and their labels."""
    targets = [target["name"] for target in model.data["spec"]["targets"]]
    names = {field["name"] for field in model.signature["inputs"]}
    values = [row["values"] for row in client.datasets.get(dataset).head(len(rows), offset=rows.start)]
    inputs = [{name: value for name, value in row.items() if name in names} for row in values]
    return inputs, [row.get(targets[0]) for row in values]


def _add(lines: list[dict[str, Any]], name: str, target: "Target") -> None:
    """Adds a target's columns to a table: the prediction, and the probability of a class or the standard deviation."""
    std = (target.uncertainty or {}).get("std")
    for row, line in enumerate(lines):
        line[name] = target.prediction[row].tolist()
        if target.probabilities is not None:
            line[f"{name} probability"] = float(target.probabilities[row].max())
        elif std is not None:
            line[f"{name} std"] = float(std[row])
