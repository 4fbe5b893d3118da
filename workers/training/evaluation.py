"""What every epoch measures on validation: weight-scaled, without penalties, for each member of a run."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from service.blocks import blocks
from service.inference.material import Material
from service.inference.quick import MEASURED, QUICK, Known, known, measured, quick_means, quick_sums
from service.nets.network import Network
from service.spec import TrainSpec
from workers.training.batches import Labels

EVALUATION_ROWS = 4096
"""Most validation rows of one pass: more would not stay in a processor's cache."""
Values = dict[str, float]


class Evaluation:
    """The validation rows with what their labels say, prepared once for all epochs; `beat` is called before each pass."""

    def __init__(self, material: Material, row_units: int, device: torch.device, beat: Callable[[], None]) -> None:
        spec = material.spec
        self._spec, self._device, self._beat = spec, device, beat
        self._targets = spec.targets or ()
        monitor = (spec.monitored or "validation.loss").removeprefix("validation.")
        self._slow = monitor if monitor.rpartition(".")[2] not in MEASURED or _density(spec, monitor) else ""
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
        for x, truths in self.rows:
            self._beat()
            raw = network(x.to(self._device))
            for place in range(count):
                own = raw if network.members is None else {name: values[place] for name, values in raw.items()}
                self._add(sums[place], own, truths, network)
                if self._slow:
                    said[place].append({name: values.cpu() for name, values in own.items()})
        found = self._means(sums)
        return [{**values, **self._slowly(network, raws)} for values, raws in zip(found, said, strict=True)] if self._slow else found

    def _known(self, x: Tensor, labels: Labels) -> tuple[Tensor, dict[str, Known]]:
        return x, {target.name: known(target, labels[target.name].to(self._device)) for target in self._targets}

    def _add(self, sums: dict[str, Tensor], raw: dict[str, Tensor], truths: dict[str, Known], network: Network) -> None:
        for target, scale in zip(self._targets, network.units, strict=True):
            for name, value in quick_sums(target, raw[target.name], truths[target.name], scale.std).items():
                key = f"{target.name}.{name}"
                sums[key] = sums[key] + value if key in sums else value

    def _means(self, sums: list[dict[str, Tensor]]) -> list[Values]:
        """Means of the sums; plain names for one target, for several their names in front and the weighted `loss`."""
        numbers = torch.stack([value for own in sums for value in own.values()]).view(len(sums), -1).tolist()
        return [self._named(dict(zip(own, row, strict=True))) for own, row in zip(sums, numbers, strict=True)]

    def _named(self, sums: Values) -> Values:
        found = {each.name: quick_means(each, {name: sums[f"{each.name}.{name}"] for name in QUICK[each.task]}) for each in self._targets}
        if len(found) == 1:
            return found[self._targets[0].name]
        loss = sum(target.weight * found[target.name]["loss"] for target in self._targets)
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


def _density(spec: TrainSpec, monitor: str) -> bool:
    """Whether a regression's density is monitored, which the quick metrics do not have."""
    return monitor.rpartition(".")[2] == "nll" and all(target.task == "regression" for target in spec.targets or ())
