"""Upgrades of filled databases: from every revision to the newest, back, and up again, with every row as it was."""

from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, Connection, Double, Float, Integer, MetaData, Table, inspect, select
from sqlalchemy.types import BigInteger

from service.storage import migrate, sessions

REVISIONS = [script.revision for script in reversed(list(ScriptDirectory.from_config(migrate.config()).walk_revisions()))]
# What a CHECK or a foreign key asks for; everything else may be anything.
ASKED = {"state": "running", "project_id": "default", "job_id": "job-0", "version": 1}


def value(column: Any, row: int) -> Any:
    """Some value of a column's type, another one in every row where it is part of a key."""
    if column.name == "kind":
        return {"events": "state", "shards": "train"}.get(column.table.name, "train")
    if column.name == "id" and not isinstance(column.type, Integer | BigInteger):
        return f"{column.table.name.removesuffix('s')}-{row}"
    if column.name in ASKED:
        return row + 1 if column.name == "version" else ASKED[column.name]
    if isinstance(column.type, JSON):
        return {"n": row, "deep": [1.5, None, "ü"]}
    if isinstance(column.type, Boolean):
        return bool(row % 2)
    if isinstance(column.type, Integer | BigInteger):
        return row + 1
    return row + 0.25 if isinstance(column.type, Float | Double) else f"{column.name}-{row}"


def fill(c: Connection) -> None:
    """Two rows in every table."""
    metadata = MetaData()
    metadata.reflect(c)
    for table in metadata.sorted_tables:
        if table.name not in ("alembic_version", "projects"):
            for row in range(2):
                c.execute(table.insert().values({column.name: value(column, row) for column in table.c}))


def rows(c: Connection, columns: dict[str, list[str]] | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, of these columns alone where they are given."""
    metadata = MetaData()
    metadata.reflect(c)
    wanted = columns or {table.name: [column.name for column in table.c] for table in metadata.sorted_tables}
    return {
        name: sorted((tuple(row) for row in c.execute(select(*(metadata.tables[name].c[each] for each in wanted[name])))), key=repr)
        for name in sorted(wanted)
        if name != "alembic_version"
    }


def described(c: Connection) -> dict[str, list[str]]:
    """Columns by table."""
    inspector = inspect(c)
    return {name: [column["name"] for column in inspector.get_columns(name)] for name in inspector.get_table_names()}


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_filled_database_goes_up_down_and_up(url: str, revision: str) -> None:
    migrate.upgrade(url, revision)
    engine = sessions.engine(url)
    with engine.begin() as c:
        fill(c)
        columns, before = described(c), rows(c)
    for step in (lambda: migrate.upgrade(url), lambda: migrate.downgrade(url, revision), lambda: migrate.upgrade(url)):
        engine.dispose()
        step()
        with engine.connect() as c:
            assert rows(c, columns) == before
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_release_can_go_on_writing(url: str, revision: str) -> None:
    """Expand, then contract: nothing that a release knows goes away, and nothing new has to be filled in."""
    migrate.upgrade(url, revision)
    engine = sessions.engine(url)
    with engine.connect() as c:
        old = MetaData()
        old.reflect(c)
    engine.dispose()
    migrate.upgrade(url)
    with engine.begin() as c:
        found = described(c)
        for table in old.sorted_tables:
            assert {column.name for column in table.c} <= set(found[table.name])
        for table in old.sorted_tables:  # the old release's own tables, with the columns that it knows
            if table.name not in ("alembic_version", "projects"):
                _insert(c, table)
    engine.dispose()


def _insert(c: Connection, table: Table) -> None:
    c.execute(table.insert().values({column.name: value(column, 0) for column in table.c}))
