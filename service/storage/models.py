"""Models: versions of a name, found by id, name, name:version or name@alias."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy import delete as delete_from
from sqlalchemy import insert as insert_into

from service.errors import Conflict, NotFound
from service.storage import pages
from service.storage.ids import valid
from service.storage.pages import Page
from service.storage.progress import DONE
from service.storage.sessions import AnyRow, now, upsert
from service.storage.tables import alias_history, aliases, jobs, model_names, models, projects
from service.values import NAME

CHAMPION = "champion"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class ModelDraft:
    """A model about to be published; `files` maps names to {key, size, sha256}, `sha256` is that of model.safetensors."""

    id: str
    name: str
    spec: dict[str, Any]
    signature: dict[str, Any]
    layers: list[Any]
    parameters: int
    metrics: dict[str, Any]
    members: int
    files: dict[str, Any]
    sha256: str
    details: dict[str, Any] | None = None
    """What else is known of it: the members' `weights`."""


@dataclass(frozen=True, slots=True)
class Model:
    """A published model, with the aliases that now point at it."""

    id: str
    project_id: str
    name: str
    version: int
    job_id: str | None
    dataset_id: str | None
    spec: dict[str, Any]
    signature: dict[str, Any]
    layers: list[Any]
    parameters: int
    metrics: dict[str, Any]
    members: int
    files: dict[str, Any]
    sha256: str
    labels: dict[str, str]
    created_at: float
    details: dict[str, Any] | None
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AliasChange:
    """A move of an alias: to a version, or None when it was removed, at epoch seconds."""

    alias: str
    version: int | None
    at: float


def insert(c: Connection, project: str, draft: ModelDraft, *, job_id: str | None, dataset_id: str | None, labels: dict[str, str]) -> Model:
    """The model with the next version of its name."""
    c.execute(select(projects.c.id).where(projects.c.id == project).with_for_update(key_share=True))  # versions one at a time
    known = select(model_names.c.version).where(model_names.c.project_id == project, model_names.c.name == draft.name)
    version = (c.execute(known).scalar_one_or_none() or 0) + 1
    upsert(c, model_names, [{"project_id": project, "name": draft.name, "version": version}], ("project_id", "name"))
    values = {name: getattr(draft, name) for name in ModelDraft.__dataclass_fields__}
    values |= {"project_id": project, "version": version, "job_id": job_id, "dataset_id": dataset_id, "labels": labels}
    row = c.execute(insert_into(models).values(created_at=now(), **values).returning(models)).one()
    return _models(c, project, [row])[0]


def _models(c: Connection, project: str, rows: Sequence[AnyRow]) -> list[Model]:
    wanted = {row.name for row in rows}
    query = select(aliases.c.name, aliases.c.version, aliases.c.alias).where(aliases.c.project_id == project)
    pointing: dict[tuple[str, int], list[str]] = {}
    for name, version, alias in c.execute(query.where(aliases.c.name.in_(wanted)).order_by(aliases.c.alias)):
        pointing.setdefault((name, version), []).append(alias)
    return [Model(**row._mapping, aliases=tuple(pointing.get((row.name, row.version), ()))) for row in rows]


def get(c: Connection, project: str, ref: str) -> Model:
    """The model that `mdl_…`, `name`, `name:version` or `name@alias` names; raises NotFound."""
    query = select(models).where(models.c.project_id == project)
    name, at, alias = ref.partition("@")
    name, colon, version = name.partition(":")
    if valid("mdl", ref):
        query = query.where(models.c.id == ref)
    elif not NAME.fullmatch(name) or (at and (colon or not NAME.fullmatch(alias))) or (colon and not _VERSION.fullmatch(version)):
        raise NotFound("there is no such model")
    else:
        chosen = int(version) if colon else _alias(c, project, name, alias or CHAMPION)
        if at and chosen is None:
            raise NotFound("there is no such alias")
        query = query.where(models.c.name == name).order_by(models.c.version.desc()).limit(1)
        query = query if chosen is None else query.where(models.c.version == chosen)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound("there is no such model")
    return _models(c, project, [row])[0]


def exists(c: Connection, model_id: str) -> bool:
    """Whether a model of that id was published, in any project."""
    return c.execute(select(models.c.id).where(models.c.id == model_id)).one_or_none() is not None


def _alias(c: Connection, project: str, name: str, alias: str) -> int | None:
    query = select(aliases.c.version).where(aliases.c.project_id == project, aliases.c.name == name, aliases.c.alias == alias)
    return c.execute(query).scalar_one_or_none()


def page(
    c: Connection, project: str, *, limit: int, cursor: str | None, name: str | None = None, labels: Sequence[tuple[str, str]] = ()
) -> Page[Model]:
    """Models, newest first; raises BadCursor."""
    where = [pages.labelled(models, labels)] + ([] if name is None else [models.c.name == name])
    rows, following = pages.fetch(c, models, project, limit=limit, cursor=cursor, where=where)
    return Page(tuple(_models(c, project, rows)), following)


def held_bytes(c: Connection, project: str) -> int:
    """Bytes of the weights of the project's models."""
    held = func.sum(4 * models.c.parameters * models.c.members)
    return int(c.execute(select(func.coalesce(held, 0)).where(models.c.project_id == project)).scalar_one())


def delete(c: Connection, project: str, ref: str) -> Model:
    """Remove the model and return what it was, files included; raises NotFound, Conflict alias-in-use, model-in-use."""
    model = get(c, project, ref)
    query = select(models.c.id).where(models.c.id == model.id).with_for_update()
    held = select(aliases.c.alias).where(aliases.c.project_id == project, aliases.c.name == model.name, aliases.c.version == model.version)
    if c.execute(query).one_or_none() is None:
        raise NotFound("there is no such model")
    if (alias := c.execute(held.limit(1)).scalar_one_or_none()) is not None:
        raise Conflict("alias-in-use", f"the alias {alias} points at this model")
    named = (
        jobs.c.project_id == project,
        jobs.c.state.not_in(DONE),
        jobs.c.extra["models"].as_string().contains(model.id, autoescape=True),
    )
    if c.execute(select(jobs.c.id).where(*named).limit(1)).one_or_none() is not None:
        raise Conflict("model-in-use", "a job that has not ended refers to this model")
    c.execute(delete_from(models).where(models.c.id == model.id))
    return model


def set_alias(c: Connection, project: str, name: str, alias: str, *, version: int) -> None:
    """Point the alias at a version; raises NotFound when there is no such version."""
    mine = (models.c.project_id == project, models.c.name == name, models.c.version == version)
    if c.execute(select(models.c.id).where(*mine).with_for_update(read=True)).one_or_none() is None:
        raise NotFound(f"there is no version {version} of that name")
    row = {"project_id": project, "name": name, "alias": alias, "version": version, "updated_at": now()}
    upsert(c, aliases, [row], ("project_id", "name", "alias"))
    _remember(c, project, name, alias, version)


def delete_alias(c: Connection, project: str, name: str, alias: str) -> None:
    """Remove the alias; raises NotFound."""
    mine = (aliases.c.project_id == project, aliases.c.name == name, aliases.c.alias == alias)
    if c.execute(delete_from(aliases).where(*mine)).rowcount == 0:
        raise NotFound("there is no such alias")
    _remember(c, project, name, alias, None)


def _remember(c: Connection, project: str, name: str, alias: str, version: int | None) -> None:
    c.execute(insert_into(alias_history).values(project_id=project, name=name, alias=alias, version=version, at=now()))


def history(c: Connection, project: str, name: str, alias: str) -> list[AliasChange]:
    """The alias's moves, newest first."""
    h = alias_history.c
    query = select(h.alias, h.version, h.at).where(h.project_id == project, h.name == name, h.alias == alias)
    return [AliasChange(*row) for row in c.execute(query.order_by(h.id.desc()))]
