"""What changes during training, as one value that goes into a checkpoint and back bit by bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.inference.material import Material
from service.nets.network import Network, is_weight, stack
from service.tricks.dropout import Sampled
from service.tricks.stopping import Patience, Second
from workers.training.batches import batch_rows
from workers.training.guard import GOOD, Guard

BEST = "best."
"""What the names of the best weights begin with in a checkpoint."""
MOMENTS = "best-optimizer."
"""What the names of the optimizer's state at the best weights begin with."""
KEPT = "best"
"""What both begin with: nobody writes to them again."""
STREAMS = ("order", "masks", "adversarial")
"""The members' random streams during training; with gates there is one more, `gates`."""


@dataclass(eq=False)
class Member:
    """What is a member's own beside its weights: random streams, early stopping's progress, best weights, curves."""

    number: int
    streams: dict[str, torch.Generator]
    patience: Patience = field(default_factory=Patience)
    best: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    """The optimizer's state at the best weights, `<parameter's place>.<name>`, where training goes on from there."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """The series of the learning curves, one value an epoch."""
    reason: str | None = None
    """Why its training ended."""
    second: Second | None = None
    """Its second phase, while it is in it."""
    early: dict[str, Any] | None = None
    """Its gradients early in training, once that was."""
    guard: Guard = field(default_factory=Guard)
    """What `fast` adversarial training goes back to."""

    def capture(self) -> dict[str, Any]:
        """All but weights, as tensors and plain values."""
        streams = {name: stream.get_state() for name, stream in self.streams.items()}
        second = dict(vars(self.second)) if self.second is not None else None
        return {
            "number": self.number, "streams": streams, "patience": dict(vars(self.patience)), "history": self.history, "second": second,
            "guard": self.guard.capture(), "early": self.early,
        }  # fmt: skip

    def restore(self, captured: dict[str, Any]) -> None:
        """Take over what `capture` gave."""
        for name, stream in self.streams.items():
            if name in captured["streams"]:  # an older release's checkpoint has not all of them, and drew nothing from the others
                stream.set_state(captured["streams"][name])
        self.patience, self.history = Patience(**captured["patience"]), captured["history"]
        self.second = Second(**captured["second"]) if captured.get("second") is not None else None
        self.guard, self.early = Guard(**captured.get("guard", {})), captured.get("early")


@dataclass
class Run:
    """Members that train in step: their weights, optimizer, place in the epoch, and what each has for itself.

    One member by itself has a network of its own; a stack's parameters, optimizer's moments, batches and losses have the
    members as their leading axis.
    """

    members: list[Member]
    network: Network
    optimizer: torch.optim.Optimizer
    gate: Sampled
    order: Tensor | None = None
    """The order of the epoch under way, [n] or [K, n], or None between epochs."""
    position: int = 0
    """Batches of the epoch that are done."""
    epoch: int = 0
    step: int = 0
    loss: Tensor | None = None
    """The sum over the epoch's rows so far, [] or [K]."""
    settle: Callable[[], None] | None = None
    """Waits for whoever still reads the weights and the optimizer's state."""

    @property
    def only(self) -> Member:
        """The member of a run of one."""
        (member,) = self.members
        return member

    @property
    def second(self) -> Second | None:
        """The second phase of its only member, None in the first; a stack never has one."""
        return self.members[0].second

    @property
    def reason(self) -> str | None:
        """Why training ended, once it has for all members."""
        return self.members[0].reason if all(member.reason is not None for member in self.members) else None

    def end(self, reason: str) -> None:
        """End the training of whoever still trains."""
        for member in self.members:
            member.reason = member.reason or reason

    def streams(self, name: str) -> list[torch.Generator]:
        """The members' random streams of that name."""
        return [member.streams[name] for member in self.members]

    def learned(self, place: int) -> dict[str, Tensor]:
        """The present weights of the member at that place."""
        learned = self.network.learned()
        return learned if self.network.members is None else {name: tensor[place] for name, tensor in learned.items()}

    def state(self, place: int) -> dict[str, Tensor]:
        """Weights of the member at that place, and its optimizer's moments as `<number of the parameter>/<name>`, where they lie."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments = {
            f"{i}/{name}": value if self.network.members is None else value[place]
            for i, parameter in enumerate(parameters)
            for name, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }
        return {**self.learned(place), **moments}

    def keep_best(self, place: int, *, moments: bool = False) -> None:
        """Remember the present weights of the member at that place, in memory of their own: a checkpoint may hold the last ones.

        `moments`: and the optimizer's state.
        """
        if moments:
            self._keep_moments(place)
        self.members[place].best = {name: tensor.detach().clone() for name, tensor in self.learned(place).items()}

    def _keep_moments(self, place: int) -> None:
        shapes = [parameter.shape for group in self.optimizer.param_groups for parameter in group["params"]]
        self.members[place].moments = {
            f"{i}.{name}": (value[place] if self.network.members is not None and value.shape == shapes[i] else value).clone()
            for i, held in self.optimizer.state_dict()["state"].items()
            for name, value in held.items()
            if isinstance(value, Tensor)
        }

    def take_moments(self, moments: dict[str, Tensor]) -> None:
        """Give a run of one an optimizer's state that `keep_best` remembered."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            place, _, name = key.partition(".")
            state.setdefault(int(place), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def finite(self, place: int) -> bool:
        """Whether all present weights of the member at that place are numbers."""
        largest = torch._foreach_norm(list(self.learned(place).values()), float("inf"))
        return bool(torch.stack(largest).isfinite().all())

    def leave(self, members: Sequence[Member], material: Material) -> None:
        """Take members out of the stack, between two epochs; the numbers of the others stay what they are."""
        gone = [place for place, member in enumerate(self.members) if member in members]
        left = [place for place in range(len(self.members)) if place not in gone]
        numbers = [self.members[place].number for place in left]
        learned = {name: tensor.detach()[left] for name, tensor in self.network.learned().items()}
        network = stack([build(material, None, member=number) for number in numbers]).to(next(iter(learned.values())).device)
        network.load(learned)
        shapes = [parameter.shape for group in self.optimizer.param_groups for parameter in group["params"]]
        state = self.optimizer.state_dict()
        state["state"] = {
            i: {name: value[left] if isinstance(value, Tensor) and value.shape == shapes[i] else value for name, value in held.items()}
            for i, held in state["state"].items()
        }
        for group in state["param_groups"]:
            if "rates" in group:
                group["rates"] = [group["rates"][place] for place in left]
        self.network, self.optimizer = network, optimizer_of(material, network, numbers)
        self.optimizer.load_state_dict(state)
        self.members, self.gate = [self.members[place] for place in left], self.gate.without(gone)

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights (present and best) by name, and the rest as tensors and plain values; parameters are themselves, not copies."""
        weights = {f"now.{name}": tensor for name, tensor in self.network.learned().items()}
        for member in self.members:
            weights |= {f"{BEST}{member.number}.{name}": tensor for name, tensor in member.best.items()}
            weights |= {f"{MOMENTS}{member.number}.{name}": tensor for name, tensor in member.moments.items()}
            weights |= {f"{GOOD}{member.number}.{name}": tensor for name, tensor in member.guard.tensors.items()}
        rest = {
            "members": [member.capture() for member in self.members],
            "optimizer": self.optimizer.state_dict(),
            "masks": self.gate.capture(),
            "order": self.order,
            "position": self.position,
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.loss,
        }
        return weights, rest

    def restore(self, weights: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Take over what `capture` gave."""
        self.network.load(_below("now.", weights))
        self.optimizer.load_state_dict(rest["optimizer"])
        self.gate.restore(rest["masks"], self.network.sites)  # leaves the streams elsewhere: they are set after it
        for member, captured in zip(self.members, rest["members"], strict=True):
            member.restore(captured)
            member.best = {name: tensor.clone() for name, tensor in _below(f"{BEST}{member.number}.", weights).items()}
            member.moments = {name: tensor.clone() for name, tensor in _below(f"{MOMENTS}{member.number}.", weights).items()}
            member.guard.tensors = _below(f"{GOOD}{member.number}.", weights)
        self.order, self.position = rest["order"], rest["position"]
        self.epoch, self.step, self.loss = rest["epoch"], rest["step"], rest["loss"]


def start(material: Material, members: Sequence[int], device: torch.device, *, stacked: bool = False, validation: bool = False) -> Run:
    """Members at their first step, everything from their own seeds; several of them only as a stack.

    `validation`: they train on its rows too, so that a full batch may be longer.
    """
    spec = material.spec

    def seed(member: int, purpose: str) -> int:
        return spec.ensemble.seed(member, purpose, seed=spec.seed)

    def stream(member: int, name: str) -> torch.Generator:
        return torch.Generator("cpu" if name == "order" else device).manual_seed(seed(member, name))

    names = (*STREAMS, "gates") if any(penalty.gated for penalty in spec.regularizers) else STREAMS
    made = [Member(number, {name: stream(number, name) for name in names}) for number in members]
    networks = [material.initial(number) for number in members]
    network = (stack(networks) if stacked else networks[0]).to(device)
    own = _rates(networks) if stacked and spec.ensemble.varies("dropout") else None
    rows = batch_rows(material, validation=validation)
    gate = Sampled([member.streams["masks"] for member in made], rows, stacked=stacked, rates=own)
    return Run(made, network, optimizer_of(material, network, members), gate)


def build(material: Material, generator: torch.Generator | None, *, member: int = 0) -> Network:
    """The member's network, of the material's shapes and scales; without a generator its weights stay unset."""
    return material.build(generator, member=member)


def optimizer_of(material: Material, network: Network, members: Sequence[int]) -> torch.optim.Optimizer:
    """The members' optimizer of a network's parameters, weights apart from biases and gains."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if is_weight(network, parameter)]
    others = [parameter for parameter in parameters if not is_weight(network, parameter)]
    rates = [material.spec.of(member).optimizer.learning_rate for member in members]
    apart = network.members is not None and material.spec.ensemble.varies("learning_rate")
    return material.spec.of(members[0]).optimizer.build(
        weights, others, rates=rates if apart else None, stacked=network.members is not None
    )


def _rates(networks: Sequence[Network]) -> dict[str, list[float]]:
    """By site, each network's rate of dropping."""
    return {sites[0].name: [site.rate for site in sites] for sites in zip(*(network.sites for network in networks), strict=True)}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
