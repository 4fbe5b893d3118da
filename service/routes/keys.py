"""API keys of the caller's project: made, listed, revoked. A secret is shown once."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError

from service.errors import Invalid
from service.flaws import flaws_of
from service.routes.answers import Answer, PageAnswer, Time
from service.routes.dependencies import Project, ServicesHere, accepts_json
from service.routes.idempotency import Keep, Once, answered_once, digest_of
from service.routes.openapi import PROBLEMS, body_of
from service.routes.queries import ListParameters
from service.routes.reading import json_body
from service.spec import Name
from service.storage import keys
from service.values import ITEMS, Value

PATH = "/api/v1/keys"
LONGEST_S = 10 * 365 * 86_400.0


class KeyRequest(Value):
    """A key to be made."""

    name: Name
    """What it is for."""
    scopes: Annotated[tuple[Literal["read", "predict", "train", "admin"], ...], ITEMS, Field(min_length=1, max_length=4)]
    """What it allows; `admin` allows everything in the project."""
    expires_in_s: Annotated[float, Field(gt=0, le=LONGEST_S)] | None = None
    """Seconds until it holds no more; null: never."""


class KeyAnswer(Answer):
    """A key without its secret."""

    id: str
    name: str
    project: str
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    used_at: Time | None


class NewKeyAnswer(KeyAnswer):
    """A key with its secret: `key` is what to send as `Authorization: Bearer …`; null in a repeated answer."""

    key: str | None


router = APIRouter(tags=["keys"], dependencies=[Depends(accepts_json)], responses=PROBLEMS)


async def posted(request: Request, services: ServicesHere) -> KeyRequest:
    """The key that is asked for; raises Invalid."""
    raw = await json_body(request, services.settings.body_bytes)
    try:
        return KeyRequest.model_validate(raw)
    except ValidationError as error:
        raise Invalid(flaws_of(error, raw, model=KeyRequest)) from error


@router.post(PATH, status_code=201, response_model=NewKeyAnswer, openapi_extra=body_of(KeyRequest))
def create(asked: Annotated[KeyRequest, Depends(posted)], request: Request, services: ServicesHere, project: Project) -> Response:
    """Make a key for the caller's project."""
    digest = digest_of(asked.model_dump(mode="json"))
    once = Once(services.database, request, project)

    def work(_keep: Keep) -> Response:
        with services.database.write() as c:
            key, token = keys.create(c, project, name=asked.name, scopes=asked.scopes, expires_in_s=asked.expires_in_s)
            answer = NewKeyAnswer(**_shown(key), key=token)
            response = answer.respond(201, Location=f"{PATH}/{key.id}")
            # The secret is kept nowhere, so that a repetition cannot show it.
            once.keep(digest, shown=answer.model_copy(update={"key": None}).model_dump_json())(c, response)
        return response

    return answered_once(once, digest, work)


@router.get(PATH, response_model=PageAnswer[KeyAnswer])
def listed(query: Annotated[ListParameters, Query()], services: ServicesHere, project: Project) -> Response:
    """A page of the project's keys, newest first, revoked ones among them."""
    with services.database.read() as c:
        page = keys.page(c, project, limit=query.limit, cursor=query.cursor)
    return PageAnswer[KeyAnswer](items=[KeyAnswer(**_shown(key)) for key in page.items], next_cursor=page.next_cursor).respond()


@router.get(PATH + "/{key_id}", response_model=KeyAnswer)
def read(key_id: str, services: ServicesHere, project: Project) -> Response:
    """A key."""
    with services.database.read() as c:
        return KeyAnswer(**_shown(keys.get(c, project, key_id))).respond()


@router.delete(PATH + "/{key_id}", status_code=204)
def delete(key_id: str, services: ServicesHere, project: Project) -> Response:
    """Revoke a key, from the next request on."""
    with services.database.write() as c:
        keys.revoke(c, project, key_id)
    return Response(status_code=204)


def _shown(key: keys.Key) -> dict[str, Any]:
    own = {name: getattr(key, name) for name in ("id", "name", "created_at", "expires_at", "revoked_at", "used_at")}
    return {**own, "project": key.project_id, "scopes": list(key.scopes)}
