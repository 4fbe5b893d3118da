"""The tables: one metadata that queries, migrations and the drift test share. Times are epoch seconds."""

from collections.abc import Sequence

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

JOB_STATES = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")
SHARD_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
SHARD_KINDS = ("train", "robustness", "publish")
EVENT_KINDS = ("state", "progress", "metrics", "log", "end")
JSON_OR_NULL = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SERIAL = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself for INTEGER only

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, choices: Sequence[str]) -> CheckConstraint:
    listed = ", ".join(f"'{choice}'" for choice in choices)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _project() -> Column[str]:
    return Column("project_id", Text, ForeignKey("projects.id"), nullable=False)


def _job() -> Column[str]:
    return Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False)


projects = Table("projects", metadata, Column("id", Text, primary_key=True), Column("created_at", Double, nullable=False))

datasets = Table(
    "datasets",
    metadata,
    Column("id", Text, primary_key=True),
    _project(),
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("description", JSON_OR_NULL, nullable=False),
    Column("builtin", Boolean, nullable=False),
    Column("labels", JSON_OR_NULL, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "project_id", "name"),
    Index(None, "project_id", "id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    _project(),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("phase", Text),
    Column("reason", Text),
    Column("version", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("spec", JSON_OR_NULL, nullable=False),
    Column("extra", JSON_OR_NULL, nullable=False),
    Column("dataset_id", Text),  # no foreign key: a finished job outlives its dataset
    Column("labels", JSON_OR_NULL, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("heartbeat_at", Double),
    Column("finished_at", Double),
    Column("cancel_requested_at", Double),
    Column("stop_requested_at", Double),
    Column("progress", JSON_OR_NULL, nullable=False),
    Column("progressed_at", Double),
    Column("best", JSON_OR_NULL),
    Column("stop_reason", Text),
    Column("model_id", Text),
    Column("result", JSON_OR_NULL),
    Column("error", JSON_OR_NULL),
    _one_of("state", JOB_STATES),
    Index(None, "project_id", "id"),
    Index(None, "state", "dataset_id"),
)

shards = Table(
    "shards",
    metadata,
    _job(),
    Column("number", Integer, nullable=False),
    _project(),
    Column("kind", Text, nullable=False),
    Column("members", JSON_OR_NULL, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("lease", Double),
    Column("attempts", Integer, nullable=False),
    Column("attempts_without_progress", Integer, nullable=False),
    Column("checkpoint", JSON_OR_NULL),
    Column("progress", JSON_OR_NULL),
    Column("result", JSON_OR_NULL),
    Column("error", JSON_OR_NULL),
    Column("engine", JSON_OR_NULL),
    PrimaryKeyConstraint("job_id", "number"),
    _one_of("kind", SHARD_KINDS),
    _one_of("state", SHARD_STATES),
)

# Only what may still be claimed is in it, in the order of claiming: ten thousand done jobs cost a claim nothing.
OPEN = "state IN ('queued', 'running')"
Index(
    "ix_shards_open",
    shards.c.priority.desc(),
    shards.c.created_at,
    shards.c.job_id,
    shards.c.number,
    sqlite_where=text(OPEN),
    postgresql_where=text(OPEN),
)

events = Table(
    "events",
    metadata,
    _job(),
    Column("number", BigInteger, nullable=False),
    _project(),
    Column("kind", Text, nullable=False),
    Column("data", JSON_OR_NULL, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("job_id", "number"),
    _one_of("kind", EVENT_KINDS),
)

metrics = Table(
    "metrics",
    metadata,
    _job(),
    Column("member", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("value", Double),  # null: not a finite number
    _project(),
    PrimaryKeyConstraint("job_id", "member", "name", "epoch"),
)

logs = Table(
    "logs",
    metadata,
    Column("id", SERIAL, primary_key=True),
    _job(),
    _project(),
    Column("shard", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Index(None, "job_id", "id"),
)

models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True),
    _project(),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("job_id", Text),  # neither is a foreign key: a model outlives its job and its dataset
    Column("dataset_id", Text),
    Column("spec", JSON_OR_NULL, nullable=False),
    Column("signature", JSON_OR_NULL, nullable=False),
    Column("layers", JSON_OR_NULL, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("metrics", JSON_OR_NULL, nullable=False),
    Column("members", Integer, nullable=False),
    Column("files", JSON_OR_NULL, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("labels", JSON_OR_NULL, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("details", JSON_OR_NULL),
    UniqueConstraint("project_id", "name", "version"),
    Index(None, "project_id", "id"),
)

# The newest version that a name ever had: a number is not given twice, even when its model was deleted.
model_names = Table(
    "model_names",
    metadata,
    _project(),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    PrimaryKeyConstraint("project_id", "name"),
)

aliases = Table(
    "aliases",
    metadata,
    _project(),
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_at", Double, nullable=False),
    PrimaryKeyConstraint("project_id", "name", "alias"),
    ForeignKeyConstraint(["project_id", "name", "version"], ["models.project_id", "models.name", "models.version"]),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", SERIAL, primary_key=True),
    _project(),
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Integer),  # null: the alias was removed
    Column("at", Double, nullable=False),
    Index(None, "project_id", "name", "id"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    _project(),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of the whole key: 256 random bits need no slow hash
    Column("scopes", JSON_OR_NULL, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("used_at", Double),
    Index(None, "project_id", "id"),
)

# A POST that creates, under its caller's Idempotency-Key: reserved by an owner, then answered once and for all.
idempotency = Table(
    "idempotency",
    metadata,
    _project(),
    Column("route", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("digest", Text),
    Column("status", Integer),  # null: still under way
    Column("location", Text),
    Column("body", Text),
    PrimaryKeyConstraint("project_id", "route", "key"),
    Index(None, "created_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)
