"""What every epoch measures on validation: weight-scaled, without penalties, for each member of a run."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from service.blocks import blocks
from service.inference.material import Material
from service.inference.quick import Known, known, measured, quick_means, quick_sums
from service.nets.network import Network
from service.tricks.multitask import Target, total
from workers.training.batches import Labels

EVALUATION_ROWS = 4096
"""Most validation rows of one pass: more would not stay in a processor's cache."""
Values = dict[str, float]


class Evaluation:
    """The validation rows with what their labels say, prepared once for all epochs; `beat` is called before each pass."""

    def __init__(self, material: Material, row_units: int, device: torch.device, beat: Callable[[], None]) -> None:
        spec = material.spec
        self._device, self._beat = device, beat
        self._targets = material.targets
        self._mirror = material.mirror if material.mirrored else None
        self._slow = _slow(self._targets, (spec.monitored or "validation.loss").removeprefix("validation."))
        parts = blocks(material.parts.validation, 4 * row_units, most=EVALUATION_ROWS)
        self.rows = [self._known(*material.rows(part)) for part in parts]

    @torch.inference_mode()
    def __call__(self, network: Network) -> list[Values]:
        """The metrics of each member; nothing where there is no validation part."""
        count = network.members or 1
        if not self.rows:
            return [{} for _ in range(count)]
        network.eval()
        sums: list[dict[str, Tensor]] = [{} for _ in range(count)]
        said: list[list[dict[str, Tensor]]] = [[] for _ in range(count)]
        for x, kept in self.rows:
            self._beat()
            raw, truths = network(x.to(self._device)), self._completed(x, kept)
            for place in range(count):
                own = raw if network.members is None else {name: values[place] for name, values in raw.items()}
                self._add(sums[place], own, truths, network)
                if self._slow:
                    said[place].append({name: values.cpu() for name, values in own.items()})
        found = self._means(sums, _by_member(network))
        return [{**values, **self._slowly(network, raws)} for values, raws in zip(found, said, strict=True)] if self._slow else found

    def _known(self, x: Tensor, labels: Labels) -> tuple[Tensor, dict[str, Known]]:
        return x, {target.name: known(target, labels[target.name].to(self._device)) for target in self._targets}

    def _completed(self, x: Tensor, truths: dict[str, Known]) -> dict[str, Known]:
        """The labels with those that are the inputs themselves, which are not kept."""
        mirrored = self._mirror(x.to(self._device)) if self._mirror is not None else {}
        return truths | {name: truths[name]._replace(labels=labels) for name, labels in mirrored.items()} if mirrored else truths

    def _add(self, sums: dict[str, Tensor], raw: dict[str, Tensor], truths: dict[str, Known], network: Network) -> None:
        for target, scale in zip(self._targets, network.units, strict=True):
            for name, value in quick_sums(target, raw[target.name], truths[target.name], scale.std).items():
                key = f"{target.name}.{name}"
                sums[key] = sums[key] + value if key in sums else value

    def _means(self, sums: list[dict[str, Tensor]], learned: list[Values]) -> list[Values]:
        """Means of the sums; plain names for one target, for several their names in front and the weighted `loss`."""
        numbers = torch.stack([value for own in sums for value in own.values()]).view(len(sums), -1).tolist()
        return [self._named(dict(zip(own, row, strict=True)), mine) for own, row, mine in zip(sums, numbers, learned, strict=True)]

    def _named(self, sums: Values, learned: Values) -> Values:
        found = {
            each.name: quick_means(each, {name: sums[f"{each.name}.{name}"] for name in ("rows", *each.scored)}) for each in self._targets
        }
        if len(found) == 1:
            return found[self._targets[0].name]
        loss = total(self._targets, {name: values["loss"] for name, values in found.items()}, learned)
        return {**{f"{target}.{name}": value for target, values in found.items() for name, value in values.items()}, "loss": loss}

    def _slowly(self, network: Network, raws: list[dict[str, Tensor]]) -> Values:
        """The monitored metric, where it needs all validation rows at once."""
        name, _, metric = self._slow.rpartition(".")
        target = next(target for target in self._targets if target.name == name or len(self._targets) == 1)
        scale = network.units[self._targets.index(target)]
        truths = [truth[target.name] for _, truth in self.rows]
        weights = [truth.weights.cpu() if truth.weights is not None else torch.ones(len(truth.labels)) for truth in truths]
        truth = Known(torch.cat([each.labels.cpu() for each in truths]), torch.cat(weights), truths[0].rows)
        found = measured(target, torch.cat([raw[target.name] for raw in raws]), truth, scale.mean.cpu(), scale.std.cpu())
        return {self._slow: found.get(metric, math.nan)}


def _by_member(network: Network) -> list[Values]:
    """Each member's log s^2 by target, where weights are learned."""
    found = {name: values.reshape(-1).tolist() for name, values in network.log_variances.items()}
    return [{name: values[place] for name, values in found.items()} for place in range(network.members or 1)]


def _slow(targets: Sequence[Target], monitor: str) -> str:
    """The monitor where it is none of the quick metrics, else nothing."""
    name, _, metric = monitor.rpartition(".")
    quick = (
        {"loss"} if not name and len(targets) > 1 else {each for target in targets if name in ("", target.name) for each in target.quick}
    )
    return "" if metric in quick else monitor
