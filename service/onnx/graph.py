"""A graph of ONNX operators while it is built. Values are known by name; rows are the first axis, as many as there are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.onnx import wire
from service.onnx.wire import Array, Attribute, Message

ROWS = "rows"
"""The free extent of the first axis."""


class Graph:
    """Operators, constants, inputs and outputs in their order; what networks add to it, they add as `forward` computes it."""

    def __init__(self, named: Mapping[str, Array] | None = None) -> None:
        """`named`: arrays that keep their names where they become constants."""
        self._nodes: list[Message] = []
        self._inputs: list[Message] = []
        self._outputs: list[Message] = []
        self._constants: dict[tuple[Any, ...], tuple[str, Array]] = {}
        self._known = {_place(array): (name, array) for name, array in (named or {}).items()}

    def take(self, name: str, shape: Sequence[int], kind: str = "float32") -> str:
        """An input of rows of this shape."""
        self._inputs.append(wire.value(name, kind, (ROWS, *shape)))
        return name

    def give(self, name: str, value: str, shape: Sequence[int], kind: str = "float32") -> None:
        """An output of rows of this shape."""
        self._nodes.append(wire.node("Identity", [value], [name], {}))
        self._outputs.append(wire.value(name, kind, (ROWS, *shape)))

    def constant(self, array: Array) -> str:
        """A constant; the same memory twice is one constant."""
        place = _place(array)
        if place not in self._constants:
            # Kept with its array: memory that was freed could be another array's.
            self._constants[place] = self._known.get(place, (f"constant.{len(self._constants)}", array))
        return self._constants[place][0]

    def numbers(self, *values: int) -> str:
        """A constant list of whole numbers, as shapes and axes are given."""
        return self.constant(np.array(values, dtype=np.int64))

    def real(self, value: float) -> str:
        """A constant number."""
        return self.constant(np.array(value, dtype=np.float32))

    def add(self, operator: str, *inputs: str, **attributes: Attribute) -> str:
        """An operator on values; the name of what it gives."""
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, count: int, operator: str, *inputs: str, **attributes: Attribute) -> tuple[str, ...]:
        """An operator that gives several values."""
        names = tuple(f"{operator}.{len(self._nodes)}" + (f".{i}" if count > 1 else "") for i in range(count))
        self._nodes.append(wire.node(operator, inputs, names, attributes))
        return names

    def reshaped(self, x: str, *shape: int) -> str:
        """Rows in another shape."""
        return self.add("Reshape", x, self.numbers(0, *shape))

    @property
    def size(self) -> int:
        """Bytes of the constants."""
        return sum(array.nbytes for _, array in self._constants.values())

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """The file; equal graphs give equal bytes."""
        constants = (wire.tensor(name, array) for name, array in self._constants.values())
        pieces = ((1, self._nodes), (5, constants), (11, self._inputs), (12, self._outputs))
        found = [piece for field, messages in pieces for message in messages for piece in wire.block(field, message)]
        return wire.model(found + wire.text(2, "model"), metadata)


def _place(array: Array) -> tuple[Any, ...]:
    """Where an array lies in memory, and how it is read."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
