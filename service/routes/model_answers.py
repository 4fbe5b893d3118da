"""The shapes of answers about models."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.inference import bags, card, exporting
from service.inference.model import FILES
from service.routes.answers import Answer, LayerAnswer, Time
from service.storage.gates import Requirement
from service.storage.models import Model
from service.values import Value


class AliasRequest(Value):
    """The version that an alias is to point at."""

    version: Annotated[int, Field(ge=1, le=10**9)]
    require: Annotated[dict[str, Requirement], Field(max_length=32)] | None = None
    """Bounds by metric, as {"accuracy": {"min": 0.9}}, that the version has to meet."""


class ModelAnswer(Answer):
    """A published model."""

    id: str
    name: str
    version: int
    aliases: list[str]
    job: str | None
    dataset: str | None
    spec: dict[str, Any]
    signature: dict[str, Any]
    layers: list[LayerAnswer]
    parameters: int
    metrics: dict[str, Any]
    members: int
    weights: list[float] | None
    sha256: str
    labels: dict[str, str]
    created_at: Time
    links: dict[str, str]


class ModelPageAnswer(Answer):
    """A piece of the list of models, newest first."""

    items: list[ModelAnswer]
    next_cursor: str | None


class AliasAnswer(Answer):
    """An alias and the version it points at; null once it is removed."""

    name: str
    alias: str
    version: int | None


class AliasMoveAnswer(BaseModel):
    """A move of an alias; the version is null where it was removed."""

    version: int | None
    at: Time


class AliasHistoryAnswer(Answer):
    """Where an alias has pointed, newest first."""

    items: list[AliasMoveAnswer]


def model_answer(model: Model) -> ModelAnswer:
    """The model as callers see it."""
    here = f"/api/v1/models/{model.id}"
    own = ("id", "name", "version", "spec", "signature", "layers", "parameters", "metrics", "members", "sha256", "labels", "created_at")
    links = {
        "self": here,
        "predict": f"{here}/predict",
        "attack": f"{here}/attack",
        "report": f"{here}/report",
        "report_html": f"{here}/report.html",
    }
    if any(layer["type"] == "convolution" for layer in model.layers):
        links["project"] = f"{here}/project"
    links |= {name: f"{here}/plots/{name}" for name in model.files if name.endswith(".svg")}
    links |= {name: f"{here}/files/{name}" for name in (*FILES, exporting.FILE, card.FILE)}
    links |= {name: f"{here}/files/{name}" for name in model.files if name == bags.FILE}
    return ModelAnswer.model_validate(
        {
            **{name: getattr(model, name) for name in own},
            "aliases": model.aliases,
            "weights": (model.details or {}).get("weights"),
            "job": model.job_id,
            "dataset": model.dataset_id,
            "links": links,
        }
    )
