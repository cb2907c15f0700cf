"""The charts of fig. 2: fuzziness and VCI over thresholds, and the spectra of Sigma_B and Sigma_T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from collapselab.frames import groups
from collapselab.report.chart import NEUTRAL, TEST, TRAIN, Axis, Chart, Look, Mark, Panel, Series

_DOTTED = Look(NEUTRAL, "dot", "none")
_METRICS = (
    ("fuzziness, plain", "fuzziness_plain", Look(TEST, "dash", "square")),
    ("VCI, plain", "vci_plain", Look(TRAIN, "dash", "square")),
    ("fuzziness, at most C − 1 eigenvalues", "fuzziness_careful", Look(TEST)),
    ("VCI, scaled features, float64", "vci_careful", Look(TRAIN)),
)
_SPECTRA = (("Σ_B", "between", Look(TEST, marker="none")), ("Σ_T", "total", Look(TRAIN, marker="none")))


def thresholds(rows: pd.DataFrame) -> list[Chart]:
    """Draw both metrics, computed in both ways, over thresholds; a panel per network."""
    axes = Axis("threshold / largest eigenvalue", "log"), Axis("absolute value of the metric", "log")
    panels = []
    for name, dim, part in _networks(rows):
        own = part.dropna(subset=["threshold"])
        # What torch.linalg.pinv takes for a float32 matrix of this size.
        default = Mark("x", dim * torch.finfo(torch.float32).eps, "default of torch.linalg.pinv", _DOTTED)
        series = _lines(own, "threshold", _METRICS)
        panels.append(Panel(name, *axes, series, (default,), place=(0, len(panels))))
    text = (
        "Plain: torch.linalg.pinv of float32 matrices. Below 1e-6, it inverts eigenvalues of Σ_B that are 0 but for rounding, which "
        "gives fuzziness any size and sign. VCI of collapsed features is small, and so are the absolute changes of it."
    )
    return [Chart("fig2", "Fuzziness and VCI over thresholds", text, tuple(panels), "fig2")]


def spectra(rows: pd.DataFrame) -> list[Chart]:
    """Draw the eigenvalues of Sigma_B and Sigma_T; a panel per network."""
    axes = Axis("index of the eigenvalue", "log"), Axis("eigenvalue / largest", "log")
    panels = []
    for name, _, part in _networks(rows):
        own = part.dropna(subset=["index"])
        rank = Mark("x", int(own["rank"].max()), "C − 1", _DOTTED)
        panels.append(Panel(name, *axes, _lines(own, "index", _SPECTRA), (rank,), place=(0, len(panels))))
    text = "Absolute values of the eigenvalues of float32 matrices. Σ_B has at most C − 1 eigenvalues above 0; what follows is rounding."
    return [Chart("spectra", "Spectra of Σ_B and Σ_T", text, tuple(panels), "spectra")]


def _networks(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Yield the name, the number of features and the rows of each network."""
    for name, part in groups(rows, "network"):
        yield str(name), int(part["index"].max()), part


def _lines(rows: pd.DataFrame, x: str, drawn: Sequence[tuple[str, str, Look]]) -> tuple[Series, ...]:
    return tuple(
        Series(label, pd.DataFrame({"x": rows[x], "y": rows[column].abs(), "seed": rows["seed"]}), look)
        for label, column, look in drawn
    )
