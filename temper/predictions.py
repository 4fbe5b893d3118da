"""What a model answers, as numpy arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Target:
    """The answer for one target; None for what was not asked for or cannot be known."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        self.prediction: Array = _rows(data["prediction"])
        self.classes: list[str] | None = data.get("classes")
        self.probabilities = _array(data.get("probabilities"))
        self.uncertainty = _arrays(data.get("uncertainty"))
        """Classification: total, aleatoric and epistemic entropy (nats), agreement; regression: std and its parts."""
        self.interval = _arrays(data.get("interval"))
        self.members = _array(data.get("members"))
        radius = data.get("radius")
        self.radius = None if radius is None else np.asarray([math.nan if each is None else each for each in radius])
        """Of a smoothed classifier: each row's certified radius in L2, in the inputs' unit; NaN where it abstains."""
        self.code = _array(data.get("code"))
        """Of a reconstruction: the code of each row."""
        self.error = _array(data.get("error"))
        """Of a reconstruction: each row's squared error in the inputs' unit."""
        self.anomaly = _arrays(data.get("anomaly"))
        """Of a reconstruction: which rows are `anomalous`, with the `threshold` of `error` and its `false_alarm_rate`."""


class Prediction:
    """The answer for rows; its attributes are those of the first target, `targets` has all by name."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        self.targets = {name: Target(target) for name, target in data["targets"].items()}
        first = next(iter(self.targets.values()))
        self.prediction = first.prediction
        self.classes = first.classes
        self.probabilities = first.probabilities
        self.uncertainty = first.uncertainty
        self.interval = first.interval
        self.members = first.members
        self.radius = first.radius
        self.code = first.code
        self.error = first.error
        self.anomaly = first.anomaly

    @property
    def mode(self) -> str:
        """The mode that was used."""
        return str(self.data["mode"])

    def __len__(self) -> int:
        return len(self.prediction)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """`np.asarray(prediction)`: the first target's predictions."""
        return np.array(self.prediction, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Prediction({self.prediction!r}, mode={self.mode!r})"


class Attacked:
    """The answer to an attack: adversarial rows, what the model said before and after, and how far each row was moved."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        self.attack: dict[str, Any] = data["attack"]
        """The attack with all its defaults."""
        self.success: list[bool | None] = data["success"]
        """Per row; None where the clean prediction was already wrong, which is not attacked."""
        self.inputs: Any = _array(data["inputs"])
        self.perturbation = _arrays(data["perturbation"]) or {}
        self.clean = {name: Target(target["clean"]) for name, target in data["targets"].items()}
        self.adversarial = {name: Target(target["adversarial"]) for name, target in data["targets"].items()}

    def __repr__(self) -> str:
        hit, attacked = self.success.count(True), len(self.success) - self.success.count(None)
        return f"Attacked({self.attack['type']}, {hit} of {attacked} rows changed)"


class Projected:
    """What rows show to the units of a layer: of each row some channels [N, M], and of each the unit that is strongest."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        self.channels: Array = np.asarray(data["channels"])
        self.places: Array = np.asarray(data["places"])
        """Where in the channel's map each unit is [N, M, axes]."""
        self.values: Array = np.asarray(data["values"])
        self.projections: Array = np.asarray(data["projections"])
        """In the form of the rows [N, M, ...]."""

    def __repr__(self) -> str:
        return f"Projected({self.data['layer']}, {self.values.shape[1]} units of each of {self.values.shape[0]} rows)"


def as_json(value: Any) -> Any:
    """Arrays, numpy's numbers and what contains them as JSON's types; NaN, which JSON lacks, as null: missing."""
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [as_json(item) for item in value]
    return value


def _array(values: Any) -> Any:
    """Numbers as an array; what is no rectangle of numbers (objects, members in parts) as it came."""
    if not isinstance(values, list) or (values and isinstance(values[0], Mapping)):
        return values
    return np.asarray(values)


def _rows(values: list[Any]) -> Array:
    """Predictions; rows of a table in which numbers and categories stand side by side keep what they are."""
    mixed = bool(values) and isinstance(values[0], list) and any(isinstance(value, str) for row in values for value in row)
    return np.asarray(values, dtype=object if mixed else None)


def _arrays(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {key: _array(value) for key, value in values.items()}
