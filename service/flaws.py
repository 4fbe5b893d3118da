"""From pydantic's validation errors to flaws: JSON pointers without union tags, stable codes, sentences that help."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.errors import Flaw

MOST = 20
TAGS = ("type", "task", "method", "kind")
LONGEST = 160

CODES = {
    "extra_forbidden": "unknown-field",
    "missing": "missing-field",
    "union_tag_not_found": "missing-field",
    "union_tag_invalid": "unknown-choice",
    "literal_error": "unknown-choice",
    "enum": "unknown-choice",
    "finite_number": "out-of-range",
    "greater_than": "value-out-of-range",
    "greater_than_equal": "value-out-of-range",
    "less_than": "value-out-of-range",
    "less_than_equal": "value-out-of-range",
    "multiple_of": "value-out-of-range",
    "too_short": "value-out-of-range",
    "string_too_short": "value-out-of-range",
    "too_long": "value-out-of-range",
    "string_too_long": "value-out-of-range",
    "value_error": "inconsistent-spec",
}
WORDS = (
    (re.compile(r"a valid (dictionary|mapping)( or (instance of \w+|object to extract fields from))?"), "an object"),
    (re.compile(r"a valid (tuple|list|array)"), "a list"),
    (re.compile(r"^Tuple"), "List"),
)


class _Line(NamedTuple):
    """One of pydantic's errors, placed: the path in what was sent, and the branch of a union that raised it."""

    path: tuple[str | int, ...]
    fork: tuple[str | int, ...] | None
    """Where the outermost union forks, or None outside of unions."""
    branch: str
    error: ErrorDetails


def pointer(*path: str | int) -> str:
    """The JSON pointer (RFC 6901) to a path of keys and positions."""
    return "".join("/" + cut(str(step), 80).replace("~", "~0").replace("/", "~1") for step in path)


def cut(text: str, most: int = LONGEST) -> str:
    """The text with control and lone surrogate characters escaped, cut to at most that many characters."""
    shown = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def quoted(value: Any, most: int = 40) -> str:
    """A value of a request as JSON has it, cut to at most that many characters."""
    return cut(json.dumps(value, ensure_ascii=False, default=repr), most)


def flaws_of(error: ValidationError, raw: Any, prefix: str = "", *, model: Any = None) -> list[Flaw]:
    """At most 20 flaws, one per place, of what pydantic refused in `raw`.

    `prefix` is put before every pointer; `model` (a model or an annotation) lets unknown fields name the nearest known one.
    A validator's PydanticCustomError gives its own code, and in its context's `pointer` a place below its field.
    """
    placed = [_placed(details, raw) for details in error.errors(include_url=False, include_input=False)]
    # A list whose items are all refused counts as empty: that says nothing that its items do not say.
    lines = [line for line in placed if line.error["type"] != "too_short" or not any(_below(other.path, line.path) for other in placed)]
    flaws: dict[str, Flaw] = {}
    for line in _chosen(lines):
        where = prefix + pointer(*line.path) + str(line.error.get("ctx", {}).get("pointer", ""))
        code, message = _said(line, raw, model)
        flaws.setdefault(where, Flaw(where, code, cut(message, 300)))
        if len(flaws) == MOST:
            break
    return list(flaws.values())


def _below(path: tuple[str | int, ...], above: tuple[str | int, ...]) -> bool:
    return len(path) > len(above) and path[: len(above)] == above


def _placed(error: ErrorDetails, raw: Any) -> _Line:
    """The error's path along `raw`: tags and names of union members, which are not in it, are left out."""
    node, path, fork, branch, entered = raw, [], None, "", True
    loc = error["loc"]
    for place, step in enumerate(loc):
        last = place == len(loc) - 1
        if isinstance(node, Mapping):
            tag = entered and step in [node.get(tag) for tag in TAGS]
            entered = False
            if not tag and (step in node or (last and error["type"] == "missing")):
                node, entered = node.get(step), True
                path.append(step)
                continue
        elif isinstance(node, Sequence) and not isinstance(node, str) and isinstance(step, int) and step < len(node):
            node, entered = node[step], True
            path.append(step)
            continue
        if fork is None and not (isinstance(node, Mapping) and step in [node.get(tag) for tag in TAGS]):
            fork, branch = tuple(path), str(step)
    if error["type"] == "literal_error" and not isinstance(node, str):
        error["type"] = "literal_type"
    if error["type"].startswith("union_tag"):
        path.append(str(error["ctx"]["discriminator"]).strip("'"))
    return _Line(tuple(path), fork, branch, error)


def _chosen(lines: Iterable[_Line]) -> list[_Line]:
    """Of each union the branch that came nearest to fitting; all errors outside unions."""
    forks: dict[tuple[str | int, ...], dict[str, list[_Line]]] = {}
    kept: list[_Line | tuple[str | int, ...]] = []
    for line in lines:
        if line.fork is None:
            kept.append(line)
            continue
        if line.fork not in forks:
            kept.append(line.fork)
        forks.setdefault(line.fork, {}).setdefault(line.branch, []).append(line)
    chosen: list[_Line] = []
    for entry in kept:
        chosen.extend([entry] if isinstance(entry, _Line) else _nearest(entry, list(forks[entry].values())))
    return chosen


def _nearest(fork: tuple[str | int, ...], branches: list[list[_Line]]) -> list[_Line]:
    """The errors of the branch that got deepest, with fewest strange fields; else of the one whose type fits; else of all in one."""

    def rank(lines: list[_Line]) -> tuple[int, int, int]:
        codes = [_code(line.error) for line in lines]
        if any(len(line.path) > len(fork) for line in lines):
            return 0, sum(code in ("unknown-field", "missing-field") for code in codes), len(lines)
        return (3 if "wrong-type" in codes else 2 if "unknown-choice" in codes else 1), 0, len(lines)

    best = min(branches, key=rank)
    if rank(best)[0] < 2:
        return best
    texts = dict.fromkeys(_plain(line.error["msg"]).removeprefix("Input should be ") for lines in branches for line in lines)
    merged = best[0].error.copy()
    merged["msg"] = "Input should be " + " or ".join(texts)
    return [best[0]._replace(error=merged)]


def _code(error: ErrorDetails) -> str:
    """The flaw's code: what a validator of ours gave (its codes have hyphens, pydantic's have none)."""
    kind = error["type"]
    if "-" in kind:
        return kind
    return CODES.get(kind, "wrong-type" if kind.endswith(("_type", "_parsing")) else "value-out-of-range")


def _plain(message: str) -> str:
    """Pydantic's sentence in JSON's words."""
    for pattern, words in WORDS:
        message = pattern.sub(words, message)
    return message


def _said(line: _Line, raw: Any, model: Any) -> tuple[str, str]:
    """The code and the sentence of one error."""
    error, context = line.error, line.error.get("ctx", {})
    code = _code(error)
    if code == error["type"]:
        return code, error["msg"]
    if code == "unknown-field":
        return code, _unknown(line.path, raw, model)
    if code == "missing-field":
        return code, "this field is required"
    if error["type"] == "union_tag_invalid":
        return code, f"{cut(repr(context['tag']), 80)} is none of {context['expected_tags']}"
    if error["type"] == "value_error":
        return code, str(context["error"])
    return code, _plain(error["msg"])


def _unknown(path: tuple[str | int, ...], raw: Any, model: Any) -> str:
    """What to say of an unknown field: the nearest known name, or all where none is near."""
    known = sorted(_fields(path[:-1], raw, model))
    near = get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"there is no such field; did you mean {near[0]!r}?"
    return "there is no such field" + (f"; there are {', '.join(known)}" if known else "")


def _fields(path: tuple[str | int, ...], raw: Any, model: Any) -> set[str]:
    """The names that the object at `path` may have, found by walking the annotations beside what was sent."""
    models, node = _fitting(_models(model), raw), raw
    for step in path:
        node = node[step]
        if isinstance(step, str):
            inner = [each.model_fields[step].annotation for each in models if step in each.model_fields]
            models = [found for annotation in inner for found in _models(annotation)]
        models = _fitting(models, node)
    return {field.alias or name for each in models for name, field in each.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model named in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


def _fitting(models: list[type[BaseModel]], node: Any) -> list[type[BaseModel]]:
    """The models whose tag is the object's; all where none has a tag of it."""
    if not isinstance(node, Mapping):
        return models
    tagged = [
        each
        for each in models
        for tag in TAGS
        if tag in node and tag in each.model_fields and node[tag] in get_args(each.model_fields[tag].annotation)
    ]
    return tagged or models
