"""What other programs import: `Client`, `AsyncClient` and the errors they raise."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """The clients, imported when first asked for: numpy and HTTP would double the start of the command line."""
    if name in __all__:
        return getattr(import_module("temper.client"), name)
    raise AttributeError(f"module 'temper' has no attribute {name!r}")
