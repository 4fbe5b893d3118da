"""JSON as RFC 8259 has it and nothing more, with pointers to what JSON allows and we refuse."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from service.errors import DuplicateKey, Flaw, Invalid, JSONTooDeep, MalformedJSON
from service.flaws import MOST, pointer

DEPTH = 32
LARGEST = sys.float_info.max
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# Every digit becomes 0 and E becomes e, so that numbers beyond a double are found by plain search.
SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read(body: bytes) -> Any:
    """The value in `body`; floats and short integers are read at C speed.

    Raises MalformedJSON (not UTF-8, a byte order mark, NaN, more than one value, an integer of over 4,300 digits, a lone
    surrogate), JSONTooDeep, DuplicateKey, and Invalid for numbers no double holds (`out-of-range`) and NUL in strings.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"The body is not UTF-8: byte {error.start} is wrong.") from error
    if text.startswith("\ufeff"):
        raise MalformedJSON("The body starts with a byte order mark.")
    if body.count(b"[") + body.count(b"{") > DEPTH:
        _check_depth(body)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise MalformedJSON(f"{error.msg} at line {error.lineno}, column {error.colno}.") from error
    except ValueError as error:
        raise MalformedJSON("A number has too many digits.") from error
    if _may_be_huge(body) or SUSPECT.search(body):
        _check_values(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise DuplicateKey(f"An object names {pointer(twice)[1:]!r} twice.")
    return members


def _constant(name: str) -> NoReturn:
    raise MalformedJSON(f"{name} is not a JSON value.")


def _check_depth(body: bytes) -> None:
    """Raises JSONTooDeep, judged before parsing: a parser's own recursion must never be reached."""
    brackets = np.frombuffer(STRING.sub(b"", body).translate(None, NOT_BRACKETS), dtype=np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    if brackets.size and np.cumsum(np.where(opening, 1, -1), dtype=np.int32).max() > DEPTH:
        raise JSONTooDeep(f"Arrays and objects nest deeper than {DEPTH}.")


def _may_be_huge(body: bytes) -> bool:
    """Whether a number may exceed what a double holds: it takes an exponent of three digits, or hundreds of digits."""
    shape = body.translate(SHAPE)
    return b"e000" in shape or b"e+000" in shape or b"0" * 200 in shape


def _check_values(value: Any) -> None:
    flaws: list[Flaw] = []
    for path, leaf in _leaves(value, ()):
        if isinstance(leaf, int | float):
            if abs(leaf) > LARGEST:
                flaws.append(Flaw(pointer(*path), "out-of-range", "the number is larger than a double holds"))
        elif any("\ud800" <= mark <= "\udfff" for mark in leaf):
            raise MalformedJSON("A string holds half of a surrogate pair.")
        elif "\0" in leaf:
            flaws.append(Flaw(pointer(*path), "nul-character", "a string holds the character NUL"))
        if len(flaws) == MOST:
            break
    if flaws:
        raise Invalid(flaws)


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int | float | str]]:
    """Every number, string and key below `value` with its path."""
    if isinstance(value, (int, float, str)):
        yield path, value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield (*path, key), key
            yield from _leaves(member, (*path, key))
    elif isinstance(value, list):
        for place, member in enumerate(value):
            yield from _leaves(member, (*path, place))
