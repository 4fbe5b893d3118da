"""Settings: environment variables `TEMPER_*`, read once by a composition root and passed on."""

import os
from pathlib import Path

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
    log_level: str = "INFO"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data.absolute() / 'temper.db'}"

    @property
    def files(self) -> Path:
        """The folder of datasets, checkpoints and models."""
        return self.data.absolute() / "files"
