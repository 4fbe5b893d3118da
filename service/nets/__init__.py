"""Networks: from a spec to a torch module."""

from typing import Annotated

from pydantic import Field

from service.nets.autoencoder import Autoencoder
from service.nets.cnn import CNN
from service.nets.conv_autoencoder import ConvAutoencoder
from service.nets.mlp import MLP
from service.nets.recurrent import Recurrent
from service.nets.resnet import ResNet
from service.nets.sequential import Sequential

Architecture = Annotated[MLP | CNN | ResNet | Autoencoder | ConvAutoencoder | Recurrent | Sequential, Field(discriminator="type")]
