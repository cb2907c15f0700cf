"""k-means of test features: the points to which weak test variance expects them to collapse.

Letters: n samples, p features, k centres.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapselab.metrics.generalization import Reference, squared_distances_to_nearest
from collapselab.numerics import block_elements, full_precision_products, thread_pools
from collapselab.statistics.sorted_sums import RowsByClass

# Metrics that k-means is fitted for, each with a fit of its own.
WEAK, TRIMMED = "weak_test_variance", "weak_test_variance_trimmed"
MAX_ROWS = 50_000
# Samples times centres up to which k-means is as Hui et al. need it: 10 restarts, each to a fixed point.
MAX_EXACT_DISTANCES = 50_000 * 100
_RESTARTS = 10
# k-means always converges; this limit only stops a run that would take days.
_ITERATIONS = 10_000
# Beyond: what 10,000 samples, 2048 features and 1000 centres take a minute for on two CPU cores.
_FEW_RESTARTS, _SEEDING_ROWS_PER_CENTRE, _RELATIVE_CHANGE = 3, 4, 1e-4
# Share of the samples that a trimmed fit leaves out.
TRIMMED_SHARE = 0.001

# Called with the number of restarts done and their total.
RestartCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class KMeansCentres(Reference):
    """Centres of k-means, with what they were fitted on.

    Attributes:
        sizes: (k,) samples nearest to each centre, in the rows that were fitted.
        mean: (p,) mean of all rows.
        max_distance2: rows farther than this from `mean` (squared) are left out; infinity leaves out none.
    """

    sizes: Int[Tensor, " k"]
    mean: Float[Tensor, " p"]
    max_distance2: float = math.inf

    @property
    def smallest_cluster(self) -> float:
        """Samples of the smallest cluster over n / k: 1 for clusters of one size, near 0 if a few outliers own one."""
        return float(self.sizes.min()) * len(self.sizes) / float(self.sizes.sum())

    def squared_distances(self, features: Float[Tensor, "n p"]) -> Float[Tensor, " m"]:
        """Return min_k norm(h - m_k)^2 of each row that is not left out, float64."""
        if self.max_distance2 < math.inf:
            features = features[_distance2(features, self.mean) <= self.max_distance2]
        return squared_distances_to_nearest(features, self)

    def variance(self, features: Float[Tensor, "n p"]) -> float | None:
        """Return the mean squared distance to the nearest centre over the spread of the centres; None if they coincide."""
        return float(self.squared_distances(features).mean()) / self.spread if self.spread > 0 else None


def fit_kmeans(
    features: Float[Tensor, "n p"],
    num_centres: int,
    *,
    seed: int = 0,
    trimmed: bool = False,
    progress: RestartCallback | None = None,
) -> KMeansCentres | None:
    """Fit k-means centres to test features; the restart with the smallest inertia wins.

    Up to `MAX_EXACT_DISTANCES`: k-means++ and 10 restarts, each to a fixed point. Beyond: 3 restarts from k-means++ on
    a sample, each until the inertia changes by less than 1e-4 of itself, in float32 on the device of the features.

    Args:
        features: at most `MAX_ROWS` rows; see `sample_rows`.
        num_centres: k, the number of classes.
        seed: seed for k-means.
        trimmed: leave out the share `TRIMMED_SHARE` of the rows (at least one) that lie farthest from their mean: a
            single outlier can own a centre, whose distance then dominates the spread of the centres.
        progress: called after every restart.

    Returns:
        The centres, or None with fewer than k distinct rows.
    """
    mean = features.mean(0, dtype=torch.float64)
    max_distance2 = math.inf
    if trimmed:
        distance2 = _distance2(features, mean)
        kept = len(features) - math.ceil(TRIMMED_SHARE * len(features))
        max_distance2 = float(distance2.sort().values[kept - 1]) if kept else -math.inf
        features = features[distance2 <= max_distance2]
    if not _has_distinct(features, mean, num_centres):
        return None
    fit = _few_restarts if is_approximate(len(features), num_centres) else _to_fixed_point
    labels, centres = fit(features, mean, num_centres, seed, progress or _ignore)
    sizes = torch.bincount(labels.cpu(), minlength=num_centres)
    return KMeansCentres(centres, sizes, mean, max_distance2)


def is_approximate(num_rows: int, num_centres: int) -> bool:
    """Return whether `fit_kmeans` saves time."""
    return num_rows * num_centres > MAX_EXACT_DISTANCES


def sample_rows(num_rows: int, seed: int = 0) -> Tensor | None:
    """Return the sorted numbers of the rows on which k-means is fitted, or None for all of them."""
    if num_rows <= MAX_ROWS:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_rows, generator=generator)[:MAX_ROWS].sort().values


def kmeans_warnings(num_rows: int, num_centres: int, centres: KMeansCentres | None) -> list[str]:
    """Return what is unusual about a fit.

    Args:
        num_rows: samples of the split, of which at most `MAX_ROWS` were fitted.
        num_centres: k.
        centres: what `fit_kmeans` returned.
    """
    if centres is None:
        return [f"weak_test_variance is undefined: fewer than {num_centres} distinct samples for k-means"]
    out = []
    if num_rows > MAX_ROWS:
        out.append(
            f"weak_test_variance: k-means is fitted on a seeded sample of {MAX_ROWS} of {num_rows} samples"
        )
    if is_approximate(min(num_rows, MAX_ROWS), num_centres):
        out.append(
            f"weak_test_variance: k-means of {num_centres} centres is approximate: {_FEW_RESTARTS} restarts, each until "
            f"the inertia changes by less than {_RELATIVE_CHANGE:g}"
        )
    return out


def _ignore(_done: int, _total: int) -> None:
    pass


def _distance2(features: Float[Tensor, "n p"], mean: Float[Tensor, " p"]) -> Float[Tensor, " n"]:
    """Return the squared distance of each row from `mean`, float64."""
    step, mean = max(1, block_elements(features.device) // features.shape[1]), mean.to(features.device)
    return torch.cat([(block.double() - mean).square().sum(1) for block in features.split(step)])


def _to_fixed_point(
    features: Tensor, mean: Tensor, num_centres: int, seed: int, progress: RestartCallback
) -> tuple[Tensor, Tensor]:
    """Return the label of each row and the centres."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = features.to(device="cpu", dtype=torch.float64, copy=True).sub_(mean.cpu()).numpy()
    random_state = np.random.RandomState(seed)
    best, lowest = None, math.inf
    # With more than two threads, sums are added in the order in which threads finish: the last digits would vary.
    with warnings.catch_warnings(), thread_pools("sklearn.cluster").limit(limits=1):
        # A restart may begin with the same point twice, and warns; only the best restart counts.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for done in range(_RESTARTS):
            model = KMeans(
                num_centres,
                init="k-means++",
                n_init=1,  # pyright: ignore[reportArgumentType] the stub reads only the string default
                tol=0,
                max_iter=_ITERATIONS,
                random_state=random_state,
            )
            model.fit(rows)
            assert model.inertia_ is not None
            if best is None or model.inertia_ < lowest:
                best, lowest = model, model.inertia_
            progress(done + 1, _RESTARTS)
    assert best is not None
    return torch.from_numpy(best.labels_).long(), torch.from_numpy(best.cluster_centers_).to(mean) + mean


def _few_restarts(
    features: Tensor, mean: Tensor, num_centres: int, seed: int, progress: RestartCallback
) -> tuple[Tensor, Tensor]:
    """Return the label of each row and the centres."""
    rows = torch.cat([(block.double() - mean).float() for block in features.split(4096)])
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, Tensor, Tensor] | None = None
    for done in range(_FEW_RESTARTS):
        chosen = torch.randperm(len(rows), generator=generator)[: _SEEDING_ROWS_PER_CENTRE * num_centres]
        with full_precision_products(rows.device):
            found = _lloyd(rows, _plus_plus(rows[chosen.to(rows.device)], num_centres, generator))
        best = found if best is None or found[0] < best[0] else best
        progress(done + 1, _FEW_RESTARTS)
    assert best is not None
    return best[1], best[2] + mean


def _plus_plus(rows: Tensor, num_centres: int, generator: torch.Generator) -> Tensor:
    """Return rows drawn one after another, each with probability proportional to its squared distance from those before."""
    norms, device = rows.square().sum(1), rows.device
    # Drawn on the host, all at once: no value goes to a device or comes back for every centre.
    last = torch.randint(len(rows), (1,), generator=generator).to(device)
    shares = [torch.rand(1, dtype=torch.float64, generator=generator) for _ in range(num_centres - 1)]
    chosen, distance2 = [last], torch.full_like(norms, math.inf)
    uniform = torch.arange(1, len(rows) + 1, dtype=torch.float64, device=device)
    for share in torch.stack(shares).to(device) if shares else ():
        row = rows.index_select(0, last)[0]
        distance2 = torch.minimum(distance2, (norms - 2 * (rows @ row) + row.square().sum()).clamp_min_(0))
        distance2.index_fill_(0, last, 0)
        weights = distance2.double().cumsum(0)
        weights = torch.where(weights[-1] > 0, weights, uniform)  # a sample of equal rows has no distances
        last = torch.searchsorted(weights, share * weights[-1], right=True).clamp_max_(len(rows) - 1)
        chosen.append(last)
    return rows[torch.cat(chosen)]


def _lloyd(rows: Tensor, centres: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return inertia, the label of each row and the centres (float64) of Lloyd's algorithm."""
    before = inertia = math.inf
    labels = rows.new_zeros(len(rows), dtype=torch.int64)
    for _ in range(_ITERATIONS):
        labels = torch.cat([_nearest(block, centres) for block in rows.split(4096)])
        distance2 = torch.cat(
            [
                (block - centres[chosen]).square().sum(1, dtype=torch.float64)
                for block, chosen in zip(rows.split(4096), labels.split(4096), strict=True)
            ]
        )
        inertia = float(distance2.sum())
        sizes = torch.bincount(labels, minlength=len(centres))
        if abs(before - inertia) <= _RELATIVE_CHANGE * inertia:
            break
        before = inertia
        sums = _sums_of_clusters(rows, labels, len(centres))
        centres = (sums / sizes.clamp_min(1)[:, None]).float()
        # A centre without rows takes the place of the row that is farthest from its own.
        empty = (sizes == 0).nonzero()[:, 0]
        centres[empty] = rows[distance2.topk(len(empty)).indices]
    return inertia, labels, centres.double()


def _sums_of_clusters(rows: Tensor, labels: Tensor, number: int) -> Float[Tensor, "k p"]:
    """Return the sum of the rows of each cluster, float64; on an accelerator in an order that is always the same."""
    if rows.device.type != "cpu":
        return RowsByClass(labels, number).sums(rows).double()
    return rows.new_zeros(number, rows.shape[1], dtype=torch.float64).index_add_(0, labels, rows.double())


def _nearest(rows: Tensor, centres: Tensor) -> Int[Tensor, " n"]:
    return torch.addmm(centres.square().sum(1), rows, centres.T, alpha=-2).argmin(1)


def _has_distinct(features: Tensor, mean: Tensor, number: int) -> Bool[Tensor, ""] | bool:
    """Return whether there are at least `number` distinct rows."""
    # Rows with different projections are different, and sorting numbers is far cheaper than sorting rows. The
    # projections of equal rows may round to two neighbouring values, hence twice the number.
    direction = torch.from_numpy(np.random.default_rng(0).standard_normal(features.shape[1])).to(mean.device)
    step = max(1, block_elements(features.device) // features.shape[1])
    projections = torch.cat([(block.double() - mean) @ direction for block in features.split(step)])
    size = float(projections.abs().max()) if len(projections) else 0.0
    if size > 0 and len((projections / size * 1e9).round().unique()) >= 2 * number:
        return True
    return len(features.unique(dim=0)) >= number
