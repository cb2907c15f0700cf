"""What the layers of a profile show together: the first collapsed one, the law of separation, where few samples move VCI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from collapselab.metrics.registry import Number
from collapselab.text import listed, number

# VCI and its adjusted form are said to part beyond this: a twentieth of the range of VCI.
PARTED = 0.05
_MIN_LAYERS = 3


@dataclass(frozen=True)
class LawOfSeparation:
    """Least-squares fit of log D_l = log D_0 + l log rho to the fuzziness D_l at depth l (He, Su 2022).

    Attributes:
        rho: factor by which fuzziness changes from layer to layer; None if it is undefined.
        initial: D_0, the fitted fuzziness at depth 0; None if `rho` is.
        r_squared: share of the variance of log D_l that the fit explains; None also if the fuzziness does not vary.
        num_layers: number of layers in the fit.
        reason: why a value is None; empty if none is.
    """

    rho: float | None
    initial: float | None
    r_squared: float | None
    num_layers: int
    reason: str = ""

    def fitted(self, depth: Number) -> float:
        """Return the fuzziness of the fit at a depth; NaN if the fit is undefined."""
        if self.rho is None or self.initial is None:
            return math.nan
        return self.initial * self.rho**depth

    def __str__(self) -> str:
        if self.rho is None:
            return f"undefined: {self.reason}"
        r_squared = f"R² undefined, since {self.reason}" if self.reason else f"R² = {number(self.r_squared)}"
        return f"ρ = {number(self.rho, 4)} per layer, {r_squared} ({self.num_layers} layers)"


def first_collapsed(names: list[str], shares: list[Number | None], epsilon: float) -> str | None:
    """Return the first layer from which the within-class share of the variance stays below epsilon to the end.

    Args:
        names, shares: in order of depth; an undefined share is not collapsed.
    """
    first = None
    for name, share in zip(reversed(names), reversed(shares), strict=True):
        if share is None or not share < epsilon:
            break
        first = name
    return first


def fit_law_of_separation(fuzziness: Mapping[int, Number | None]) -> LawOfSeparation:
    """Return the law of separation of one split.

    Args:
        fuzziness: D_l by depth l. Layers without a value, or with a fuzziness of 0, are left out of the fit.
    """
    known = {depth: math.log(value) for depth, value in fuzziness.items() if value is not None and value > 0}
    if len(known) < _MIN_LAYERS:
        reason = f"{len(known)} of {len(fuzziness)} layers have a positive fuzziness, and a fit needs {_MIN_LAYERS}"
        return LawOfSeparation(None, None, None, len(known), reason)
    depths, logs = np.array(list(known)), np.array(list(known.values()))
    centred = depths - depths.mean()
    slope = float(centred @ logs / (centred @ centred))
    initial = math.exp(logs.mean() - slope * depths.mean())
    if np.ptp(logs) <= 1e-12:
        return LawOfSeparation(
            1.0, initial, None, len(known), "the fuzziness is the same at all of these layers"
        )
    deviations = logs - logs.mean()
    rest = deviations - slope * centred
    r_squared = 1 - float(rest @ rest / (deviations @ deviations))
    return LawOfSeparation(math.exp(slope), initial, r_squared, len(known))


def parted_vci(metrics: Mapping[str, Mapping[str, Number | None]]) -> list[tuple[str, str]]:
    """Return a warning for every place where `vci` and `vci_adjusted` part.

    Args:
        metrics: values of metrics by name, by place (`train conv1`).

    Returns:
        Place and text of each warning.
    """
    text = (
        f"vci and vci_adjusted differ by more than {PARTED:g}, because there are few samples for so many features or "
        "classes; compare splits, layers and networks by vci_adjusted"
    )
    pairs = {place: (values.get("vci"), values.get("vci_adjusted")) for place, values in metrics.items()}
    return [
        (place, text)
        for place, (vci, adjusted) in pairs.items()
        if vci is not None and adjusted is not None and abs(adjusted - vci) > PARTED
    ]


def joined_warnings(by_place: list[tuple[str, str]]) -> list[str]:
    """Return each warning once, with the places that it concerns.

    Args:
        by_place: place (`train conv1`) and text of each warning, in order.
    """
    places: dict[str, list[str]] = {}
    for place, text in by_place:
        places.setdefault(text, []).append(place)
    return [f"{listed(where, 3)}: {text}" for text, where in places.items()]
