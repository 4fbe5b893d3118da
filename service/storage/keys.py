"""API keys: made once, kept as a hash, each for one project with its scopes."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, or_, select, update
from sqlalchemy import insert as insert_into

from service.errors import NotFound
from service.storage import pages
from service.storage.ids import new_id, valid
from service.storage.pages import Page
from service.storage.sessions import AnyRow, insert_new, now
from service.storage.tables import keys, projects

SCOPES = ("read", "predict", "train", "admin")
"""What a key may allow; `admin` allows everything in its project."""
_TOKEN = re.compile(r"temper_([0-7][0-9a-hjkmnp-tv-z]{25})_[A-Za-z0-9_-]{43}")
_COLUMNS = [column for column in keys.c if column.name != "hash"]
_NOTED_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret; times are epoch seconds, None for never."""

    id: str
    project_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None
    unnoted: bool = False
    """Whether the last use that was noted lies a minute back."""


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _key(row: AnyRow) -> Key:
    return Key(**{**{column.name: row._mapping[column.name] for column in _COLUMNS}, "scopes": tuple(row.scopes)})


def create(c: Connection, project: str, *, name: str, scopes: Collection[str], expires_in_s: float | None = None) -> tuple[Key, str]:
    """The key and its token `temper_<id>_<secret>`, which is kept nowhere; the project is made if there is none of that name."""
    insert_new(c, projects, {"id": project, "created_at": now()})
    key_id = new_id("key")
    token = f"temper_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"
    row = c.execute(
        insert_into(keys)
        .values(
            id=key_id, project_id=project, name=name, hash=_hash(token), scopes=[scope for scope in SCOPES if scope in scopes],
            created_at=now(), expires_at=None if expires_in_s is None else now() + expires_in_s,
        )
        .returning(*_COLUMNS)
    ).one()  # fmt: skip
    return _key(row), token


def find(c: Connection, token: str) -> Key | None:
    """The key of a token, if it is one that still holds; what differs is compared in constant time."""
    match = _TOKEN.fullmatch(token)
    key_id = f"key_{match[1]}" if match else ""
    holds = (keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now()))
    unnoted = or_(keys.c.used_at.is_(None), keys.c.used_at < now() - _NOTED_EVERY_S).label("unnoted")
    row = c.execute(select(keys, unnoted).where(keys.c.id == key_id, *holds)).one_or_none()
    # An unknown key takes the same way as a known one.
    same = hmac.compare_digest(_hash(token), row.hash if row is not None else "")
    return replace(_key(row), unnoted=bool(row.unnoted)) if row is not None and same else None


def used(c: Connection, key: Key) -> None:
    """Note that the key was used."""
    c.execute(update(keys).where(keys.c.id == key.id).values(used_at=now()))


def get(c: Connection, project: str, key_id: str) -> Key:
    """The key of an id; raises NotFound."""
    query = select(*_COLUMNS).where(keys.c.id == key_id, keys.c.project_id == project)
    row = c.execute(query).one_or_none() if valid("key", key_id) else None
    if row is None:
        raise NotFound("there is no such key")
    return _key(row)


def page(c: Connection, project: str, *, limit: int, cursor: str | None) -> Page[Key]:
    """Keys, newest first, revoked ones among them; raises BadCursor."""
    rows, following = pages.fetch(c, keys, project, limit=limit, cursor=cursor)
    return Page(tuple(_key(row) for row in rows), following)


def revoke(c: Connection, project: str, key_id: str) -> None:
    """The key holds no more, from the next request on; raises NotFound."""
    get(c, project, key_id)
    c.execute(update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now()))
