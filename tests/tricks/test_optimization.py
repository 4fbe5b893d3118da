"""Optimizers, schedules and clipping against their formulas."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from service.tricks.optimization import SGD, Adam, AdamW, Constant, Cosine, GradientClip, Optimizer, Schedule, StepDecay


def gradients(count: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator) for _ in range(count)]


def start() -> Tensor:
    return torch.linspace(-1, 1, 12).view(4, 3).double()


def by_hand_sgd(lr: float, momentum: float, *, nesterov: bool) -> Tensor:
    w, velocity = start(), torch.zeros(4, 3, dtype=torch.float64)
    for gradient in gradients():
        velocity = momentum * velocity + gradient.double()
        w = w - lr * (gradient.double() + momentum * velocity if nesterov else velocity)
    return w


def by_hand_adam(lr: float, betas: tuple[float, float], decay: float) -> Tensor:
    w, first, second = start(), torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    for count, gradient in enumerate(gradients(), 1):
        g = gradient.double()
        w = w * (1 - lr * decay)
        first, second = betas[0] * first + (1 - betas[0]) * g, betas[1] * second + (1 - betas[1]) * g**2
        w = w - lr * first / (1 - betas[0] ** count) / ((second / (1 - betas[1] ** count)).sqrt() + 1e-8)
    return w


OPTIMIZERS: list[tuple[Any, Tensor]] = [
    (SGD(learning_rate=0.1, momentum=0.0), by_hand_sgd(0.1, 0.0, nesterov=False)),
    (SGD(learning_rate=0.1, momentum=0.9), by_hand_sgd(0.1, 0.9, nesterov=False)),
    (SGD(learning_rate=0.1, momentum=0.9, nesterov=True), by_hand_sgd(0.1, 0.9, nesterov=True)),
    (SGD(learning_rate=0.1, momentum=0.0, nesterov=True), by_hand_sgd(0.1, 0.0, nesterov=False)),
    (Adam(learning_rate=0.01, betas=(0.8, 0.95)), by_hand_adam(0.01, (0.8, 0.95), 0.0)),
    (AdamW(learning_rate=0.01, weight_decay=0.3), by_hand_adam(0.01, (0.9, 0.999), 0.3)),
]


def test_every_optimizer_is_in_the_table() -> None:
    assert {type(optimizer) for optimizer, _ in OPTIMIZERS} == set(get_args(get_args(Optimizer)[0]))


@pytest.mark.parametrize(("spec", "expected"), OPTIMIZERS)
def test_steps_are_those_of_the_formula(spec: Any, expected: Tensor) -> None:
    w = start().float().requires_grad_(True)
    optimizer = spec.build([w], [])
    for gradient in gradients():
        w.grad = gradient
        optimizer.step()
    torch.testing.assert_close(w.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_adamw_decays_weights_alone() -> None:
    weight, bias = torch.ones(1, 1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5).build([weight], [bias])
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer.step()
    assert weight.item() == pytest.approx(0.95, abs=1e-7)
    assert bias.item() == 1.0


STEPS_PER_EPOCH, STEPS = 10, 200
# Multipliers at some steps.
SCHEDULES: list[tuple[Any, dict[int, float]]] = [
    (Constant(), {0: 1.0, 199: 1.0}),
    (StepDecay(every=5, factor=0.5), {0: 1.0, 49: 1.0, 50: 0.5, 99: 0.5, 100: 0.25, 199: 0.125}),
    (Cosine(), {0: 1.0, 50: 0.5 + 0.5 * math.cos(math.pi / 4), 100: 0.5, 200: 0.0}),
    (Cosine(final=0.2), {0: 1.0, 100: 0.6, 200: 0.2}),
    (Cosine(warmup_epochs=2), {0: 1 / 20, 9: 0.5, 19: 1.0, 20: 1.0, 110: 0.5, 200: 0.0}),
    (Cosine(warmup_epochs=0.5, final=0.1), {0: 0.2, 4: 1.0, 5: 1.0, 200: 0.1}),
    (Cosine(warmup_epochs=1000), {0: 1 / 200, 199: 1.0}),
]


def test_every_schedule_is_in_the_table() -> None:
    assert {type(schedule) for schedule, _ in SCHEDULES} == set(get_args(get_args(Schedule)[0]))


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
def test_multipliers(schedule: Any, expected: dict[int, float]) -> None:
    found = {step: schedule.multiplier(step, steps_per_epoch=STEPS_PER_EPOCH, steps=STEPS) for step in expected}
    assert found == pytest.approx(expected, abs=1e-12)


def test_cosine_never_rises_after_its_warm_up() -> None:
    schedule = Cosine(final=0.05, warmup_epochs=3)
    values = [schedule.multiplier(step, steps_per_epoch=STEPS_PER_EPOCH, steps=STEPS) for step in range(STEPS + 1)]
    assert values[:30] == sorted(values[:30])
    assert values[30:] == sorted(values[30:], reverse=True)
    assert min(values[29:]) == pytest.approx(0.05)
    assert max(values) == 1.0


def test_clipping_scales_the_whole_gradient() -> None:
    first, second = torch.zeros(2, 2, requires_grad=True), torch.zeros(1, requires_grad=True)
    for size in (0.5, 2.0, 1000.0):
        first.grad, second.grad = torch.full((2, 2), size), torch.full((1,), -size)
        GradientClip(norm=1.5)([first, second])
        length = 5**0.5 * size
        scale = min(1.0, 1.5 / length)
        torch.testing.assert_close(first.grad, torch.full((2, 2), size * scale), rtol=2e-6, atol=0)
        torch.testing.assert_close(second.grad, torch.full((1,), -size * scale), rtol=2e-6, atol=0)
