"""What single classes and pairs of classes look like: which class has not collapsed, and which one it lies closest to.

Letters: c classes, p features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.metrics.pairs import coincident_distance, squared_distances

_ROWS = 1024  # of the matrix of distances at a time: C x C numbers are never in memory


@dataclass(frozen=True)
class ClassDetails:
    """One value per class.

    Attributes:
        variance: v_c, mean squared distance of the samples from their class mean.
        relative_variance: v_c divided by the spread of the class means, mean_c norm(mu_c - mean mu)^2. Its mean over classes,
            weighted by their number of samples, is `train_variance` (on test data `strong_test_variance`).
        distance_from_centre: norm(mu_c - mean mu).
        closest: number of the class with the largest `closest_cdnv`.
        closest_cdnv: (v_c + v_c') / (2 norm(mu_c - mu_c')^2), the largest over other classes c'; infinite where the means coincide
            and samples vary. 0 at full collapse; from about 1 on, the two classes overlap.
    """

    variance: Float[Tensor, " c"]
    relative_variance: Float[Tensor, " c"]
    distance_from_centre: Float[Tensor, " c"]
    closest: Int[Tensor, " c"]
    closest_cdnv: Float[Tensor, " c"]

    def to_frame(self, labels: Sequence[int], counts: Int[Tensor, " c"]) -> pd.DataFrame:
        """Return one row per class that has samples: its label, number of samples, and every value.

        Args:
            labels: of the classes, in order; `closest` becomes one of them, or <NA>.
            counts: (C,) samples of each class.
        """
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        closest = [labels[place] if place >= 0 else pd.NA for place in columns["closest"]]
        columns["closest"] = pd.array(closest, dtype="Int64")
        frame = pd.DataFrame({"label": list(labels), "num_samples": counts.tolist()} | columns)
        return frame.loc[frame["num_samples"] > 0].reset_index(drop=True)


def class_details(class_means: Float[Tensor, "c p"], class_variances: Float[Tensor, " c"]) -> ClassDetails:
    """Return what every class looks like.

    Pairs are compared as in CDNV (Galanti et al. 2021). A class without samples (means that are not numbers) has no
    values: NaN, and -1 for the closest class.

    Args:
        class_means: (C, p), float64.
        class_variances: (C,), float64.
    """
    seen = class_variances.isfinite()
    means, variances = class_means[seen], class_variances[seen]
    centred = means - means[:1]
    centred = centred - centred.mean(0)
    squared = centred.square().sum(1)
    spread = squared.mean()
    best, other = torch.full_like(variances, torch.nan), torch.full((len(means),), -1, device=means.device)
    for start in range(0, len(means) if len(means) > 1 else 0, _ROWS):
        rows = slice(start, min(start + _ROWS, len(means)))
        best[rows], other[rows] = _closest(centred, squared, variances, rows)
    numbers = seen.nonzero()[:, 0]
    place = torch.where(other >= 0, numbers[other.clamp_min(0)], -1)
    relative = torch.where(spread > 0, variances / spread, torch.nan)
    filled = [_spread_out(values, seen) for values in (variances, relative, squared.sqrt(), best)]
    closest = torch.full((len(seen),), -1, device=place.device)
    closest[seen] = place
    return ClassDetails(filled[0], filled[1], filled[2], closest, filled[3])


def _closest(
    centred: Tensor, squared: Tensor, variances: Tensor, rows: slice
) -> tuple[Float[Tensor, " r"], Int[Tensor, " r"]]:
    """Return the largest normalised variance of some classes with any other, and which class that is."""
    distance2 = squared_distances(centred, squared, rows, slice(0, len(centred)))
    summed = variances[rows, None] + variances[None, :]
    distance2 = torch.where(distance2 <= coincident_distance(summed), 0.0, distance2)
    ratio = torch.where(summed > 0, summed / (2 * distance2), 0.0)
    # Without any variance, the closest class is that of the smallest distance.
    ratio = torch.where((summed == 0) & (distance2 == 0), torch.inf, ratio)
    own = torch.arange(rows.start, rows.stop, device=centred.device)
    ratio[own - rows.start, own] = -1.0
    distance2[own - rows.start, own] = torch.inf
    best = ratio.max(1).values
    ties = torch.where(ratio == best[:, None], distance2, torch.inf)
    return best, ties.argmin(1)


def _spread_out(values: Tensor, seen: Tensor) -> Tensor:
    out = values.new_full((len(seen),), torch.nan)
    out[seen] = values
    return out
