"""Networks: from a spec to a torch module."""

from typing import Annotated

from pydantic import Field

from service.nets.autoencoder import Autoencoder
from service.nets.mlp import MLP

Architecture = Annotated[MLP | Autoencoder, Field(discriminator="type")]
