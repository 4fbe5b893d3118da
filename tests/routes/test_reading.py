"""JSON in the strict sense, and pydantic's errors as flaws."""

import json
import random
import time
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from service import json_text
from service.errors import DuplicateKey, Invalid, JSONTooDeep, MalformedJSON, TemperError
from service.flaws import flaws_of
from service.tricks.choices import refuse
from service.values import ITEMS, Value


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, "\\ud83d\\ude00", null, true]}', {"a": [1, 2.5, "😀", None, True]}),
        (b"[" * 32 + b"]" * 32, json.loads("[" * 32 + "]" * 32)),
        (b'["\\"[[[", "' + b"[" * 99 + b'"]', ['"[[[', "[" * 99]),
        (b"9" * 300, int("9" * 300)),
        (b"1e308", 1e308),
    ],
)
def test_json_is_read(body: bytes, value: Any) -> None:
    assert json_text.read(body) == value


@pytest.mark.parametrize(
    ("body", "error", "slug"),
    [
        (b"", MalformedJSON, "malformed-json"),
        (b'{"a": 1', MalformedJSON, "malformed-json"),
        (b"\xff", MalformedJSON, "malformed-json"),
        (b"\xef\xbb\xbf1", MalformedJSON, "malformed-json"),
        (b'{"a": NaN}', MalformedJSON, "malformed-json"),
        (b"-Infinity", MalformedJSON, "malformed-json"),
        (b"1 2", MalformedJSON, "malformed-json"),
        (b"[1,]", MalformedJSON, "malformed-json"),
        (b'"\\uDC00"', MalformedJSON, "malformed-json"),
        (b"1" * 5001, MalformedJSON, "malformed-json"),
        (b"[" * 33 + b"]" * 33, JSONTooDeep, "json-too-deep"),
        (b"[" * 200_000, JSONTooDeep, "json-too-deep"),
        (b'[{"a": 1, "b": 2, "a": 1}]', DuplicateKey, "duplicate-key"),
        (b"[1e999]", Invalid, "out-of-range"),
        (b"9" * 400, Invalid, "out-of-range"),
        (b"1" * 400 + b".0", Invalid, "out-of-range"),
        (b'{"a": ["x\\u0000"]}', Invalid, "validation-error"),
    ],
)
def test_json_is_refused(body: bytes, error: type[TemperError], slug: str) -> None:
    with pytest.raises(error) as caught:
        json_text.read(body)
    assert caught.value.slug == slug


def test_json_flaws_have_pointers() -> None:
    with pytest.raises(Invalid) as caught:
        json_text.read(b'{"a/b": [0, {"c~": 1e999}], "d": "\\u0000"}')
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/a~1b/1/c~0", "/d"]


def test_a_large_body_costs_little_more_than_parsing() -> None:
    row = [round(random.random(), 6) for _ in range(784)]
    body = json.dumps({"inputs": [row] * 1000}).encode()
    times = {}
    for read in (json.loads, json_text.read):
        began = time.process_time()
        for _ in range(3):
            read(body)
        times[read] = time.process_time() - began
    assert times[json_text.read] < 2 * times[json.loads]


class Plain(Value):
    type: Literal["plain"] = "plain"
    rate: Annotated[float, Field(ge=0)]
    widths: Annotated[tuple[int, ...], ITEMS, Field(max_length=4)] = ()


class Fancy(Value):
    type: Literal["fancy"] = "fancy"
    weight: Annotated[float, Field(gt=0)] | Literal["learned"] = 1.0


class Fractions(Value):
    validation: float = 0.1


class Lists(Value):
    rows: Annotated[tuple[int, ...], ITEMS]


class Spec(Value):
    net: Annotated[Plain | Fancy, Field(discriminator="type")]
    nets: Annotated[tuple[Annotated[Plain | Fancy, Field(discriminator="type")], ...], ITEMS] = ()
    split: Fractions | Lists | Literal["given"] = "given"
    labels: dict[str, str] = Field(default_factory=dict)


FANCY = {"type": "fancy"}


@pytest.mark.parametrize(
    ("raw", "flaws"),
    [
        ({"net": {"type": "plain"}}, [("/net/rate", "missing-field")]),
        ({"net": {"type": "plain", "rate": -1, "widths": [1, "2", True]}},
         [("/net/rate", "value-out-of-range"), ("/net/widths/1", "wrong-type"), ("/net/widths/2", "wrong-type")]),
        ({"net": {"type": "plain", "rate": 1, "widths": [1] * 5}}, [("/net/widths", "value-out-of-range")]),
        ({"net": {"type": "wrong"}}, [("/net/type", "unknown-choice")]),
        ({"net": 3}, [("/net", "wrong-type")]),
        ({"net": {**FANCY, "weight": "often"}}, [("/net/weight", "unknown-choice")]),
        ({"net": {**FANCY, "weight": -1}}, [("/net/weight", "value-out-of-range")]),
        ({"net": {**FANCY, "weight": float("inf")}}, [("/net/weight", "out-of-range")]),
        ({"net": FANCY, "nets": [FANCY, {"type": "plain", "rate": "x"}]}, [("/nets/1/rate", "wrong-type")]),
        ({"net": FANCY, "split": {"rows": [1, "a"]}}, [("/split/rows/1", "wrong-type")]),
        ({"net": FANCY, "split": "other"}, [("/split", "unknown-choice")]),
        ({"net": FANCY, "split": 3}, [("/split", "wrong-type")]),
        ({"net": FANCY, "labels": {"a/b": 1}}, [("/labels/a~1b", "wrong-type")]),
        ([], [("", "wrong-type")]),
    ],
)  # fmt: skip
def test_flaws_point_into_what_was_sent(raw: Any, flaws: list[tuple[str, str]]) -> None:
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(raw)
    assert [(flaw.pointer, flaw.code) for flaw in flaws_of(caught.value, raw, model=Spec)] == flaws


def test_an_unknown_field_names_the_nearest_one_of_its_own_kind() -> None:
    raw = {"net": {"type": "plain", "rate": 1, "with": []}}
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(raw)
    (flaw,) = flaws_of(caught.value, raw, "/spec", model=Spec)
    assert flaw[:2] == ("/spec/net/with", "unknown-field")
    assert "'widths'" in flaw.message


def test_at_most_twenty_flaws() -> None:
    raw = {"net": FANCY, "labels": {str(n): n for n in range(1000)}}
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(raw)
    assert len(flaws_of(caught.value, raw)) == 20


def test_a_validators_own_code_and_place() -> None:
    def check(value: Any) -> Any:
        raise refuse("breaks-invariance", "too far {x}", pointer="/degrees")

    adapter: TypeAdapter[Any] = TypeAdapter(dict[str, Annotated[Any, AfterValidator(check)]])
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({"rotate": {}})
    assert flaws_of(caught.value, {"rotate": {}}) == [("/rotate/degrees", "breaks-invariance", "too far {x}")]
