"""Models as the client sees them: asked, attacked, looked into, described."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from temper.predictions import Attacked, Prediction, Projected, as_json
from temper.requests import exchange, fetch, given, pages, post
from temper.steps import R, Resource, Send, Steps, operation
from temper.stored import Stored

PATH = "/api/v1/models"


class Model(Stored[R]):
    """A published model, a version of its name; `data` is all that the service says about it."""

    @property
    def version(self) -> int:
        """The version, counted up per name."""
        return int(self.data["version"])

    @property
    def signature(self) -> dict[str, Any]:
        """The inputs and outputs."""
        return dict(self.data["signature"])

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured, per split and mode."""
        return dict(self.data["metrics"])

    def __repr__(self) -> str:
        return f"Model({self.id!r}, '{self.name}:{self.version}')"

    @operation
    def predict(self, rows: Any, /, *, mode: str | None = None, returns: Sequence[str] | None = None, **options: Any) -> Steps[Prediction]:
        """Predictions for rows: an array with the row first, or a list of objects keyed by field; NaN means missing.

        `options` are the request's other fields: samples, seed, members, dropout, combine, level, false_alarm_rate,
        smoothing.
        """
        body = {"inputs": as_json(rows), **given({"mode": mode, "return": returns}), **as_json(options)}
        return Prediction((yield from post(f"{PATH}/{self.id}/predict", body)))

    @operation
    def attack(self, rows: Any, labels: Any, attack: Mapping[str, Any], /, *, mode: str | None = None, **options: Any) -> Steps[Attacked]:
        """Adversarial rows and what the model says to them; `attack` as {"type": "pgd", "epsilon": 1.0}, in the inputs' units."""
        body = {"inputs": as_json(rows), "labels": as_json(labels), "attack": as_json(attack), **given({"mode": mode}), **as_json(options)}
        return Attacked((yield from post(f"{PATH}/{self.id}/attack", body)))

    @operation
    def project(self, rows: Any, layer: str, /, **options: Any) -> Steps[Projected]:
        """What of rows the strongest units of a convolution answer to; `options`: strongest, channels, members, rectify."""
        return Projected((yield from post(f"{PATH}/{self.id}/project", {"inputs": as_json(rows), "layer": layer, **as_json(options)})))

    @operation
    def report(self) -> Steps[dict[str, Any]]:
        """What was measured about the model."""
        answer: dict[str, Any] = yield from fetch(f"{PATH}/{self.id}/report")
        return answer

    @operation
    def download(self, name: str, to: str | Path) -> Steps[Path]:
        """Writes one of the model's files (`report.html`, `model.onnx`, `card.md`, `model.safetensors`, …) to a path, which is returned."""
        place = "report.html" if name == "report.html" else f"files/{name}"
        response = yield from exchange(Send("GET", f"{PATH}/{self.id}/{place}", repeatable=True, timeout_s=600))
        path = Path(to)
        path.write_bytes(response.content)
        return path

    @operation
    def alias(self, alias: str, *, require: Mapping[str, Any] | None = None) -> Steps[dict[str, Any]]:
        """Points an alias, as `champion`, at this version; raises `Conflict` when a requirement on its metrics is not met."""
        body = {"version": self.version, **given({"require": require})}
        response = yield from exchange(Send("PUT", f"{PATH}/{self.name}/aliases/{alias}", body=body, repeatable=True))
        answer: dict[str, Any] = response.json()
        return answer

    @operation
    def delete(self) -> Steps[None]:
        """Deletes the model; raises `Conflict` while an alias points at it."""
        yield from exchange(Send("DELETE", f"{PATH}/{self.id}"))


class Models(Resource[R]):
    """All models."""

    @operation
    def get(self, ref: str) -> Steps[Model[R]]:
        """The model of `mdl_…`, `name`, `name:version` or `name@alias`; raises `NotFound`."""
        return (yield from get(self.runner, ref))

    @operation
    def list(self, *, limit: int = 50) -> Steps[Sequence[Model[R]]]:
        """The newest models, at most `limit` of them."""
        items = yield from pages(PATH, limit)
        return [Model(self.runner, item) for item in items]


def get(runner: R, ref: str) -> Steps[Model[R]]:
    """The model that a reference names."""
    return Model(runner, (yield from fetch(f"{PATH}/{ref}")))
