"""The first schema: projects, datasets, jobs with their shards and history, models with their aliases, workers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = "state IN ('queued', 'running')"
TABLES = (
    "projects",
    "workers",
    "alias_history",
    "datasets",
    "jobs",
    "models",
    "model_names",
    "aliases",
    "events",
    "logs",
    "metrics",
    "shards",
)


def upgrade() -> None:
    """Create all tables, and the project that an embedded service works in."""
    _projects()
    _workers()
    _alias_history()
    _datasets()
    _jobs()
    _models()
    _model_names()
    _aliases()
    _events()
    _logs()
    _metrics()
    _shards()
    op.execute(sa.text("INSERT INTO projects (id, created_at) VALUES ('default', 0)"))


def downgrade() -> None:
    """Drop all tables, children first."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def _alias_history() -> None:
    op.create_table(
        "alias_history",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer()),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_alias_history_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_history"),
    )
    op.create_index("ix_alias_history_project_id_name_id", "alias_history", ["project_id", "name", "id"])


def _datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("description", JSON, nullable=False),
        sa.Column("builtin", sa.Boolean(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_datasets_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    op.create_index("ix_datasets_project_id_id", "datasets", ["project_id", "id"])
    op.create_index("ix_datasets_project_id_name", "datasets", ["project_id", "name"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("extra", JSON, nullable=False),
        sa.Column("dataset_id", sa.Text()),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("heartbeat_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("cancel_requested_at", sa.Double()),
        sa.Column("stop_requested_at", sa.Double()),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("progressed_at", sa.Double()),
        sa.Column("best", JSON),
        sa.Column("stop_reason", sa.Text()),
        sa.Column("model_id", sa.Text()),
        sa.Column("result", JSON),
        sa.Column("error", JSON),
        sa.CheckConstraint("state IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_state")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_jobs_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_project_id_id", "jobs", ["project_id", "id"])
    op.create_index("ix_jobs_state_dataset_id", "jobs", ["state", "dataset_id"])


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Text()),
        sa.Column("dataset_id", sa.Text()),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("signature", JSON, nullable=False),
        sa.Column("layers", JSON, nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("files", JSON, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_models_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("project_id", "name", "version", name="uq_models_project_id_name_version"),
    )
    op.create_index("ix_models_project_id_id", "models", ["project_id", "id"])


def _model_names() -> None:
    op.create_table(
        "model_names",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_model_names_project_id_projects"),
        sa.PrimaryKeyConstraint("project_id", "name", name="pk_model_names"),
    )


def _aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "name", "version"],
            ["models.project_id", "models.name", "models.version"],
            name="fk_aliases_project_id_name_version_models",
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_aliases_project_id_projects"),
        sa.PrimaryKeyConstraint("project_id", "name", "alias", name="pk_aliases"),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.CheckConstraint("kind IN ('state', 'progress', 'metrics', 'log', 'end')", name=op.f("ck_events_kind")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_events_project_id_projects"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_events"),
    )


def _logs() -> None:
    op.create_table(
        "logs",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_logs_job_id_jobs", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_logs_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_logs"),
    )
    op.create_index("ix_logs_job_id_id", "logs", ["job_id", "id"])


def _metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("member", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_metrics_job_id_jobs", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_metrics_project_id_projects"),
        sa.PrimaryKeyConstraint("job_id", "member", "name", "epoch", name="pk_metrics"),
    )


def _shards() -> None:
    op.create_table(
        "shards",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("members", JSON, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("attempts_without_progress", sa.Integer(), nullable=False),
        sa.Column("checkpoint", JSON),
        sa.Column("progress", JSON),
        sa.Column("result", JSON),
        sa.Column("error", JSON),
        sa.Column("engine", JSON),
        sa.CheckConstraint("kind IN ('train', 'robustness', 'publish')", name=op.f("ck_shards_kind")),
        sa.CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_shards_state")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_shards_job_id_jobs", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_shards_project_id_projects"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_shards"),
    )
    op.create_index(
        "ix_shards_open",
        "shards",
        [sa.literal_column("priority DESC"), "created_at", "job_id", "number"],
        sqlite_where=sa.text(OPEN),
        postgresql_where=sa.text(OPEN),
    )
