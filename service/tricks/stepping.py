"""torch's fused optimizers without what they look up at every step: for small networks that is half of the step.

Parameters, state and hyperparameters stay where torch keeps them, so that state_dict, load_state_dict and groups are
torch's own. A step with a missing gradient is torch's too; a test holds the others to the same bits.
"""

from typing import Any

import torch
from torch import Tensor

_UNUSED: dict[str, Any] = {"grad_scale": None, "found_inf": None}
_Lists = list[list[Tensor]]
VECTOR = 16
"""Numbers in the widest vector of a CPU."""

# Some of its methods, when first called, import torch's compiler to be left alone by it. Nobody compiles them here, and every process
# that trains would spend a second or two on the import. A release that does not know the mark imports as before.
for _method in vars(torch.optim.Optimizer).values():
    if (_inner := getattr(_method, "__wrapped__", None)) is not None:
        _inner.__dynamo_disable = _inner


class Quick(torch.optim.Optimizer):
    """An optimizer that holds what its kernel wants of each group, in lists."""

    _held: list[_Lists] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step on the present gradients."""
        gradients = [[parameter.grad for parameter in group["params"]] for group in self.param_groups]
        if closure is not None or any(each is None for some in gradients for each in some):
            self.forget()
            return super().step(closure)
        if self._held is None:
            self._begin()
        for group, some, held in zip(self.param_groups, gradients, self._held or [], strict=True):
            self._count(held)
            self._apply(group, some, held)
        return None

    # torch wraps `step` in its profiler's record at construction unless it finds this mark.
    step.hooked = True  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; what was held is of no use after it."""
        self.forget()
        super().load_state_dict(state_dict)

    def forget(self) -> None:
        """Look up the state again at the next step: something was put elsewhere in memory."""
        self._held = None

    def _begin(self) -> None:
        """State where there is none yet: zeros are what the first step of every kernel starts from."""
        for group in self.param_groups:
            for parameter in group["params"]:
                for name in self._names(group):
                    zeros = torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)
                    self.state[parameter].setdefault(name, zeros)
        self._held = self._hold()

    def _hold(self) -> list[_Lists]:
        """Each group's state by name, in lists along its parameters."""
        return [[[self.state[each][name] for each in group["params"]] for name in self._names(group)] for group in self.param_groups]

    def _names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """What the kernel wants of a group's state."""
        raise NotImplementedError

    def _count(self, held: _Lists) -> None:
        """Count a step of one group, where its kernel wants to know."""

    def _apply(self, group: dict[str, Any], gradients: list[Any], held: _Lists) -> None:
        """A step of one group."""
        raise NotImplementedError


class SGD(Quick, torch.optim.SGD):
    """torch.optim.SGD, fused."""

    def _names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _apply(self, group: dict[str, Any], gradients: list[Any], held: _Lists) -> None:
        named = {name: group[name] for name in ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")}
        torch._fused_sgd_(group["params"], gradients, held[0] if held else [], is_first_step=False, **named, **_UNUSED)


class Adam(Quick, torch.optim.Adam):
    """torch.optim.Adam, fused."""

    _kernel = staticmethod(torch._fused_adam_)

    def _names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "step")

    def _hold(self) -> list[_Lists]:
        """Counts of steps side by side besides, as views of one tensor that is counted up at once."""
        held = super()._hold()
        for group, lists in zip(self.param_groups, held, strict=True):
            counts = torch.stack(lists[2])
            for parameter, count in zip(group["params"], counts, strict=True):
                self.state[parameter]["step"] = count
            lists[2:] = [list(counts), [counts]]
        return held

    def _count(self, held: _Lists) -> None:
        held[3][0].add_(1)

    def _apply(self, group: dict[str, Any], gradients: list[Any], held: _Lists) -> None:
        means, squares, counts, _ = held
        (beta1, beta2), named = group["betas"], {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
        self._kernel(group["params"], gradients, means, squares, [], counts, beta1=beta1, beta2=beta2, **named, **_UNUSED)


class AdamW(Adam, torch.optim.AdamW):
    """torch.optim.AdamW, fused."""

    _kernel = staticmethod(torch._fused_adamw_)


class _OfStack(Quick):
    """For a stack [K, ...], whose parameters all have gradients."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step on the present gradients."""
        with torch.enable_grad():
            found = closure() if closure is not None else None
        if self._held is None:
            self._begin()
        for held in self._held or []:
            self._count(held)
        self._go()
        return found

    step.hooked = True  # type: ignore[attr-defined]

    def _go(self) -> None:
        """The kernel's calls of one step."""
        raise NotImplementedError


class _Stacked(_OfStack):
    """One call, to which members whose size is no multiple of a vector's are handed one by one.

    The kernel rounds what is left over at a tensor's end in another way than the rest: side by side with others a member's
    last few numbers would depend on who they are.
    """

    _pieces: list[tuple[list[bool], list[Tensor], _Lists]]
    """By group: which parameters have to be cut, all of them so, and what is held of them."""

    def _begin(self) -> None:
        super()._begin()
        self._pieces = []
        for group, held in zip(self.param_groups, self._held or [], strict=True):
            odd = [parameter[0].numel() % VECTOR != 0 for parameter in group["params"]]
            per_parameter = [len(some) == len(odd) for some in held]
            cut = [_cut(some, group["params"], odd) if each else some for some, each in zip(held, per_parameter, strict=True)]
            self._pieces.append((odd, _cut(group["params"], group["params"], odd), cut))

    def _go(self) -> None:
        for group, (odd, parameters, held) in zip(self.param_groups, self._pieces, strict=True):
            gradients = _cut([_gradient(parameter) for parameter in group["params"]], group["params"], odd)
            self._apply({**group, "params": parameters}, gradients, held)


def _cut(tensors: list[Tensor], parameters: list[Tensor], odd: list[bool]) -> list[Tensor]:
    """Tensors along the parameters, those of odd ones member by member; what all members share stands for each of them."""
    found: list[Tensor] = []
    for tensor, parameter, each in zip(tensors, parameters, odd, strict=True):
        if not each:
            found.append(tensor)
        elif tensor.shape == parameter.shape:
            found += tensor.unbind()
        else:
            found += [tensor] * len(parameter)
    return found


class StackedSGD(_Stacked, SGD):
    """SGD of a stack."""


class StackedAdam(_Stacked, Adam):
    """Adam of a stack."""


class StackedAdamW(_Stacked, AdamW):
    """AdamW of a stack."""


class _Staggered(_OfStack):
    """The kernel once for each member, on its slices, with its learning rate from the group's `rates`."""

    _slices: list[list[tuple[list[Tensor], _Lists]]]
    """By group and member, the parameters and what is held of them."""

    def _begin(self) -> None:
        super()._begin()
        self._slices = [
            list(zip(_by_member(group["params"], group["rates"]), self._members(group, held), strict=True))
            for group, held in zip(self.param_groups, self._held or [], strict=True)
        ]

    def _go(self) -> None:
        for group, members in zip(self.param_groups, self._slices, strict=True):
            gradients = list(zip(*(_gradient(parameter).unbind() for parameter in group["params"]), strict=True))
            for rate, (parameters, own), some in zip(group["rates"], members, gradients, strict=True):
                self._apply({**group, "params": parameters, "lr": rate}, list(some), own)

    def _members(self, group: dict[str, Any], held: _Lists) -> list[_Lists]:
        """What is held of each member; counts of steps are shared."""
        shapes = [parameter.shape for parameter in group["params"]]
        cut = [_by_member(some, group["rates"]) if [each.shape for each in some] == shapes else None for some in held]
        return [[some if own is None else own[place] for some, own in zip(held, cut, strict=True)] for place in range(len(group["rates"]))]


def _by_member(tensors: list[Tensor], rates: Any) -> list[list[Tensor]]:
    """The members' slices of tensors [K, ...]."""
    return [[tensor[place] for tensor in tensors] for place in range(len(rates))]


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError("every parameter of a stack has a gradient")
    return parameter.grad


class StaggeredSGD(_Staggered, SGD):
    """SGD with a learning rate for each member."""


class StaggeredAdam(_Staggered, Adam):
    """Adam with a learning rate for each member."""


class StaggeredAdamW(_Staggered, AdamW):
    """AdamW with a learning rate for each member."""
