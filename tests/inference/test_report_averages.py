"""The report's `ensemble`, `dropout` and `uncertainty`, and the rows that bagged members keep, on models made by hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from service.inference import bags, dropout_report, report
from service.inference.asking import ask
from service.inference.ensemble_report import ensemble
from service.inference.measuring import Inquiry
from service.tricks.dropout import disconnected
from service.tricks.modes import Asking
from service.tricks.splits import Parts
from workers.training.checkpointing import pack

KIND = {"task": "classification", "name": "kind"}
NUMBER = {"task": "regression", "name": "size"}
GAUSSIAN = {"task": "regression", "name": "size", "loss": "gaussian_nll"}
TARGETS = pytest.mark.parametrize(
    "targets", [[KIND], [NUMBER], [GAUSSIAN], [KIND, GAUSSIAN]], ids=["classes", "numbers", "gaussian", "both"]
)
BAGGED = {"ensemble": {"size": 4, "bootstrap": True}}


def labels(rows: int, missing: int = 0) -> dict[str, Any]:
    stream = np.random.default_rng(0)
    kind, size = stream.integers(0, 3, rows), stream.normal(5, 3, rows)
    kind[:missing], size[:missing] = -1, np.nan
    return {"kind": kind, "size": size}


def inquiry_of(bench: Any, *targets: Any, rows: int = 60, train: int = 30, missing: int = 0, **fields: Any) -> Inquiry:
    """A model on rows of which the first ones are the training part and the others the test part."""
    model, x = bench.model(*targets, **fields), bench.inputs(rows)
    material = bench.material(model, x, labels(rows, missing))
    return Inquiry(model, replace(material, parts=Parts(np.arange(train), np.arange(0), np.arange(train, rows))))


def summaries_of(members: Any, **more: Any) -> list[dict[str, Any]]:
    kept = {"best": 0.0, "best_epoch": 1, "best_step": 10, "stopped_epoch": 1, "stop_reason": "epochs"}
    return [{"member": member, **kept, **more} for member in members]


def measured(inquiry: Inquiry, **more: Any) -> dict[str, Any]:
    return report.build(inquiry, summaries_of(range(inquiry.model.size), **more))


# --- ensemble -------------------------------------------------------------------------------------------------------


@TARGETS
def test_the_ensembles_formula_holds_to_nine_digits(bench: Any, targets: Any) -> None:
    found = measured(inquiry_of(bench, *targets, hidden=[5], size=4), stopped_step=30)["ensemble"]
    assert found["target"] == targets[0]["name"]
    assert found["error"] == ("brier" if targets[0] is KIND else "mse")
    assert found["v"] / 4 + 3 * found["c"] / 4 == pytest.approx(found["measured_error"], rel=1e-9)
    assert found["mean_member_error"] - found["ambiguity"] == pytest.approx(found["measured_error"], rel=1e-9)
    assert np.mean(found["member_errors"]) == pytest.approx(found["v"], rel=1e-12)
    assert [row["k"] for row in found["by_size"]] == [1, 2, 3, 4]
    assert found["by_size"][0]["measured"] == pytest.approx(found["member_errors"][0], rel=1e-12)
    for key in ("measured", "predicted"):
        assert found["by_size"][-1][key] == pytest.approx(found["measured_error"], rel=1e-9)
    assert found["out_of_bag"] is found["out_of_bag_rows"] is None


@TARGETS
def test_the_best_member_and_what_averaging_costs(bench: Any, targets: Any) -> None:
    inquiry = inquiry_of(bench, *targets, hidden=[5], size=4)
    steps = [30, 40, 50, 60]
    summaries = [{**summary, "stopped_step": step} for summary, step in zip(summaries_of((0, 2, 5, 7)), steps, strict=True)]
    built = report.build(inquiry, summaries)
    found, prefix = built["ensemble"], "" if len(targets) == 1 else f"{targets[0]['name']}."
    each = [member[prefix + found["error"]] for member in built["members"]]
    place = int(np.argmin(each))
    best = found["best_member"]
    assert best["member"] == (0, 2, 5, 7)[place], "its number in the job"
    assert best["error"] == pytest.approx(each[place], rel=1e-6)
    assert best["ensemble_better"]["difference"] == pytest.approx(best["error"] - found["measured_error"], rel=1e-6, abs=1e-9)
    assert best["ensemble_better"]["low"] <= best["ensemble_better"]["difference"] <= best["ensemble_better"]["high"]
    own = sum(parameter.numel() for parameter in inquiry.model.networks[0].parameters())
    assert found["cost"] == {
        "parameters": {"member": own, "ensemble": 4 * own},
        "forward_passes": {"member": 1, "ensemble": 4},
        "training_steps": {"member": steps[place], "ensemble": 180},
    }
    assert measured(inquiry)["ensemble"]["cost"]["training_steps"] is None, "steps that were not kept are not made up"


def test_both_likelihoods_of_a_gaussian_ensemble(bench: Any) -> None:
    built = measured(inquiry_of(bench, GAUSSIAN, hidden=[5], size=4))
    found, modes = built["ensemble"]["likelihood"], built["modes"]["ensemble"]
    assert (found["nll"], found["nll_mixture"]) == (modes["nll"], modes["nll_mixture"])
    assert found["nll"] != found["nll_mixture"]
    assert found["mean_member_nll"] == pytest.approx(np.mean([member["nll"] for member in built["members"]]), rel=1e-12)
    assert found["nll_mixture"] <= found["mean_member_nll"]
    classes = measured(inquiry_of(bench, hidden=[5], size=4))["ensemble"]["likelihood"]
    assert classes["nll_mixture"] is None
    assert classes["nll"] <= classes["mean_member_nll"]
    assert measured(inquiry_of(bench, NUMBER, hidden=[5], size=4))["ensemble"]["likelihood"] is None


def test_no_ensemble_of_one_or_without_a_labelled_test_row(bench: Any) -> None:
    assert measured(inquiry_of(bench, hidden=[5]))["ensemble"] is None
    assert measured(inquiry_of(bench, hidden=[5], size=2, missing=60))["ensemble"] is None
    untested = inquiry_of(bench, hidden=[5], size=2, rows=30)
    assert ensemble(untested, summaries_of(range(2)), []) is None


# --- out of bag -----------------------------------------------------------------------------------------------------


@TARGETS
def test_stored_rows_are_those_of_training_and_answers_are_of_members_that_never_saw_them(bench: Any, targets: Any) -> None:
    inquiry = inquiry_of(bench, *targets, hidden=[5], size=4, spec=BAGGED, missing=3)
    members, spec, train = (0, 1, 4, 9), inquiry.model.spec, inquiry.parts["train"]
    content = pack(bags.tensors(inquiry, members))
    assert content == pack(bags.tensors(inquiry, members))
    stored, rows = load(content), bags.rows_of(content)
    assert [*sorted(rows)] == [*members]
    for member in members:
        assert np.array_equal(rows[member], spec.ensemble.rows(member, train, seed=spec.seed))
    x = inquiry.material.rows(train)[0].float()
    covered = stored["out_of_bag.rows"].tolist()
    assert 0 < len(covered) < len(train)
    for i, target in enumerate(spec.targets):
        said = [ask(inquiry.model, x, Asking(members=place).axes(inquiry.model))[target.name] for place in range(4)]
        each = [answer.probabilities if target.task == "classification" else answer.mean for answer in said]
        for at, row in enumerate(covered):
            unseen = [each[place][row] for place, member in enumerate(members) if row not in rows[member]]
            assert stored["out_of_bag.members"][at] == len(unseen)
            assert torch.allclose(stored[f"out_of_bag.answers.{i}"][at].double(), torch.stack(unseen).double().mean(0), rtol=1e-5)
    found = report.build(inquiry, summaries_of(members))["ensemble"]
    about = found["out_of_bag_rows"]
    assert about["rows"] + about["excluded"] + about["unlabelled"] == len(train)
    assert about["unlabelled"] == 3
    assert about["rows"] == sum(row >= 3 for row in covered)
    assert about["unseen"] == pytest.approx(np.mean([1 - len(np.unique(rows[member])) / len(train) for member in members]))
    known = torch.tensor([row >= 3 for row in covered])
    answers = stored["out_of_bag.answers.0"][known].double().numpy()
    rows_known = stored["out_of_bag.rows"][known].numpy()
    if targets[0] is KIND:
        truth = np.eye(3)[inquiry.material.labels["kind"][rows_known]]
        expected = ((answers - truth) ** 2).sum(1).mean()
    else:
        expected = ((answers - inquiry.material.originals["size"][rows_known]) ** 2).mean()
    assert found["out_of_bag"] == pytest.approx(expected, rel=1e-5)


def test_a_share_of_the_rows_is_stored_and_all_rows_are_not(bench: Any) -> None:
    share = inquiry_of(bench, hidden=[5], size=2, spec={"ensemble": {"size": 2, "fraction": 0.5}})
    found = bags.tensors(share, (0, 1))
    assert {*found} == {"members.0.rows", "members.1.rows"}
    assert all(len(rows) == 15 for rows in found.values())
    assert bags.tensors(inquiry_of(bench, hidden=[5], size=2), (0, 1)) == {}


def test_one_bagged_member_answers_what_it_did_not_see(bench: Any) -> None:
    inquiry = inquiry_of(bench, hidden=[5], spec={"ensemble": {"size": 1, "bootstrap": True}})
    found = bags.tensors(inquiry, (0,))
    assert np.array_equal(found["out_of_bag.rows"], np.setdiff1d(np.arange(30), found["members.0.rows"]))
    p = ask(inquiry.model, inquiry.material.rows(found["out_of_bag.rows"].numpy())[0], Asking().axes(inquiry.model))["kind"].probabilities
    assert torch.allclose(found["out_of_bag.answers.0"].double(), p, atol=1e-6)


def test_where_every_member_saw_every_row(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inquiry = inquiry_of(bench, hidden=[5], size=2, rows=40, train=1, spec={"ensemble": {"size": 2, "bootstrap": True}})
    found = measured(inquiry)["ensemble"]
    assert found["out_of_bag"] is None
    assert (found["out_of_bag_rows"]["rows"], found["out_of_bag_rows"]["excluded"]) == (0, 1)
    assert {*bags.tensors(inquiry, (0, 1))} == {"members.0.rows", "members.1.rows"}


# --- dropout --------------------------------------------------------------------------------------------------------


def test_gaps_between_all_averages(bench: Any) -> None:
    """The last hidden layer alone is dropped: weight scaling is the geometric mean over all masks, and no other."""
    inquiry = inquiry_of(bench, hidden=[6], dropout=0.5)
    found = measured(inquiry)["dropout"]
    names = ("weight_scaled", "arithmetic", "geometric", "exact", "exact_geometric")
    gaps = {frozenset(pair["between"]): pair["gap"] for pair in found["gaps"]}
    assert {*gaps} == {frozenset((a, b)) for a in names for b in names if a != b}
    x = inquiry.material.rows(inquiry.parts["test"])[0]
    asked = {
        "weight_scaled": Asking(mode="weight_scaled"), "arithmetic": Asking(mode="monte_carlo"), "exact": Asking(mode="exact"),
        "geometric": Asking(mode="monte_carlo", combine="geometric"), "exact_geometric": Asking(mode="exact", combine="geometric"),
    }  # fmt: skip
    said = {name: ask(inquiry.model, x, asking.axes(inquiry.model))["kind"].probabilities for name, asking in asked.items()}
    for pair, gap in gaps.items():
        a, b = pair
        assert gap == pytest.approx(float((said[a] - said[b]).abs().mean()), rel=1e-6, abs=1e-9)
    assert gaps[frozenset(("weight_scaled", "exact_geometric"))] < 1e-6 < 1e-3 < gaps[frozenset(("weight_scaled", "exact"))]
    assert found["gap"] == gaps[frozenset(("weight_scaled", "arithmetic"))]
    assert found["disconnected"] == pytest.approx(0.5**6)
    for name in names:
        assert found["convergence"].get(name) == (None if name == "arithmetic" else pytest.approx(found[name]["brier"], rel=1e-6))


def test_rates_of_units_are_in_the_report(bench: Any) -> None:
    """Of 20 units four can be dropped, so that all masks are enumerated; one layer is never lost, the other seldom."""
    rates = [[0.0] * 17 + [0.5, 0.9, 0.2], [0.0, 0.6]]
    found = measured(inquiry_of(bench, hidden=[20, 2], dropout={"hidden": rates}))["dropout"]
    assert found["exact"]["accuracy"] is not None
    assert found["disconnected"] == 0.0
    lossy = inquiry_of(bench, hidden=[3], dropout={"hidden": [[0.5, 0.9, 0.2]]})
    assert measured(lossy)["dropout"]["disconnected"] == pytest.approx(0.5 * 0.9 * 0.2)
    gaps = {frozenset(pair["between"]): pair["gap"] for pair in measured(lossy)["dropout"]["gaps"]}
    assert gaps[frozenset(("weight_scaled", "exact_geometric"))] < 1e-6 < gaps[frozenset(("weight_scaled", "exact"))]


@TARGETS
def test_the_way_of_sampling_is_in_the_report(bench: Any, targets: Any) -> None:
    built = measured(inquiry_of(bench, *targets, hidden=[20], dropout={"input": 0.1, "hidden": 0.5}, size=2))
    found, way = built["dropout"], built["dropout"]["convergence"]
    assert found["exact"] is found["exact_geometric"] is None, "24 units are too many to enumerate"
    assert (found["geometric"] is None) == all(target["task"] == "regression" for target in targets)
    assert [row["samples"] for row in way["by_samples"]] == [1, 2, 5, 10, 20, 50, 100]
    assert (way["rows"], way["masks"]) == (30, 100)
    last = way["by_samples"][-1]
    assert last["measured"] == pytest.approx(last["predicted"], rel=1e-9)
    assert last["low"] < way["limit"] < last["high"]
    json.dumps(built, allow_nan=False)


def test_the_way_is_looked_at_on_a_bounded_number_of_rows(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inquiry = inquiry_of(bench, hidden=[6], dropout=0.5, rows=100, missing=50)
    whole = dropout_report.dropout(inquiry)["convergence"]
    assert whole["rows"] == 50, "those with a label"
    monkeypatch.setattr(dropout_report, "MOST_ROWS", 20)
    some = dropout_report.dropout(inquiry)["convergence"]
    assert 1 <= some["rows"] <= 20
    assert some == dropout_report.dropout(inquiry)["convergence"], "the same rows every time"
    assert some["weight_scaled"] != whole["weight_scaled"], "measured on the same rows as the masks"
    assert dropout_report.dropout(inquiry_of(bench, hidden=[6], dropout=0.5, missing=60))["convergence"] is None


def test_no_closed_form_with_shortcuts(bench: Any) -> None:
    plain = inquiry_of(bench, hidden=[4, 4, 4], dropout=0.5)
    assert dropout_report.cut_off(plain) == disconnected(plain.model.networks[0].sites) == pytest.approx(1 - (1 - 0.5**4) ** 3)
    assert dropout_report.cut_off(inquiry_of(bench, hidden=[4, 4, 4], residual=True, dropout=0.5)) is None
    assert measured(inquiry_of(bench, hidden=[4]))["dropout"] is None


# --- uncertainty ----------------------------------------------------------------------------------------------------


def test_uncertainty_by_mode_and_target(bench: Any) -> None:
    inquiry = inquiry_of(bench, KIND, GAUSSIAN, hidden=[6], dropout=0.3, size=3)
    found = measured(inquiry)["uncertainty"]
    assert {*found} == {"single", "weight_scaled", "monte_carlo", "exact", "ensemble"}
    for said in found.values():
        kind, size = said["kind"], said["size"]
        if kind["epistemic"] is not None:
            assert kind["total"] == pytest.approx(kind["aleatoric"] + kind["epistemic"], rel=1e-9)
            assert size["std"] >= size["aleatoric_std"]
    alone = found["single"]
    assert alone["kind"]["epistemic"] is alone["kind"]["agreement"] is alone["size"]["epistemic_std"] is None
    assert alone["kind"]["total"] == alone["kind"]["aleatoric"]
    assert found["ensemble"]["kind"]["epistemic"] > 0
    assert found["ensemble"]["size"]["epistemic_std"] > 0
    x = inquiry.material.rows(inquiry.parts["test"])[0]
    answer = ask(inquiry.model, x, Asking(mode="ensemble").axes(inquiry.model))
    assert found["ensemble"]["kind"]["total"] == pytest.approx(float(answer["kind"].total.mean()), rel=1e-9)
    assert found["ensemble"]["size"]["epistemic_std"] == pytest.approx(float(answer["size"].epistemic.sqrt().mean()), rel=1e-9)


def test_the_noise_is_unknown_where_the_loss_says_nothing_of_it(bench: Any) -> None:
    one = measured(inquiry_of(bench, NUMBER, hidden=[5]))["uncertainty"]["single"]["size"]
    assert one == {"std": None, "aleatoric_std": None, "epistemic_std": None}
    many = measured(inquiry_of(bench, NUMBER, hidden=[5], size=3))["uncertainty"]["ensemble"]["size"]
    assert many["aleatoric_std"] is None
    assert many["std"] == many["epistemic_std"] > 0
