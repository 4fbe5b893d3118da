"""What every epoch measures on validation: weight-scaled, without penalties, for each member of a run."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import BLOCK_BYTES, blocks
from service.inference.boxes import reach, trained_box
from service.inference.material import Material
from service.inference.quick import Known, known, measured, quick_means, quick_sums
from service.nets.bounds import worst
from service.nets.network import Network
from service.tricks.adversarial import AdversarialTraining
from service.tricks.certification import IBPTraining
from service.tricks.multitask import Target, total, weighted
from workers.training.batches import Labels

EVALUATION_ROWS = 4096
"""Most validation rows of one pass: more would not stay in a processor's cache."""
Values = dict[str, float]
ADVERSARIAL = "adversarial_loss"
Block = tuple[Tensor, dict[str, Known]]


class Anew:
    """Blocks of rows that are too large to be held: every pass reads them again."""

    def __init__(self, read: Callable[[], Iterator[Block]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Block]:
        return self._read()


class Evaluation:
    """The validation rows with what their labels say, prepared once for all epochs unless they are large.

    `beat` is called before each pass. Of other rows, `part`, there is what every epoch takes, and nothing slow, whatever is monitored.
    """

    def __init__(
        self,
        material: Material,
        row_units: int,
        device: torch.device,
        beat: Callable[[], None],
        *,
        part: NDArray[np.int64] | None = None,
    ) -> None:
        spec = material.spec
        self._material, self._units, self._device, self._beat = material, row_units, device, beat
        self._targets = material.targets
        self._mirror = material.mirror if material.mirrored else None
        monitor = (spec.monitored or "validation.loss").removeprefix("validation.") if part is None else "loss"
        self._training = spec.adversarial_training if monitor == ADVERSARIAL else None
        self._slow = "" if monitor == ADVERSARIAL else _slow(self._targets, monitor)
        self._box = trained_box(material.encoding, device)
        self._movable = material.movable.to(device) if material.movable is not None else None
        chosen = material.parts.validation if part is None else part
        held = len(chosen) * material.inputs[:1].nbytes <= BLOCK_BYTES
        self.rows: Iterable[Block] = list(self.prepared(chosen)) if held else Anew(partial(self.prepared, chosen))

    def prepared(self, part: NDArray[np.int64]) -> Iterator[Block]:
        """Blocks of rows with what their labels say."""
        for rows in blocks(part, 4 * self._units, most=EVALUATION_ROWS):
            yield self._known(*self._material.rows(rows))

    def __call__(self, network: Network, rows: Iterable[Block] | None = None) -> list[Values]:
        """The metrics of each member, on other rows where some are given; nothing where there is no validation part."""
        if rows is None and not self.rows:
            return [{} for _ in range(network.members or 1)]
        network.eval()
        found = self._measured(network, self.rows if rows is None else rows)
        if self._training is None or rows is not None:
            return found
        return [{**values, ADVERSARIAL: loss} for values, loss in zip(found, self._moved(network, self._training), strict=True)]

    def _moved(self, network: Network, training: AdversarialTraining) -> list[float]:
        """Each member's loss on validation rows that the spec's own attack moved against it, as it is served."""
        sums: list[dict[str, Tensor]] = [{} for _ in range(network.members or 1)]
        for x, kept in self.rows:
            self._beat()
            truths = self._completed(x, kept)
            each = x.to(self._device, torch.float32)
            each = each if network.members is None else each.expand(network.members, *each.shape)
            if isinstance(training, IBPTraining):
                self._spread(sums, network, self._bounded(network, training, each, truths), truths)
                continue
            lead = each.shape[: 1 if network.members is None else 2]
            against = partial(self._against, network, lead, truths)
            moved = training.perturb(each.flatten(0, len(lead) - 1), against, self._movable).unflatten(0, lead)
            self._gather(sums, network, moved, truths)
        return [values["loss"] for values in self._means(sums, _by_member(network))]

    def _against(self, network: Network, lead: torch.Size, truths: dict[str, Known], moved: Tensor) -> Tensor:
        """The sum over rows [N, ...], of all members one after the other, of the loss that they are moved to raise."""
        raw, total = network(moved.unflatten(0, lead)), torch.zeros((), device=self._device)
        for target in self._targets:
            labels, weights = truths[target.name].labels, truths[target.name].weights
            losses = target.losses(raw[target.name], labels.expand(*lead, *labels.shape[1:]))
            losses = losses if weights is None else losses * weights
            learned = network.log_variances.get(target.name)
            total = total + weighted(target, losses, None if learned is None else learned.detach().view(*learned.shape, 1)).sum()
        return total

    @torch.inference_mode()
    def _gather(self, sums: list[dict[str, Tensor]], network: Network, x: Tensor, truths: dict[str, Known]) -> list[dict[str, Tensor]]:
        """Add what the members say of rows to their sums; their raw outputs."""
        return self._spread(sums, network, network(x), truths)

    @torch.inference_mode()
    def _bounded(self, network: Network, training: IBPTraining, x: Tensor, truths: dict[str, Known]) -> dict[str, Tensor]:
        """The worst raw outputs that intervals allow at the full epsilon."""
        lead = x.shape[: 1 if network.members is None else 2]
        labels = {name: known.labels.expand(*lead, *known.labels.shape[1:]) for name, known in truths.items()}
        return worst(network, reach(x, training.epsilon, self._box), labels)

    def _spread(
        self, sums: list[dict[str, Tensor]], network: Network, raw: dict[str, Tensor], truths: dict[str, Known]
    ) -> list[dict[str, Tensor]]:
        """Add raw outputs of rows to each member's sums; the raw outputs member by member."""
        each = [raw] if network.members is None else [{name: values[place] for name, values in raw.items()} for place in range(len(sums))]
        for own, outputs in zip(sums, each, strict=True):
            self._add(own, outputs, truths, network)
        return each

    def _measured(self, network: Network, rows: Iterable[Block]) -> list[Values]:
        """The metrics on rows as they are."""
        count = network.members or 1
        sums: list[dict[str, Tensor]] = [{} for _ in range(count)]
        said: list[list[dict[str, Tensor]]] = [[] for _ in range(count)]
        for x, kept in rows:
            self._beat()
            raws = self._gather(sums, network, x.to(self._device), self._completed(x, kept))
            if self._slow:
                for own, raw in zip(said, raws, strict=True):
                    own.append({name: values.cpu() for name, values in raw.items()})
        found = self._means(sums, _by_member(network))
        return [{**values, **self._slowly(network, raws)} for values, raws in zip(found, said, strict=True)] if self._slow else found

    def _known(self, x: Tensor, labels: Labels) -> Block:
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
