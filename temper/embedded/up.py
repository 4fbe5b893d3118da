"""`temper up`: one embedded service from its start to Ctrl-C."""

import os
import signal
import time
from pathlib import Path

from temper.embedded.address import check_host
from temper.embedded.folder import DataFolder
from temper.embedded.stack import Options, Stack

TICK_S = 0.25


def up(options: Options) -> None:
    """Runs the service until a signal ends it; raises `CannotStart` when it cannot be started or kept alive."""
    check_host(options.host)
    # SIGINT too: a shell without job control starts what it puts in the background with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    folder = DataFolder(options.data)
    folder.take()
    try:
        _serve(Stack(options, folder, os.environ))
    finally:
        folder.release()


def _serve(stack: Stack) -> None:
    announced = False
    try:
        stack.start()
        while True:
            stack.tend()
            if stack.ready and not announced:
                announced = True
                stack.folder.announce(stack.url)
                print(_greeting(stack), flush=True)
            time.sleep(TICK_S)
    except KeyboardInterrupt:
        print("Stopping …", flush=True)
    finally:
        stack.stop()


def _greeting(stack: Stack) -> str:
    database = os.environ.get("TEMPER_DATABASE_URL", "sqlite").partition(":")[0].partition("+")[0]
    data = stack.folder.path
    place = data.relative_to(Path.cwd()) if data.is_relative_to(Path.cwd()) else data
    return f"temper · embedded: {database}, {stack.broker.title}, {place}/   {stack.url}   (docs /docs)   Ctrl-C stops"
