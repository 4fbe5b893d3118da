"""Where an embedded service may listen."""

import socket
from ipaddress import ip_address

from temper.errors import CannotStart


def check_host(host: str) -> None:
    """Raises `CannotStart` for an address that other machines can reach: without keys anyone there could run jobs."""
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise CannotStart(f"{host} is not a loopback address. Without API keys the service listens on 127.0.0.1, ::1 or localhost only.")


def free_port(host: str, port: int) -> int:
    """The port itself if nothing listens there, any free one for 0; raises `CannotStart` for one in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"Port {port} on {host} cannot be had ({error.strerror}). Choose another with --port, or a free one with --port 0."
            ) from error
        number: int = probe.getsockname()[1]
        return number
