"""Networks: from a spec to a torch module."""

from typing import Annotated

from service.nets.mlp import MLP
from service.tricks.choices import tagged

Architecture = Annotated[MLP, tagged("type", "mlp")]
