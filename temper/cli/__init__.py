"""The command line: `temper --help`. A command imports what is heavy only when it runs."""

import sys
from typing import Annotated

import typer

from temper.cli import demo, doctor, jobs, keys, models, service
from temper.errors import Invalid, JobCancelled, TemperError, WaitTimeout

# Plain help: rich's takes 0.2 s to import.
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (service, keys, demo, doctor, jobs, models):
    group.register(app)

# What a spec or a request did wrong is a question of usage.
CODES = {Invalid: 2, JobCancelled: 3, WaitTimeout: 4}


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        print(version("temper"))
        raise typer.Exit


@app.callback()
def temper(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Train regularized networks and their ensembles, serve them, and measure how robust they are."""


def main() -> None:
    """Runs a command. Exit codes: 0 succeeded, 1 failed, 2 usage, 3 cancelled, 4 detached or timed out."""
    try:
        app()
    except TemperError as error:
        print(f"temper: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in CODES.items() if isinstance(error, kind)), 1))
