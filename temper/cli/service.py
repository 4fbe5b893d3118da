"""Commands that run the service: up, api, worker, db."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from temper.errors import CannotStart

CORES = os.cpu_count() or 1

database = typer.Typer(no_args_is_help=True, help="The database.")


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command()(up)
    app.command()(api)
    app.command()(worker)
    app.add_typer(database, name="db")


def up(
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    data: Annotated[Path, typer.Option(envvar="TEMPER_DATA", help="Folder of database, broker and files.")] = Path(".temper"),
    workers: Annotated[int, typer.Option(min=1, envvar="TEMPER_SLOTS", help="Shards trained at once.")] = CORES,
) -> None:
    """Start the whole service on this machine: API, worker and broker. Ctrl-C stops it."""
    from service import lifeline
    from temper.embedded.stack import Options
    from temper.embedded.up import up as run

    lifeline.watch()
    run(Options(host, port, data, workers))


def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Run the API alone; settings come from TEMPER_* variables."""
    _become("service.app", "--host", host, "--port", str(port))


def worker() -> None:
    """Run one worker alone; settings come from TEMPER_* variables."""
    _become("workers.app")


@database.command()
def upgrade() -> None:
    """Bring the tables of TEMPER_DATABASE_URL, or of the data folder, up to date."""
    from service.errors import TemperError
    from service.settings import Settings
    from service.storage.migrate import upgrade as migrate
    from service.storage.sessions import Database

    url = Settings().database
    try:
        if not url.startswith("sqlite"):
            Database(url).ping()
        migrate(url)
    except TemperError as error:
        raise CannotStart(error.detail) from error


def _become(module: str, *arguments: str) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
