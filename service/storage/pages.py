"""Lists by keyset: newest first, a cursor names the last row that was seen."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, false, select

from service.errors import BadCursor
from service.storage.sessions import AnyRow

T = TypeVar("T")
_MARK = 8  # bytes of checksum


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A piece of a list, and the cursor of the next one or None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None


def _mark(table: Table, project: str, key: str) -> bytes:
    return hashlib.sha256(f"{table.name}\0{project}\0{key}".encode()).digest()[:_MARK]


def _encoded(table: Table, project: str, key: str) -> str:
    return urlsafe_b64encode(_mark(table, project, key) + key.encode()).decode().rstrip("=")


def _decoded(table: Table, project: str, cursor: str) -> str:
    """The id in the cursor; BadCursor unless this service made it for this list and project."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key = raw[_MARK:].decode()
    except ValueError:
        raise BadCursor("the cursor was not made by this service") from None
    if raw[:_MARK] != _mark(table, project, key) or _encoded(table, project, key) != cursor:
        raise BadCursor("the cursor was not made by this service")
    return key


def labelled(table: Table, labels: Sequence[tuple[str, str]]) -> ColumnElement[bool]:
    """The condition that a row carries all of these labels."""
    if any('"' in key for key, _ in labels):  # a key that no path can name is on no row
        return false()
    return and_(True, *(table.c.labels[key].as_string() == value for key, value in labels))


def fetch(
    c: Connection, table: Table, project: str, *, limit: int, cursor: str | None, where: Sequence[ColumnElement[bool]] = ()
) -> tuple[Sequence[AnyRow], str | None]:
    """At most `limit` rows of the project, newest first, and the next cursor; raises BadCursor."""
    query = select(table).where(table.c.project_id == project, *where).order_by(table.c.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(table.c.id < _decoded(table, project, cursor))
    rows = c.execute(query).all()
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], _encoded(table, project, rows[limit - 1].id)
