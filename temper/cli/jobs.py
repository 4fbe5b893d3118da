"""Commands on jobs: train, watch, jobs, logs, stop, cancel, retry."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.files import read_spec
from temper.cli.output import Format, FormatOption, show, talk
from temper.errors import JobFailed

if TYPE_CHECKING:
    from temper.client import Client
    from temper.jobs import Job
    from temper.steps import Blocking

COLUMNS = ("id", "name", "kind", "state", "phase", "progress", "best", "created_at")
Name = Annotated[str, typer.Argument(metavar="JOB", help="The id, job_…")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait; then exit code 4.")]
DETACHED = 4


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (train, jobs, watch, logs, stop, cancel, retry):
        app.command()(command)


def train(
    spec: Annotated[str, typer.Argument(help="A JSON, TOML or YAML file; - reads JSON from standard input.")],
    data: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A file to upload first as the spec's dataset.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return as soon as the job is accepted.")] = False,
    timeout: Timeout = None,
    output: FormatOption = Format.table,
) -> None:
    """Start a job and follow it to its end. Ctrl-C detaches; the job goes on."""
    from temper.client import Client

    body = read_spec(spec)
    with Client() as client:
        if data is not None:
            body["dataset"] = client.datasets.upload(data).id
        job = client.jobs.create(body)
        talk(f"{job.id} {job.state}")
        if not detach:
            _follow(client, job, timeout)
        show([summary(job.data)], COLUMNS, output)


def jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, cancelling, succeeded, failed or cancelled")] = None,
    kind: Annotated[str | None, typer.Option(help="train or robustness")] = None,
    name: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    output: FormatOption = Format.table,
) -> None:
    """List jobs, newest first."""
    from temper.client import Client

    with Client() as client:
        found = client.jobs.list(limit=limit, state=state, kind=kind, name=name)
    show([job.data if output is Format.json else summary(job.data) for job in found], COLUMNS, output)


def watch(job: Name, timeout: Timeout = None, output: FormatOption = Format.table) -> None:
    """Follow a job to its end. Ctrl-C detaches; the job goes on."""
    from temper.client import Client

    with Client() as client:
        found = client.jobs.get(job)
        _follow(client, found, timeout)
        show([summary(found.data)], COLUMNS, output)


def logs(job: Name) -> None:
    """Print a job's log."""
    from temper.client import Client

    with Client() as client:
        sys.stdout.write(client.jobs.get(job).logs())


def stop(job: Name) -> None:
    """End a training now, keeping the best weights."""
    from temper.client import Client

    with Client() as client:
        talk(repr(client.jobs.get(job).stop()))


def cancel(job: Name) -> None:
    """End a job and publish nothing."""
    from temper.client import Client

    with Client() as client:
        talk(repr(client.jobs.get(job).cancel()))


def retry(job: Name) -> None:
    """Let a failed or cancelled job go on from its last checkpoint."""
    from temper.client import Client

    with Client() as client:
        talk(repr(client.jobs.get(job).retry()))


def summary(job: dict[str, Any]) -> dict[str, Any]:
    """A job's data for a table: progress as a percentage, the best value with its metric."""
    fraction, best = job["progress"].get("fraction"), job["best"]
    return {
        **job,
        "progress": None if fraction is None else f"{fraction:.0%}",
        "best": best and f"{best['metric']} {best['value']:.4g}",
    }


def _follow(client: "Client", job: "Job[Blocking]", timeout: float | None) -> None:
    """Waits with progress; an interrupt detaches, a failure shows the end of the log."""
    try:
        job.wait(timeout=timeout, progress=True)
    except KeyboardInterrupt:
        talk(f"Detached; {job.id} goes on at {client.url}.")
        talk(f"  follow it again   temper watch {job.id}\n  cancel it         temper cancel {job.id}")
        raise typer.Exit(DETACHED) from None
    except JobFailed:
        for line in job.logs().splitlines()[-15:]:
            talk(f"  | {line}")
        raise
