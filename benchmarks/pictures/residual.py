"""The picture of residual networks: deep plain ones cannot be trained where their residual twins can."""

from matplotlib.figure import Figure

from benchmarks.workbench import material, trained
from service.inference.plots.canvas import BLUE, INK, ORANGE

EPOCHS, WIDTH = 12, 32


def draw(figure: Figure) -> None:
    """Training loss by epoch of batch-norm perceptrons, plain and residual, with 7 and 55 hidden layers."""
    axes = figure.subplots()
    for depth, style in ((7, "-"), (55, "--")):
        for residual, color in ((False, ORANGE), (True, BLUE)):
            net = {"type": "mlp", "hidden": [WIDTH] * depth, "batch_norm": True, "residual": residual, "bias": False, "init": "he"}
            made = material(
                architecture=net, epochs=EPOCHS, batch_size=128, early_stopping=None, optimizer={"type": "adam", "learning_rate": 2e-3}
            )
            losses = [epoch.values["train.loss"] for epoch in trained(made)[1]]
            name = f"{'residual' if residual else 'plain'}, {depth} hidden layers"
            axes.plot(range(1, EPOCHS + 1), losses, style, color=color, label=name, linewidth=1.6)
    axes.axhline(2.3026, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, 2.6))
    axes.set_title("digits, width 32, batch norm; dotted: nothing learnt")
    axes.legend(loc="center right")
