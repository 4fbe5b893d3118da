import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from service.data.columns import Columns
from service.data.ingest import ingest
from service.inference import metrics, report, report_page
from service.inference.material import Material, prepare
from service.inference.measuring import Inquiry
from service.inference.model import Model, serving
from service.inference.plots import all_plots, confusion_matrix, coverage, learning_curves, quantile_coverage, reliability
from service.inference.plots.canvas import label, picture, thin
from service.inference.plots.curves import log_helps
from service.resolving import Source, resolve
from service.settings import Settings
from service.spec import TrainSpec
from workers.training.loop import Epoch, train
from workers.training.publishing import best_member
from workers.training.run import build, start
from workers.training.task import Task

ROOT = Path(__file__).parents[2]
CLASSES = ("$a_b$", "<script>alert(1)</script>", "plain")


class Trained(NamedTuple):
    model: Model
    material: Material
    measured: dict[str, Any]
    histories: dict[int, dict[str, list[float]]]
    summaries: list[dict[str, Any]]

    def plots(self) -> dict[str, bytes]:
        return all_plots(Inquiry(self.model, self.material), self.measured, histories=self.histories, summaries=self.summaries)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """Trains a small network on 120 rows, two of whose three classes have names that are markup or mathematics."""
    home = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 120)
    rows = [f"{kind + 0.7 * rng.normal():.3f},{rng.normal():.3f},{CLASSES[kind]},{kind * 10 + rng.normal():.3f}" for kind in kinds]
    (home / "rows.csv").write_text("\n".join(["a,b,kind,size", *rows]))
    description = ingest(home / "rows.csv", home / "columns", {"targets": ["kind"]})

    def go(**changes: Any) -> Trained:
        raw = {"dataset": "rows", "architecture": {"type": "mlp", "hidden": [8]}, "epochs": 6, **changes}
        plan = resolve(raw, lambda _: Source("ds_x", "rows", description, home / "columns"), Settings())
        return fit(TrainSpec.model_validate(plan.spec), Columns(home / "columns"))

    return go


def fit(spec: TrainSpec, columns: Columns) -> Trained:
    material, device = prepare(spec, columns), torch.device("cpu")
    networks, summaries, histories = [], [], {}
    for member in range(spec.ensemble.size):
        run, series = start(material, (member,), device), dict[str, list[float]]()
        for record in train(run, Task(material, run, device)):
            for name, value in record.values.items() if isinstance(record, Epoch) else ():
                series.setdefault(name, []).append(value)
        network = build(material, None)
        network.load(run.only.best)
        networks.append(serving(network))
        histories[member] = series
        kept = {"best": run.only.patience.best, "best_epoch": run.only.patience.epoch, "best_step": run.only.patience.step}
        summaries.append({"member": member, **kept, "stopped_epoch": run.epoch, "stop_reason": run.reason})
    model = Model(spec, material.encoding, material.classes, tuple(networks), best_member(spec, summaries))
    return Trained(model, material, report.build(Inquiry(model, material), summaries), histories, summaries)


@pytest.fixture(scope="module")
def ensemble(trained: Callable[..., Trained]) -> Trained:
    return trained(ensemble={"size": 3}, optimizer={"type": "adam", "learning_rate": 0.1}, early_stopping={"patience": 2}, epochs=12)


def texts(svg: bytes) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def ids(svg: bytes) -> set[str]:
    return {node.attrib["id"] for node in ET.fromstring(svg).iter() if "id" in node.attrib}


def vertices(svg: bytes, line: str) -> int:
    found = next(node for node in ET.fromstring(svg).iter() if node.attrib.get("id") == line)
    path = next(node for node in found.iter("{http://www.w3.org/2000/svg}path"))
    return path.attrib["d"].count("M") + path.attrib["d"].count("L")


def test_a_classifiers_pictures_load_nothing(ensemble: Trained) -> None:
    plots = ensemble.plots()
    assert set(plots) == {"learning_curves.svg", "confusion_matrix.svg", "reliability.svg", "ensemble.svg"}
    for svg in plots.values():
        for node in ET.fromstring(svg).iter():
            assert not node.tag.endswith("script")
            links = [value for name, value in node.attrib.items() if name.endswith("href")]
            assert all(link.startswith(("#", "data:image/png")) for link in links)


def test_pictures_say_what_the_report_says(ensemble: Trained) -> None:
    plots, measured = ensemble.plots(), ensemble.measured
    assert f"Reliability · ECE {measured['calibration']['ece']:.4f} · 18 rows" in texts(plots["reliability.svg"])
    matrix = np.array(measured["confusion_matrix"]["matrix"])
    assert f"{np.trace(matrix)} of {matrix.sum()} test rows right" in texts(plots["confusion_matrix.svg"])


def test_an_ensemble_has_its_error_by_size(ensemble: Trained) -> None:
    svg, found = ensemble.plots()["ensemble.svg"], ensemble.measured["ensemble"]
    assert {"members", "best-member", "predicted", "measured"} <= ids(svg)
    assert vertices(svg, "measured") == vertices(svg, "predicted") == found["k"] == 3
    assert f"3 members: {found['measured_error']:.4g} instead of {found['v']:.4g}" in texts(svg)
    assert f"best member, {found['best_member']['member']}" in texts(svg)
    assert "brier on test" in texts(svg)


def test_dropout_has_its_error_by_masks(trained: Callable[..., Trained]) -> None:
    net = {"type": "mlp", "hidden": [6], "dropout": 0.4}
    dropped = trained(architecture=net)
    svg, way = dropped.plots()["dropout.svg"], dropped.measured["dropout"]["convergence"]
    assert {"band", "measured", "predicted", "weight-scaled", "geometric", "exact", "exact-geometric"} <= ids(svg)
    assert vertices(svg, "measured") == len(way["by_samples"]) == 7
    assert {"1", "2", "5", "10", "20", "50", "100", "brier on test"} <= set(texts(svg))
    number = {"name": "size", "task": "regression"}
    svg = trained(architecture={**net, "hidden": [20]}, targets=[number]).plots()["dropout.svg"]
    assert "weight-scaled" in ids(svg)
    assert not {"geometric", "exact", "exact-geometric"} & ids(svg)
    assert "mse on test" in texts(svg)


def test_every_member_has_its_lines_and_its_mark(ensemble: Trained) -> None:
    svg = ensemble.plots()["learning_curves.svg"]
    lines = {f"{part}-{whose}" for part in ("train", "validation") for whose in ("member-0", "member-1", "member-2", "mean")}
    assert lines <= ids(svg)
    for summary in ensemble.summaries:
        assert vertices(svg, f"validation-member-{summary['member']}") == summary["stopped_epoch"]
    kept = [summary["best_epoch"] for summary in ensemble.summaries]
    assert {name for name in ids(svg) if name.startswith("kept")} == {f"kept-member-{i}-epoch-{epoch}" for i, epoch in enumerate(kept)}
    assert any(text in texts(svg) for text in (f"kept: epochs {min(kept)} to {max(kept)}", f"kept: epoch {kept[0]}"))


def test_the_mean_ends_where_the_first_member_stops(ensemble: Trained) -> None:
    histories = {0: {"train.loss": [3.0, 2.0, 1.0]}, 1: {"train.loss": [3.0, 2.5]}}
    assert vertices(learning_curves(histories, ensemble.model.spec, []), "train-mean") == 2


def test_one_network_has_no_mean(trained: Callable[..., Trained]) -> None:
    one = trained()
    svg = one.plots()["learning_curves.svg"]
    assert "train-member-0" in ids(svg)
    assert not [name for name in ids(svg) if name.endswith("mean")]
    assert f"kept: epoch {one.summaries[0]['best_epoch']}" in texts(svg)


def test_another_monitor_has_a_panel_of_its_own(trained: Callable[..., Trained]) -> None:
    svg = trained(early_stopping={"monitor": "kind.accuracy"}).plots()["learning_curves.svg"]
    assert {"loss", "accuracy"} <= set(texts(svg))
    names = [node.attrib.get("id", "") for node in ET.fromstring(svg).iter()]
    mark = next(i for i, name in enumerate(names) if name.startswith("kept-member-0"))
    assert names.index("axes_2") < mark
    assert names.count("validation-member-0") == 2


def test_without_parts_there_is_only_what_training_did(trained: Callable[..., Trained]) -> None:
    plots = trained(split={"validation": 0, "test": 0}).plots()
    assert set(plots) == {"learning_curves.svg"}
    shown = ids(plots["learning_curves.svg"])
    assert "train-member-0" in shown
    assert not [name for name in shown if name.startswith(("kept", "validation"))]


def test_regression_shows_coverage_where_a_spread_is_known(trained: Callable[..., Trained]) -> None:
    number = {"name": "size", "task": "regression"}
    assert set(trained(targets=[number]).plots()) == {"learning_curves.svg"}
    plots = trained(targets=[{**number, "loss": "gaussian_nll"}]).plots()
    assert set(plots) == {"learning_curves.svg", "reliability.svg"}
    assert any("90 % intervals" in text for text in texts(plots["reliability.svg"]))
    plots = trained(targets=[{**number, "loss": "quantile"}]).plots()
    assert set(plots) == {"learning_curves.svg", "reliability.svg"}
    assert any(" quantile lie " in text for text in texts(plots["reliability.svg"]))


def test_the_page_of_a_trained_model_holds_its_pictures(ensemble: Trained) -> None:
    network = ensemble.model.networks[0]
    about = {"name": "rows", "spec": ensemble.model.spec.dump(), "layers": [layer._asdict() for layer in network.describe()]}
    page = report_page.render(ensemble.measured, ensemble.plots(), {**about, "parameters": 51, "members": 3}).decode()
    assert page.count("data:image/svg+xml;base64,") == 4
    assert f"<td>{ensemble.measured['modes']['ensemble']['nll']:.4f}</td>" in page


@pytest.mark.parametrize("values", [np.random.default_rng(0).normal(size=54_321), np.full(5000, np.nan), np.arange(1001.0)])
def test_thinned_lines_keep_ends_minimum_and_maximum(values: np.ndarray) -> None:
    places = thin(values)
    assert len(places) <= 1000
    assert (np.diff(places) > 0).all()
    assert {0, len(values) - 1} <= set(places.tolist())
    if np.isfinite(values).all():
        assert {values.argmin(), values.argmax()} <= set(places.tolist())


def test_a_long_line_has_a_thousand_points(ensemble: Trained) -> None:
    values = np.random.default_rng(0).uniform(1, 2, 5000)
    svg = learning_curves({0: {"train.loss": values.tolist()}}, ensemble.model.spec, [])
    assert 900 < vertices(svg, "train-member-0") <= 1000


@pytest.mark.parametrize(
    ("values", "helps"),
    [([2.0, 0.05], True), ([2.0, 0.5], False), ([2.0, -0.05], False), ([2.0, 0.0], False), ([np.nan, np.inf], False), ([], False)],
)
def test_the_axis_is_logarithmic_only_where_that_helps(values: Sequence[float], helps: bool) -> None:
    assert log_helps([np.array(values)]) is helps


def test_cells_hold_their_counts_and_names_are_not_mathematics() -> None:
    svg = confusion_matrix({"target": "kind", "classes": list(CLASSES), "matrix": [[11, 2, 0], [3, 404, 5], [0, 6, 77]]})
    shown = texts(svg)
    assert shown[-10:-1] == ["11", "2", "0", "3", "404", "5", "0", "6", "77"]
    assert shown[-1] == "492 of 508 test rows right"
    assert shown.count("$a_b$") == 2
    assert shown.count("<script>alert…") == 2


def test_many_classes_are_coloured_without_counts() -> None:
    names = [f"c{i}" for i in range(21)]
    svg = confusion_matrix({"target": "kind", "classes": names, "matrix": (7 * np.eye(21, dtype=int)).tolist()})
    assert "7" not in texts(svg)
    assert {"c0", "c20", "share of the true class"} <= set(texts(svg))


def test_names_that_xml_has_no_room_for() -> None:
    svg = confusion_matrix({"target": "\ud800", "classes": ["bell \x07", "猫"], "matrix": [[1, 0], [0, 1]]})
    assert {"bell \ufffd", "猫", "true \ufffd"} <= set(texts(svg))
    assert label("x" * 16) == "x" * 16
    assert label("x" * 17) == "x" * 15 + "…"


def test_reliability_bins_are_closed_on_the_right() -> None:
    top = np.array([1 / 3, 1 / 3 + 1e-9, 0.5, 0.95, 0.95])
    probabilities = np.stack([top, *[(1 - top) / 3] * 3], axis=1)
    labels = np.array([0, 0, 1, 0, -1])
    svg = reliability(probabilities, labels)
    assert svg is not None
    assert {name for name in ids(svg) if name.startswith("bin-")} == {"bin-4", "bin-5", "bin-7", "bin-14"}
    ece = metrics.classification(probabilities, labels)["ece"]
    assert f"Reliability · ECE {ece:.4f} · 4 rows" in texts(svg)
    assert texts(svg).count("1") == 4
    assert reliability(probabilities, np.full(5, -1)) is None


def test_coverage_counts_rows_inside() -> None:
    truth = np.array([[0.0], [1.6], [-1.7], [9.0], [np.nan]])
    svg = coverage(np.zeros((5, 1)), np.ones((5, 1)), truth)
    assert svg is not None
    assert "Coverage · 90 % intervals hold 50% of 4 rows" in texts(svg)
    assert coverage(np.zeros((5, 1)), None, truth) is None
    assert coverage(np.zeros((1, 1)), np.ones((1, 1)), truth[4:]) is None


def test_quantiles_are_held_against_the_rows_below_them() -> None:
    """Of two numbers a row: at or below .2 lie all four of the known, at or below .5 the lower half."""
    truth = np.array([[0.0, 1.0], [2.0, 3.0], [np.nan, 0.0]])
    said = np.broadcast_to(np.array([9.0, 1.0]), (3, 2, 2))
    svg = quantile_coverage(said, (0.2, 0.5), truth)
    assert svg is not None
    assert "Coverage · at or below the 0.2 quantile lie 100% of 2 rows" in texts(svg)
    assert vertices(svg, "observed") == 2
    assert quantile_coverage(said[2:], (0.2, 0.5), truth[2:]) is None


PROGRAM = """
import sys
from service.inference.plots import confusion_matrix
sys.stdout.buffer.write(confusion_matrix({"target": "kind", "classes": ["a", "b"], "matrix": [[1, 2], [3, 4]]}))
assert "matplotlib.pyplot" not in sys.modules
"""


def test_equal_inputs_give_equal_bytes_whatever_the_machine_is_set_to(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 31\nsvg.fonttype: path\naxes.facecolor: red\n")
    mine = confusion_matrix({"target": "kind", "classes": ["a", "b"], "matrix": [[1, 2], [3, 4]]})
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    theirs = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, env=environment, cwd=tmp_path, timeout=60)
    assert theirs.stdout == mine


def test_the_service_does_not_load_matplotlib() -> None:
    program = "import sys, service.app; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_room_is_made_for_long_labels() -> None:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_yticks([0, 1], ["a class of a long name", "b"])
        axes.set_ylabel("class")

    drawn = ET.fromstring(picture(draw, height=3))
    places = {text.text: float(text.attrib["x"]) for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert 0 < places["class"] < 20, "the axis's name stands at the left edge, inside"
    assert places["a class of a long name"] > 100, "which ends where the axis begins"
