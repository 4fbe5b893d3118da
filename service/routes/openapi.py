"""The OpenAPI document: FastAPI's, with the schema of a spec, which our own reader reads, put in by name."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from service.routes.answers import ProblemAnswer
from service.spec import JobSpec

REFERENCE = "#/components/schemas/{model}"
NAME = "JobSpec"
# Bodies that our own reader reads are unknown to the framework: routes name them here.
NAMED: dict[str, Any] = {NAME: JobSpec, "ProblemAnswer": ProblemAnswer}
PROBLEM = {"schema": {"$ref": REFERENCE.format(model="ProblemAnswer")}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "A problem (RFC 9457).", "content": {"application/problem+json": PROBLEM}},
    "5XX": {"description": "A problem of the service's, not of the request.", "content": {"application/problem+json": PROBLEM}},
}


def spec_body() -> dict[str, Any]:
    """The request body of a route that takes a spec."""
    schema = {"$ref": REFERENCE.format(model=NAME)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The request body of a route that reads this model by itself."""
    NAMED[model.__name__] = model
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class Application(FastAPI):
    """An application whose document names the schemas that `spec_body` refers to."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        for title, kind in NAMED.items():
            schema = TypeAdapter(kind).json_schema(ref_template=REFERENCE)
            for name, part in {**schema.pop("$defs", {}), title: schema}.items():
                components.setdefault(name, part)
        for operations in document["paths"].values():
            for operation in operations.values():
                _without_default_problem(operation)
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        return document


def _without_default_problem(operation: dict[str, Any]) -> None:
    """Take out the shape of 422 that the framework announces and this service never answers with."""
    if "HTTPValidationError" in str(operation["responses"].get("422", "")):
        del operation["responses"]["422"]
        operation["responses"].setdefault("4XX", PROBLEMS["4XX"])
