"""The schema: up, down and up again, with no drift from the tables that queries use."""

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from service.storage import migrate, sessions
from service.storage.tables import metadata


def tables(url: str) -> set[str]:
    engine = sessions.engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_up_down_up(url: str) -> None:
    migrate.upgrade(url)
    assert tables(url) == {*metadata.tables, "alembic_version"}
    migrate.downgrade(url)
    assert tables(url) == {"alembic_version"}
    migrate.upgrade(url)
    migrate.upgrade(url)
    assert tables(url) == {*metadata.tables, "alembic_version"}


def test_no_drift(url: str) -> None:
    migrate.upgrade(url)
    engine = sessions.engine(url)
    with engine.connect() as c:
        assert compare_metadata(MigrationContext.configure(c, opts={"compare_type": True}), metadata) == []
        inspector = inspect(c)
        for table in metadata.sorted_tables:
            written = {check["name"] for check in inspector.get_check_constraints(table.name)}
            assert written == {check.name for check in table.constraints if isinstance(check, CheckConstraint)}, table.name
        opened = next(index for index in inspector.get_indexes("shards") if index["name"] == "ix_shards_open")
        assert [*opened["column_names"][1:]] == ["created_at", "job_id", "number"]
    engine.dispose()


def test_a_state_that_is_none_is_refused(url: str) -> None:
    migrate.upgrade(url)
    engine = sessions.engine(url)
    row = "INSERT INTO jobs (id, project_id, kind, name, state, version, attempt, priority, spec, extra, labels, created_at, progress) "
    with pytest.raises(IntegrityError, match="ck_jobs_state"), engine.begin() as c:
        c.execute(text(row + "VALUES ('j', 'default', 'train', 'n', 'asleep', 1, 1, 0, '{}', '{}', '{}', 0, '{}')"))
    engine.dispose()


def test_four_processes_upgrade_at_once(url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(migrate.upgrade, [url] * 4))
    assert tables(url) == {*metadata.tables, "alembic_version"}


def test_the_file_is_copied_before_a_change(tmp_path: Path) -> None:
    path = tmp_path / "temper.db"
    migrate.upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path) as c:  # as if an older release had made it
        c.execute("UPDATE alembic_version SET version_num = '0000'")
    c.close()
    with pytest.raises(Exception, match="0000"):
        migrate.upgrade(f"sqlite:///{path}")
    copy = create_engine(f"sqlite:///{path}.0000.backup")
    assert set(inspect(copy).get_table_names()) == {*metadata.tables, "alembic_version"}
    copy.dispose()
