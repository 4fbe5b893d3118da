"""`temper doctor`: looks at what the service needs on this machine, and says how to mend what it finds."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import typer

GIB = 2**30
LOW_DISK_GIB = 2
DEVICES = "import torch; print(torch.cuda.device_count(), torch.get_num_threads(), torch.version.cuda or 'cpu')"


class Finding(NamedTuple):
    """What was looked at, whether it will do, what was found, and how to mend it."""

    subject: str
    good: bool
    text: str
    mend: str = ""


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(doctor)


def doctor() -> None:
    """Check torch, devices, database, broker, storage and the running service. Exit code 1 if something needs mending."""
    checks: tuple[Callable[[], Finding], ...] = (_python, _torch, _database, _broker, _storage, _service)
    findings = [check() for check in checks]
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'MEND'}  {finding.subject:<9} {finding.text}")
        if finding.mend:
            print(f"                {finding.mend}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), f"{version}, {os.cpu_count()} cores, {sys.prefix}")


def _torch() -> Finding:
    """The build, its size on disk, and the devices that it sees, asked in a process of its own: torch is not loaded here."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        torch = distribution("torch")
    except PackageNotFoundError:
        return Finding("torch", False, "not installed", "pip install -c constraints.txt 'temper[server]'")
    size = sum(file.size or 0 for file in torch.files or ()) / GIB
    answer = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return Finding("torch", False, f"{torch.version} cannot be imported: {answer.stderr.strip().splitlines()[-1]}", "install it anew")
    gpus, threads, build = answer.stdout.split()
    wasteful = build != "cpu" and gpus == "0" and size > 1
    mend = "A CUDA build without a GPU; the CPU build is far smaller: https://pytorch.org/get-started/locally" if wasteful else ""
    return Finding("torch", True, f"{torch.version}, build {build}, {size:.1f} GiB; {gpus} GPUs, {threads} threads", mend)


def _database() -> Finding:
    from service.errors import TemperError
    from service.settings import Settings
    from service.storage.sessions import Database

    url = Settings().database
    kind = url.partition(":")[0]
    path = Path(url.removeprefix("sqlite:///"))
    if kind == "sqlite" and not path.exists():
        return Finding("database", True, f"sqlite, {path} will be made")
    try:
        Database(url).ping()
    except TemperError as error:
        return Finding("database", False, f"{kind}: {error.detail}", "Start it, or correct TEMPER_DATABASE_URL.")
    return Finding("database", True, f"{kind} answers")


def _broker() -> Finding:
    url = urlsplit(os.environ.get("TEMPER_BROKER_URL", ""))
    if url.hostname:
        try:
            socket.create_connection((url.hostname, url.port or 6379), timeout=2).close()
        except OSError as error:
            mend = "Start it, or correct TEMPER_BROKER_URL. Jobs start without it, up to 2 s later."
            return Finding("broker", False, f"{url.scheme}://{url.hostname}: {error.strerror or error}", mend)
        return Finding("broker", True, f"{url.scheme}://{url.hostname} accepts connections")
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        return Finding(
            "broker", True, "files in the data folder", "With redis-server or valkey-server installed jobs start a little sooner."
        )
    return Finding("broker", True, f"private, {server}")


def _storage() -> Finding:
    from service.errors import TemperError
    from service.settings import Settings
    from service.storage.stores import open_store

    settings = Settings()
    if settings.storage_url.startswith("s3:"):
        try:
            open_store(settings).check()
        except TemperError as error:
            return Finding("storage", False, f"{settings.storage_url}: {error.detail}", "Correct TEMPER_STORAGE_URL, AWS_* or the store.")
        return Finding("storage", True, f"{settings.storage_url} answers")
    data = settings.files if settings.storage_url else _data()
    place = next(folder for folder in (data, *data.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("storage", False, f"{place} cannot be written", "Choose another folder with TEMPER_DATA.")
    free = shutil.disk_usage(place).free / GIB
    mend = "" if free > LOW_DISK_GIB else "Free some space, or choose another folder with TEMPER_DATA."
    return Finding("storage", free > LOW_DISK_GIB, f"{data}, {free:.1f} GiB free", mend)


def _service() -> Finding:
    import httpx2

    from temper.client import default_url

    url = default_url()
    try:
        answer = httpx2.get(f"{url}/readyz", timeout=5)
    except httpx2.HTTPError:
        return Finding("service", True, f"none at {url}", "temper up starts one.")
    if not answer.is_success:
        return Finding("service", False, f"{url} answers {answer.status_code}: {answer.text[:200]}", f"Its logs are in {_data() / 'logs'}.")
    return Finding("service", True, f"{url} is ready")


def _data() -> Path:
    return Path(os.environ.get("TEMPER_DATA", ".temper")).absolute()
