"""Commands for API keys, on the database itself: the first key has to come from somewhere."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from temper.cli.output import Format, FormatOption, show, talk
from temper.errors import CannotStart

if TYPE_CHECKING:
    from service.settings import Settings
    from service.storage.sessions import Database

keys = typer.Typer(no_args_is_help=True, help="API keys, made and revoked in the database of TEMPER_DATABASE_URL or of the data folder.")
Project = Annotated[str, typer.Option(help="The project that the key belongs to; made if there is none of that name.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help="read, predict, train or admin (everything); once per scope.")],
    project: Project = "default",
    expires_in_days: Annotated[float | None, typer.Option(min=0, help="Days until it holds no more; never, if not given.")] = None,
) -> None:
    """Make a key and print it: it is shown this once and kept as a hash."""
    from service.storage import keys as stored
    from service.values import NAME

    if wrong := [each for each in scope if each not in stored.SCOPES]:
        raise typer.BadParameter(f"there is no scope {wrong[0]}; there are {', '.join(stored.SCOPES)}", param_hint="--scope")
    if wrong := [each for each in (name, project) if not NAME.fullmatch(each)]:
        raise typer.BadParameter(f"{wrong[0]!r} does not match {NAME.pattern}")
    seconds = None if expires_in_days is None else expires_in_days * 86_400
    settings, database = _database()
    with closing(database):
        with database.write() as c:
            key, token = stored.create(c, project, name=name, scopes=scope, expires_in_s=seconds)
        _equip(settings, database, project)
    talk(f"{key.id} of project {project}, for {', '.join(key.scopes)}. It is shown this once:")
    print(token)


@keys.command(name="list")
def listed(project: Project = "default", output: FormatOption = Format.table) -> None:
    """List the keys of a project, newest first, revoked ones among them."""
    from dataclasses import asdict

    from service.storage import keys as stored

    _, database = _database()
    rows: list[dict[str, object]] = []
    with closing(database), database.read() as c:
        cursor = None
        while True:
            page = stored.page(c, project, limit=200, cursor=cursor)
            rows += [{**asdict(key), "scopes": " ".join(key.scopes), "state": _state(key.revoked_at, key.expires_at)} for key in page.items]
            if (cursor := page.next_cursor) is None:
                break
    show(rows, ("id", "name", "scopes", "state"), output)


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], project: Project = "default") -> None:
    """Let a key hold no more, from the next request on."""
    from service.errors import NotFound
    from service.storage import keys as stored

    _, database = _database()
    with closing(database):
        try:
            with database.write() as c:
                stored.revoke(c, project, key_id)
        except NotFound as error:
            raise CannotStart(error.detail) from error


def _state(revoked_at: float | None, expires_at: float | None) -> str:
    import time

    if revoked_at is not None:
        return "revoked"
    return "expired" if expires_at is not None and expires_at < time.time() else "holds"


def _database() -> "tuple[Settings, Database]":
    """The settings and the database, brought up to date; raises CannotStart."""
    from service.errors import TemperError
    from service.settings import Settings
    from service.storage import migrate
    from service.storage.sessions import Database

    settings = Settings()
    database = Database(settings.database)
    try:
        migrate.upgrade(settings.database)
        database.ping()
    except TemperError as error:
        raise CannotStart(error.detail) from error
    return settings, database


def _equip(settings: "Settings", database: "Database", project: str) -> None:
    """Give a new project the built-in datasets."""
    from service.data import builtin
    from service.storage.stores import open_store

    builtin.ensure(database, open_store(settings), project)
