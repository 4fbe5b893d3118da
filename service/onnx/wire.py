"""The messages of an ONNX file as bytes: protobuf's wire format with the field numbers of onnx.proto3, which never change.

A message is a list of pieces, joined once: tensors are not copied from level to level.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Message = list[bytes]
Array = NDArray[np.generic]
Attribute = int | float | str | Sequence[int]
IR, OPSET = 9, 19
"""Version of the format, and of the operators: the first that compares strings."""
KINDS = {"float32": 1, "int64": 7, "string": 8}
FLOAT, INT, STRING, INTS = 1, 2, 3, 7  # AttributeProto.AttributeType
VARINT, BLOCK, FIXED32 = 0, 2, 5


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as its 64 bits."""
    value &= 2**64 - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _key(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def number(field: int, value: int) -> Message:
    """A field that is a whole number."""
    return [_key(field, VARINT) + varint(value)]


def block(field: int, content: Message) -> Message:
    """A field that is a message, a text or bytes."""
    return [_key(field, BLOCK) + varint(sum(map(len, content))), *content]


def text(field: int, value: str) -> Message:
    """A field that is a text."""
    return block(field, [value.encode()])


def tensor(name: str, array: Array) -> Message:
    """TensorProto: float32, int64, or texts."""
    found = [piece for extent in array.shape for piece in number(1, extent)]
    if array.dtype.kind == "U":
        found += number(2, KINDS["string"])
        found += [piece for value in array.ravel().tolist() for piece in text(6, value)]
    else:
        found += number(2, KINDS[array.dtype.name])
        found += block(9, [array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()])
    return found + text(8, name)


def value(name: str, kind: str, shape: Sequence[int | str]) -> Message:
    """ValueInfoProto: a tensor's name, its kind, and its extents, of which those with a name are free."""
    extents = [piece for extent in shape for piece in block(1, text(2, extent) if isinstance(extent, str) else number(1, extent))]
    return text(1, name) + block(2, block(1, number(1, KINDS[kind]) + block(2, extents)))


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Attribute]) -> Message:
    """NodeProto."""
    found = [piece for name in inputs for piece in text(1, name)] + [piece for name in outputs for piece in text(2, name)]
    found += text(4, operator)
    return found + [piece for name, given in attributes.items() for piece in block(5, text(1, name) + _attribute(given))]


def _attribute(given: Attribute) -> Message:
    if isinstance(given, int):
        return number(3, given) + number(20, INT)
    if isinstance(given, float):
        return [_key(2, FIXED32) + struct.pack("<f", given), *number(20, FLOAT)]
    if isinstance(given, str):
        return text(4, given) + number(20, STRING)
    return [piece for each in given for piece in number(8, each)] + number(20, INTS)


def model(graph: Message, metadata: Mapping[str, str]) -> bytes:
    """ModelProto of a GraphProto."""
    found = number(1, IR) + text(2, "temper") + block(7, graph) + block(8, text(1, "") + number(2, OPSET))
    return b"".join(found + [piece for key, said in metadata.items() for piece in block(14, text(1, key) + text(2, said))])
