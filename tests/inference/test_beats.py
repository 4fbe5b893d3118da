"""Long evaluations say that they go on: before every pass of every network, so that no supervisor takes them for a stall."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.inference import report
from service.inference.curves import curve
from service.inference.measuring import Inquiry
from service.inference.robustness import Subject
from service.nets.network import Network
from service.tricks.attacks import FGSM, PGD, UniformNoise
from service.tricks.modes import Asking
from service.tricks.splits import Parts

DROPS = {"hidden": [4], "dropout": {"input": 0.25, "hidden": 0.5}}
NUMBER = {"task": "regression", "name": "size"}


class Told(list[str]):
    """What happened, in order: `beat`, and `pass` of a network."""

    def beat(self) -> None:
        self.append("beat")

    @property
    def silence(self) -> int:
        """The most passes without a beat."""
        return max(map(len, "".join("p" if each == "pass" else " " for each in self).split()), default=0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told, plain = Told(), Network.distributions

    def heard(self: Network, *arguments: Any) -> Any:
        told.append("pass")
        return plain(self, *arguments)

    monkeypatch.setattr(Network, "distributions", heard)
    return told


@pytest.mark.parametrize("target", [{"task": "classification", "name": "kind"}, NUMBER])
def test_a_report_beats_before_every_pass(bench: Any, told: Told, target: Any) -> None:
    augmentation = [{"type": "gaussian_noise", "std": 0.1}]
    model, x = bench.model(target, **DROPS, size=3, spec={"augmentation": augmentation}), bench.inputs(12)
    parts = Parts(np.arange(4), np.arange(4, 8), np.arange(8, 12))
    material = replace(bench.material(model, x, {"kind": [0, 1, 2] * 4, "size": list(range(12))}), parts=parts)
    kept = {"best": None, "best_epoch": 1, "best_step": 1, "stopped_epoch": 1, "stop_reason": "epochs"}
    report.build(Inquiry(model, material, told.beat), [{"member": i, **kept} for i in range(3)])
    assert told.count("pass") > 5
    assert told.silence == 1


@pytest.mark.parametrize("mode", ["ensemble", "monte_carlo", "exact"])
@pytest.mark.parametrize("target", [{"task": "classification", "name": "kind"}, NUMBER])
def test_an_attack_beats_before_every_pass(bench: Any, told: Told, target: Any, mode: str) -> None:
    model, x = bench.model(target, **DROPS, size=3), bench.inputs(12)
    labels = bench.said(model, x).mean if target is NUMBER else bench.said(model, x).prediction
    told.clear()
    subject = Subject(model, Asking(mode=mode, samples=4).axes(model), x, labels, beat=told.beat)
    for attack in (UniformNoise(epsilon=0.0), FGSM(epsilon=0.0), PGD(epsilon=0.0, steps=3)):
        curve(subject, attack, (0.0, 0.2))
    assert told.count("pass") > 10
    assert told.silence == 1
