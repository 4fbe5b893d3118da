"""The catalog: every kind that a spec may name, with its JSON Schema and one example, read off the unions themselves."""

from types import UnionType
from typing import Any, Union, get_args, get_origin

import torch
from pydantic_core import PydanticUndefined

from service.data.encoding import Features
from service.nets import Architecture
from service.nets.layers import NamedLayer
from service.settings import Settings
from service.spec import JobSpec
from service.tricks.adversarial import AdversarialTraining
from service.tricks.attacks import Attack
from service.tricks.augmentation import Augmentation
from service.tricks.bagging import Ensemble
from service.tricks.modes import MEANINGS
from service.tricks.multitask import Target
from service.tricks.normalization import Preprocessing
from service.tricks.optimization import GradientClip, Optimizer, Schedule
from service.tricks.penalties import Regularizer
from service.tricks.splits import Split
from service.tricks.starting import Init
from service.tricks.stopping import EarlyStopping
from service.values import Value

UNIONS: dict[str, Any] = {
    "jobs": JobSpec,
    "architectures": Architecture,
    "layers": NamedLayer,
    "tasks": Target,
    "regularizers": Regularizer,
    "augmentations": Augmentation,
    "adversarial_training": AdversarialTraining,
    "attacks": Attack,
    "optimizers": Optimizer,
    "schedules": Schedule,
}
PARTS: dict[str, type[Value]] = {
    "split": Split,
    "features": Features,
    "preprocessing": Preprocessing,
    "ensemble": Ensemble,
    "early_stopping": EarlyStopping,
    "init": Init,
    "gradient_clip": GradientClip,
}
TAGS = ("type", "task", "method", "kind")


def kinds(union: Any) -> tuple[type[Value], ...]:
    """The classes of a tagged union, in its order."""
    if isinstance(union, type) and issubclass(union, Value):
        return (union,)
    if get_origin(union) in (Union, UnionType) or hasattr(union, "__metadata__"):
        return tuple(kind for member in get_args(union) for kind in kinds(member))
    return ()


def tag_of(kind: type[Value]) -> tuple[str, str]:
    """The field that names a kind, and its name."""
    tag = next(tag for tag in TAGS if tag in kind.model_fields)
    return tag, str(kind.model_fields[tag].default)


def example(kind: type[Value]) -> dict[str, Any]:
    """The shortest valid spec of a kind: what it gives itself, else its tag and its required fields, with the examples they declare."""
    extra = kind.model_config.get("json_schema_extra")
    own = extra.get("example") if isinstance(extra, dict) else None
    if isinstance(own, dict):
        return dict(own)
    named = dict([tag_of(kind)]) if any(tag in kind.model_fields for tag in TAGS) else {}
    required = {name: field for name, field in kind.model_fields.items() if field.default is PydanticUndefined and field.is_required()}
    return named | {field.alias or name: (field.examples or [None])[0] for name, field in required.items()}


def entry(kind: type[Value]) -> dict[str, Any]:
    """A kind as the catalog shows it."""
    tag, name = tag_of(kind)
    return {tag: name, "description": kind.__doc__, "schema": schema_of(kind), "example": example(kind)}


def schema_of(kind: type[Value]) -> dict[str, Any]:
    """The JSON Schema of a kind, with its fields at the top also where it contains its own kind."""
    schema = kind.model_json_schema()
    return {**schema["$defs"][kind.__name__], "$defs": schema["$defs"]} if "$ref" in schema else schema


def catalog(settings: Settings) -> dict[str, Any]:
    """All that a form or a client needs to build a spec."""
    found: dict[str, Any] = {name: [entry(kind) for kind in kinds(union)] for name, union in UNIONS.items()}
    found |= {
        name: {"description": part.__doc__, "schema": part.model_json_schema(), "example": example(part)} for name, part in PARTS.items()
    }
    return found | {
        "modes": [{"mode": mode, "description": meaning} for mode, meaning in MEANINGS.items()],
        "limits": limits(settings),
        "devices": ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
    }


def limits(settings: Settings) -> dict[str, Any]:
    """Bounds on bodies and on what one job or one request may cost."""
    names = (
        "body_bytes", "predict_bytes", "upload_bytes", "max_parameters", "max_job_parameters", "max_members", "max_epochs",
        "max_rows", "max_samples", "shards",
    )  # fmt: skip
    return {name: getattr(settings, name) for name in names}
