"""From features to class statistics: the only place where features are summed.

One pass, any batch size, mergeable over batches, shards and processes. Three rules keep the sums exact where
plain float32 sums over the features of a collapsed network would cancel:

1. Every row is centred on a provisional centre of its class before it is squared or multiplied
   (`moments`). A centre that proves poor is moved before a product uses it (`scatter`).
2. Totals are float64. Only the p x p product is computed in the features' dtype, because there it saves time, and
   traces never come from it: they come from squares that are summed separately.
3. Partial statistics are combined by shifting to a common centre (Chan, Golub and LeVeque 1983),
   never as E[x^2] - E[x]^2.
"""

from collapselab.statistics.checking import RefusedBatch
from collapselab.statistics.class_stats import ClassStats
from collapselab.statistics.gathering import Checks, Chunk, RowGatherer, chunk_bytes, is_deferred
from collapselab.statistics.scatter import SCATTERS, Scatter
from collapselab.statistics.sketch import SketchedSpectrum, SketchRefinement, nystrom
from collapselab.statistics.weighting import WEIGHTINGS, Weighting

__all__ = [
    "SCATTERS",
    "WEIGHTINGS",
    "Checks",
    "Chunk",
    "ClassStats",
    "RefusedBatch",
    "RowGatherer",
    "Scatter",
    "SketchRefinement",
    "SketchedSpectrum",
    "Weighting",
    "chunk_bytes",
    "is_deferred",
    "nystrom",
]
