"""Settings: environment variables `TEMPER_*`, read once by a composition root and passed on."""

import os
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 2**20


class Settings(BaseSettings):
    """All that can be set from outside. Only `TEMPER_*` is read: other programs' variables are not ours."""

    model_config = SettingsConfigDict(env_prefix="TEMPER_", frozen=True)

    data: Path = Path(".temper")
    """Folder of the embedded database, broker and files."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in the data folder."""
    broker_url: str = ""
    """Celery broker URL; empty means a private broker, started by `temper up`."""
    storage_url: str = Field(default="", pattern=r"^(file:///.+|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?)?$")
    """Where files lie: `file:///folder` or `s3://bucket/prefix`; empty means the data folder."""
    cache_bytes: int = Field(default=20 * 1024 * MIB, ge=0)
    """Copies of datasets that a machine keeps when the files lie in S3."""
    slots: int = Field(default=1, ge=1)
    """Shards that one worker runs at once."""
    shards: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Most shards that one job is cut into; fixed for a job when it is accepted."""
    lease_s: float = Field(default=30.0, gt=0)
    heartbeat_s: float = Field(default=5.0, gt=0)
    poll_s: float = Field(default=2.0, gt=0)
    """How often a worker looks for work when no doorbell rings."""
    grace_s: float = Field(default=10.0, gt=0)
    """Time a trainer has to end by itself before it is killed."""
    max_attempts: int = Field(default=3, ge=1)
    """Consecutive attempts without a new checkpoint after which a shard fails."""
    body_bytes: int = 1 * MIB
    """Largest body of a spec."""
    predict_bytes: int = 32 * MIB
    """Largest body of predict and attack."""
    upload_bytes: int = 8192 * MIB
    max_parameters: int = 50_000_000
    """Parameters per member."""
    max_job_parameters: int = 500_000_000
    max_members: int = 200
    max_epochs: int = 100_000
    max_rows: int = 100_000
    """Rows per prediction request."""
    max_samples: int = 100_000
    slot_memory_bytes: int = 0
    """Memory of a slot; 0 means the machine's memory divided by the slots."""
    auth: Literal["auto", "keys", "off"] = "auto"
    """Whether requests need a key; "auto": unless the database is the embedded one and the address a loopback one; "off" is
    refused on other addresses."""
    key_rate: float = Field(default=0.0, ge=0)
    """Requests per second and key; 0 means no limit."""
    key_burst: int = Field(default=100, ge=1)
    """Requests that a key may send at once before the rate counts."""
    project_jobs: int = Field(default=0, ge=0)
    """Unfinished jobs of a project; 0 means no limit."""
    project_bytes: int = Field(default=0, ge=0)
    """Bytes of a project's datasets and models; 0 means no limit."""
    max_predictions: int = Field(default=64, ge=1)
    """Predictions and attacks that one API process has under way at once."""
    max_connections: int = Field(default=2000, ge=1)
    """Connections that the API holds at once; fewer where its file descriptors do not suffice."""
    log_level: str = "INFO"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data.absolute() / 'temper.db'}"

    @property
    def files(self) -> Path:
        """The folder of datasets, checkpoints and models, where they lie in one."""
        if self.storage_url.startswith("file:"):
            return Path(unquote(urlsplit(self.storage_url).path))
        return self.data.absolute() / "files"
