"""Reading an upload in a process of its own, so that no file can harm this one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import service
from service import errors, logs
from service.data.fields import Description
from service.data.formats import Origin
from service.data.limits import Limits
from service.errors import Flaw, TemperError, invalid

ROOT = Path(service.__file__).parent.parent
SAID_BYTES = 2000
log = logs.logger("temper.data")
# A bare environment: nothing of this process's secrets, one thread.
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def ingest(source: Path, folder: Path, schema: Any = None, limits: Limits | None = None, *, origin: Origin | None = None) -> Description:
    """Read the source into columns and a description below the folder.

    `schema` is the upload's JSON. Raises Invalid, TooLarge and UnsupportedMediaType as the file deserves, and Invalid with
    `corrupt-file` where reading it ends the process or takes too long.
    """
    bounds, sender = limits or Limits(), origin or Origin()
    request = {"source": str(source), "folder": str(folder), "declared": schema, "origin": sender.dump(), "limits": bounds.dump()}
    try:
        done = run("service.data.parse", (), json.dumps(request).encode(), seconds=bounds.seconds)
        if done.returncode == -signal.SIGABRT and not done.stdout:  # a race in a library's threads, seen once in thousands
            log.warning("the reader of uploads is started again", said=done.stderr[-SAID_BYTES:].decode(errors="replace"))
            done = run("service.data.parse", (), json.dumps(request).encode(), seconds=bounds.seconds)
    except subprocess.TimeoutExpired as error:
        raise invalid("/file", "corrupt-file", "the file cannot be read in the time that there is") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        log.warning("the reader of uploads broke", status=done.returncode, said=done.stderr[-SAID_BYTES:].decode(errors="replace"))
        raise invalid("/file", "corrupt-file", "the file cannot be read") from error
    if "refused" in answer:
        raise _refusal(answer)
    return Description.model_validate(answer["description"])


def run(module: str, arguments: Sequence[str], message: bytes, *, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """A module of ours run as a process with a deadline; raises TimeoutExpired."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, input=message, capture_output=True, timeout=seconds, cwd=ROOT, env=ENVIRONMENT, check=False)


def _refusal(answer: dict[str, Any]) -> TemperError:
    if answer["refused"] == "TooLarge":
        return errors.TooLarge(answer["detail"], slug=answer["slug"])
    if answer["refused"] in ("UnsupportedMediaType", "StorageFull"):
        kind: type[TemperError] = getattr(errors, answer["refused"])
        return kind(answer["detail"])
    return errors.Invalid([Flaw(*flaw) for flaw in answer["flaws"]])
