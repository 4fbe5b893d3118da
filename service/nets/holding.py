"""What autograd keeps of a pass of one row through named layers, each memory once."""

import math

from service.nets.layer import Earlier
from service.nets.layers import Layers, NamedLayer, ResidualLayer


class Memory:
    """What a layer gives of one row: how many numbers, and whether they are kept."""

    def __init__(self, numbers: int) -> None:
        self.numbers, self.kept = numbers, False


class Holding:
    """The numbers that are kept while layers in their places are passed."""

    def __init__(self, placed: Earlier) -> None:
        self.placed, self.numbers = placed, 0

    def keep(self, memory: Memory) -> None:
        """Count it, unless it is counted."""
        self.numbers += 0 if memory.kept else memory.numbers
        memory.kept = True

    def through(self, layers: Layers, memory: Memory) -> Memory:
        """What layers give, of what comes."""
        for layer in layers:
            memory = self._through(layer, memory)
        return memory

    def _through(self, layer: NamedLayer, memory: Memory) -> Memory:
        placed = self.placed[layer.label]
        if isinstance(layer, ResidualLayer):
            self.through(layer.layers, memory)
            self.through(layer.shortcut, memory)
            return Memory(math.prod(placed.after))
        saved = layer.saved(placed, self.placed)
        if saved.before:
            self.keep(memory)
        self.numbers += saved.besides
        found = memory if saved.same else Memory(math.prod(placed.after))
        if saved.after:
            self.keep(found)
        return found
