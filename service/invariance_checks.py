"""Transforms held against what a dataset declares to keep a row's meaning, and against the shape of its rows."""

from collections.abc import Iterator

from service.checks import Flaws
from service.data.fields import Invariances
from service.errors import Flaw
from service.spec import TrainSpec
from service.tricks.transforms import Claim


def augmentation(spec: TrainSpec, shape: tuple[int, ...], invariances: Invariances | None, warnings: list[Flaw]) -> Flaws:
    """Transforms that rows of this shape cannot take or the dataset forbids; those of which it says nothing are warned of."""
    declared = invariances or Invariances()
    for i, transform in enumerate(spec.augmentation):
        found = [*transform.fits(shape)] or [*_beyond(transform.claims(), declared)]
        if not found and transform.pastes and any(target.from_inputs for target in spec.targets or ()):
            found = [
                Flaw(
                    "/type", "inconsistent-spec", "it mixes labels by their shares, and those of a reconstruction are the images themselves"
                )
            ]
        yield from (flaw._replace(pointer=f"/augmentation/{i}{flaw.pointer}") for flaw in found)
        for claim in transform.claims():
            if not found and getattr(declared, claim.invariance) is None:
                message = f"the dataset declares no {claim.invariance}: whether rows keep their label is for you to know"
                warnings.append(Flaw(f"/augmentation/{i}/{claim.field}", "undeclared-invariance", message))


def _beyond(claims: Iterator[Claim], declared: Invariances) -> Flaws:
    """What is claimed and was declared not to hold."""
    for claim in claims:
        allowed = getattr(declared, claim.invariance)
        if allowed is None or claim.reach <= allowed:
            continue
        limit = "does not keep a row's label" if claim.reach is True else f"keeps a row's label up to {allowed:g}"
        yield Flaw(f"/{claim.field}", "breaks-invariance", f"the dataset declares that {claim.invariance} {limit}")
