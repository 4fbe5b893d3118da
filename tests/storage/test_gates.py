"""What an alias may require of the version that it is to point at."""

from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from service.errors import Conflict, Invalid
from service.storage import gates
from service.storage.gates import Requirement, check


class Ran(NamedTuple):
    result: dict[str, Any] | None
    dataset_id: str = "ds_own"


class Page(NamedTuple):
    items: tuple[Ran, ...]


class Version(NamedTuple):
    """A model's row as far as gates look at it."""

    id: str = "mdl_1"
    version: int = 3
    dataset_id: str | None = "ds_own"
    metrics: dict[str, Any] = {"splits": {"test": {"accuracy": 0.93, "nll": 0.2, "auroc": None}}}  # noqa: RUF012


def result(accuracy: float = 0.7, *, epsilon: float = 2.0, reliable: bool | None = True, split: str = "test") -> dict[str, Any]:
    reasons = [] if reliable is not False else ["zero_gradients"]
    return {"split": split, "worst_case": [{"epsilon": epsilon, "accuracy": accuracy}], "reliable": reliable, "reasons": reasons}


def passes(monkeypatch: pytest.MonkeyPatch, require: dict[str, Any], *ran: Ran) -> str | None:
    """Why the gate stays shut; None: it opens."""
    monkeypatch.setattr(gates.jobs, "page", lambda *_, **__: Page(ran))
    try:
        check(None, "p", Version(), {name: Requirement.model_validate(fields) for name, fields in require.items()})  # type: ignore[arg-type]
    except Conflict as error:
        return f"{error.slug}: {error}"
    return None


PLAIN: dict[str, tuple[dict[str, Any], str | None]] = {
    "met": ({"accuracy": {"min": 0.93}}, None),
    "both bounds": ({"accuracy": {"min": 0.9, "max": 0.95}, "nll": {"max": 0.3}}, None),
    "too low": ({"accuracy": {"min": 0.94}}, "accuracy on test is 0.93, not at least 0.94"),
    "too high": ({"nll": {"max": 0.1}, "accuracy": {"min": 0.5}}, "nll on test is 0.2, not at most 0.1"),
    "not known": ({"auroc": {"min": 0.1}}, "auroc on test is not known"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_metrics(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    require, expected = PLAIN[name]
    said = passes(monkeypatch, require)
    assert (said is None) if expected is None else (str(said).startswith("alias-gate-failed") and expected in str(said))


ROBUST: dict[str, tuple[tuple[Ran, ...], str | None]] = {
    "met": ((Ran(result(0.6)),), None),
    "checks that did not run": ((Ran(result(0.6, reliable=None)),), None),
    "too low": ((Ran(result(0.59)),), "robust accuracy at epsilon 2 is 0.59, not at least 0.6"),
    "the newest decides": ((Ran(result(0.5)), Ran(result(0.9))), "is 0.5"),
    "not reliable": ((Ran(result(0.9, reliable=False)),), "not reliable: zero_gradients"),
    "another epsilon": ((Ran(result(0.9, epsilon=1.0)),), "no robustness job"),
    "other rows": ((Ran(result(0.9, split="train")),), "no robustness job"),
    "another dataset": ((Ran(result(0.9), "ds_other"),), "no robustness job"),
    "a number's errors": ((Ran({**result(), "worst_case": [{"epsilon": 2.0, "rmse": 3.0}]}),), "no robustness job"),
    "none": ((), "no robustness job"),
}


@pytest.mark.parametrize("name", ROBUST)
def test_robust_accuracy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ran, expected = ROBUST[name]
    said = passes(monkeypatch, {"robust_accuracy": {"min": 0.6, "epsilon": 2.0}}, *ran)
    assert (said is None) if expected is None else (str(said).startswith("alias-gate-failed") and expected in str(said))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such metric": ({"speed": {"min": 1}}, "/require/speed"),
    "an epsilon of accuracy": ({"accuracy": {"min": 0.5, "epsilon": 1.0}}, "/require/accuracy/epsilon"),
    "no epsilon": ({"robust_accuracy": {"min": 0.5}}, "/require/robust_accuracy/epsilon"),
    "percent": ({"accuracy": {"min": 93}}, "/require/accuracy/min"),
    "a fraction below 0": ({"robust_accuracy": {"max": -0.1, "epsilon": 1.0}}, "/require/robust_accuracy/max"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_has_its_place(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    require, place = WRONG[name]
    with pytest.raises(Invalid) as caught:
        passes(monkeypatch, require)
    assert [flaw.pointer for flaw in caught.value.flaws] == [place]


def test_a_requirement_bounds_something() -> None:
    with pytest.raises(ValidationError, match="min, max, or both"):
        Requirement.model_validate({})
    with pytest.raises(ValidationError, match="nothing is between"):
        Requirement.model_validate({"min": 0.9, "max": 0.1})
    assert Requirement.model_validate({"min": 0.5, "max": 0.5}).met(0.5)
