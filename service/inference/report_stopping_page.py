"""What the report's page says of early stopping."""

from collections.abc import Mapping
from typing import Any

from service.inference.report_markup import Html, element, number, table

Found = Mapping[str, Any]
ENDS = {
    "retrained": "as long as planned",
    "threshold": "when the loss on validation rows had come down to the threshold",
    "cap": "at its cap, above the threshold",
    "diverged": "when the loss became infinite",
}
"""How a second phase ended, in words; any other end was ordered."""


def stopping(found: Found | None) -> Html:
    """What stopping early saved and amounted to, and what followed; nothing where nothing was monitored."""
    if found is None:
        return Html()
    said = [*_saved(found), *_as_l2(found), *_second(found)]
    return element("div", *(element("p", words) for words in said), _distances(found.get("distance")))


def _saved(found: Found) -> list[str]:
    saved = found.get("epochs_saved")
    return [f"Stopping saved {saved:,} epochs."] if saved else []


def _as_l2(found: Found) -> list[str]:
    """The L2 penalty, never without where it holds."""
    held = found.get("equivalent_l2_range")
    if found["equivalent_l2"] is None or held is None:
        return []
    acts = f"stopping at step {found['best_step']:,} acts like an L2 penalty with alpha {number(found['equivalent_l2'])}"
    below = f"Along directions whose curvature is below {number(held['curvature_below'])}, {acts}, 1 / (2 x rate x steps)"
    return [f"{below}, within {held['within']:.0%}; along steeper ones it penalizes less, and soon next to nothing."]


def _second(found: Found) -> list[str]:
    """How the second phase went, and what it does to the figures on validation."""
    second = found.get("second")
    if second is None:
        return []
    end = ENDS.get(second["reason"], "when it was told to")
    began = "began anew" if found["then"] == "retrain" else "went on from the best weights"
    said = f"Then training {began}, on validation rows too, for {second['steps']:,} steps, and ended {end}."
    if second["threshold"] is not None:
        said += (
            f" The threshold was {number(second['threshold'])}, the loss on validation rows at the end {number(second['validation_loss'])}."
        )
    if second["reason"] not in ("retrained", "threshold", "cap"):
        return [f"{said} The weights from before it were kept."]
    return [f"{said} Figures on validation are therefore of rows that were trained on."]


def _distances(found: Found | None) -> Html:
    """How far each layer went from where it began."""
    if found is None:
        return Html()
    rows = [*found["layers"].items(), ("all", found["all"])]
    return table(("layer", "distance from the initial weights"), rows, caption="at the best step")
