"""Features in, class statistics out: the only place where features are summed.

One pass, any batch size, mergeable over batches, shards and ranks. Three rules keep it exact where
float32 features of a collapsed network would cancel:

1. Every row is centred on a provisional centre of its class before it is squared or multiplied
   (`moments`). A centre that proves poor is moved before a product uses it (`scatter`).
2. Totals are float64. Only the p x p product runs in the features' dtype, because there it pays, and
   traces never come from it: they come from squares summed beside it.
3. Partial statistics are combined by shifting to a common centre (Chan, Golub and LeVeque 1983),
   never as E[x^2] - E[x]^2.
"""

from collapselab.statistics.class_stats import WEIGHTINGS, ClassStats, Scatter, Weighting
from collapselab.statistics.sketch import SketchedSpectrum, SketchRefinement, nystrom

__all__ = [
    "WEIGHTINGS",
    "ClassStats",
    "Scatter",
    "SketchRefinement",
    "SketchedSpectrum",
    "Weighting",
    "nystrom",
]
