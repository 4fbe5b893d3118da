"""Commands that run the service: up, api, worker, calibrate, db."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from temper.errors import CannotStart

CORES = os.cpu_count() or 1
CHECK_S = 5.0

database = typer.Typer(no_args_is_help=True, help="The database.")


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command()(up)
    app.command()(api)
    app.command()(worker)
    app.command()(calibrate)
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
    check: Annotated[bool, typer.Option("--check", help="Only ask the one on this machine: exit code 0 if it is ready.")] = False,
) -> None:
    """Run the API alone; settings come from TEMPER_* variables."""
    if check:
        raise typer.Exit(0 if _ready(port) else 1)
    _become("service.app", "--host", host, "--port", str(port))


def worker(
    check: Annotated[bool, typer.Option("--check", help="Only look for one: exit code 0 if this machine's was seen lately.")] = False,
) -> None:
    """Run one worker alone; settings come from TEMPER_* variables."""
    if check:
        raise typer.Exit(0 if _seen() else 1)
    _become("workers.app")


def calibrate(
    data: Annotated[Path, typer.Option(envvar="TEMPER_DATA", help="Folder whose workers shall use what is found.")] = Path(".temper"),
) -> None:
    """Measure on this machine, which should be idle, for which networks members train faster side by side. Takes a minute."""
    _become("workers.training.calibrate", "--data", str(data))


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


def _ready(port: int) -> bool:
    """Whether the API on that port of this machine says that it is ready."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=CHECK_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read().decode(errors="replace"))
    except (OSError, HTTPException) as error:
        print(error)
        return False
    finally:
        connection.close()
    return answer.status == 200


def _seen() -> bool:
    """Whether a worker of this machine has given a sign of life within a lease."""
    import socket

    from service.errors import TemperError
    from service.settings import Settings
    from service.storage import workers
    from service.storage.sessions import Database

    settings = Settings()
    try:
        with Database(settings.database).read() as c:
            return socket.gethostname() in {each.host for each in workers.seen(c, settings.lease_s)}
    except TemperError as error:
        print(error.detail)
        return False


def _become(module: str, *arguments: str) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
