"""How quantities look in an experiment's figures and charts: one name, colour and mark for each, on paper and screen."""

from __future__ import annotations

from dataclasses import dataclass

from collapselab.report.figures import NEUTRAL, TEST, TRAIN, WEAK

# A bar lies across the axis of values, which is horizontal in figures and vertical in charts.
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "|": "line-ew-open"}
_DASHES = {"-": "solid", "--": "dash", ":": "dot"}


@dataclass(frozen=True)
class Look:
    """A quantity and how it is drawn.

    Attributes:
        key: the column that holds it or, of transfer, the `kind` of its rows.
        label: in legends and readouts.
        colour: of line and mark.
        marker, line_style: as matplotlib names them.
    """

    key: str
    label: str
    colour: str
    marker: str = "o"
    line_style: str = "-"

    @property
    def symbol(self) -> str:
        """The marker, as plotly names it."""
        return _SYMBOLS[self.marker]

    @property
    def dash(self) -> str:
        """The line style, as plotly names it."""
        return _DASHES[self.line_style]


VARIANCES = (
    Look("train_variance", "train", TRAIN),
    Look("strong_test_variance", "test, strong", TEST, "s", "--"),
    Look("weak_test_variance", "test, weak", WEAK, "^", ":"),
)
ACCURACIES = (
    Look("train_accuracy", "train", TRAIN),
    Look("test_accuracy", "test", TEST, "s"),
    Look("probe_accuracy", "linear probe of two points", WEAK, "D"),
    Look("bound", "bound for two points", NEUTRAL, "|"),
)
TRANSFER = (
    Look("fine_tuning", "fine-tuned, best learning rate", TEST),
    Look("linear_probe", "linear probe", NEUTRAL, "s", "--"),
)
