"""Train, strong-test and weak-test variance of Hui, Belkin and Nakkiran (2022), sec. 3.1.

The numerator is computed at training time t, with references fixed at the end of training T (as the paper defines) or
at t itself. Stored class means and scatters are enough for the first two variances; the third needs k-means centres of
the test features at T and a pass over the features at t.

Letters: n samples, p features, c classes, k centres.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.metrics.decision import nearest_class_centre
from collapselab.metrics.inputs import MetricInputs
from collapselab.numerics import EPS64

MAX_KMEANS_ROWS = 50_000
_KMEANS_RESTARTS = 10
# k-means always converges; this limit only stops a run that would take days.
_KMEANS_ITERATIONS = 10_000


@dataclass(frozen=True)
class Reference:
    """Points to which the features are expected to collapse at the end of training.

    Attributes:
        centres: class means (train and strong test variance) or k-means centres (weak), float64.
    """

    centres: Float[Tensor, "k p"]

    @property
    def spread(self) -> float:
        """Mean squared distance of the centres from their mean: the denominator. A value below rounding is zero."""
        shifted = self.centres - self.centres[0]
        spread = float((shifted - shifted.mean(0)).square().sum(1).mean())
        rounding = self.centres.shape[1] * (16 * EPS64 * float(self.centres.abs().max())) ** 2
        return spread if spread > rounding else 0.0


def labelled_variance(
    counts: Tensor,
    class_means: Float[Tensor, "c p"],
    class_variances: Float[Tensor, " c"],
    reference: Reference,
) -> float | None:
    """E norm(h^t - mu_y)^2 / mean_c norm(mu_c - mu)^2 = sum_c (n_c/n) (v_c + norm(mu_c(t) - mu_c)^2) / spread.

    Statistics of train features give the train variance, those of test features the strong test variance.

    Args:
        counts, class_means, class_variances: statistics of the features at t.
        reference: class means at T.

    Returns:
        The variance, or None where the reference means coincide.
    """
    distance2 = (class_means - reference.centres).square().sum(1)
    numerator = float(counts.double() @ (class_variances + distance2)) / int(counts.sum())
    return numerator / reference.spread if reference.spread > 0 else None


def current_variance(inputs: MetricInputs) -> float | None:
    """`labelled_variance` with the class means of the same features as reference (t = T)."""
    if inputs.between_trace == 0:
        inputs.warn("train_variance and strong_test_variance are undefined: all class means coincide")
        return None
    return labelled_variance(
        inputs.stats.counts, inputs.class_means, inputs.class_variances, Reference(inputs.class_means)
    )


def weak_test_variance(inputs: MetricInputs) -> float | None:
    return inputs.weak_test_variance


def fit_weak_reference(features: Float[Tensor, "n p"], num_centres: int, seed: int = 0) -> Reference | None:
    """Fit k-means centres to test features: k-means++, 10 restarts, each to a fixed point; the best inertia wins.

    Args:
        features: at most `MAX_KMEANS_ROWS` rows; see `sample_rows`.
        num_centres: k, the number of classes.
        seed: seed for k-means.

    Returns:
        The centres, or None with fewer than k distinct rows.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    rows = features.to(device="cpu", dtype=torch.float64, copy=True).numpy()
    shift = rows.mean(axis=0)
    rows -= shift
    if not _has_distinct(rows, num_centres):
        return None
    model = KMeans(
        num_centres,
        init="k-means++",
        n_init=_KMEANS_RESTARTS,  # pyright: ignore[reportArgumentType] the stub reads only the string default
        tol=0,
        max_iter=_KMEANS_ITERATIONS,
        random_state=seed,
        copy_x=False,  # `rows` is a copy already
    )
    # With more than two threads, sums are added in the order in which threads finish: the last digits would vary.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A restart may begin with the same point twice, and warns; only the best restart counts.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return Reference(torch.from_numpy(model.cluster_centers_ + shift))


def _has_distinct(rows: np.ndarray, number: int) -> bool:
    """Return whether there are at least `number` distinct rows."""
    # Rows with different projections are different, and sorting numbers is far cheaper than sorting rows. The
    # projections of equal rows may round to two neighbouring values, hence twice the number.
    projections = rows @ np.random.default_rng(0).standard_normal(rows.shape[1])
    size = float(np.abs(projections).max())
    if size > 0 and len(np.unique(np.round(projections / size * 1e9))) >= 2 * number:
        return True
    return len(np.unique(rows, axis=0)) >= number


def sample_rows(num_rows: int, seed: int = 0) -> Tensor | None:
    """Return the sorted numbers of the rows on which k-means is fitted, or None for all of them."""
    if num_rows <= MAX_KMEANS_ROWS:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_rows, generator=generator)[:MAX_KMEANS_ROWS].sort().values


def kmeans_sampled(num_rows: int) -> str:
    """Return the warning for k-means that is fitted on a sample of the rows."""
    return (
        f"weak_test_variance: k-means is fitted on a seeded sample of {MAX_KMEANS_ROWS} of {num_rows} samples"
    )


def kmeans_undefined(num_centres: int) -> str:
    """Return the warning for features with fewer distinct rows than centres."""
    return f"weak_test_variance is undefined: fewer than {num_centres} distinct samples for k-means"


def squared_distances_to_nearest(features: Float[Tensor, "n p"], reference: Reference) -> Float[Tensor, " n"]:
    """Return min_k norm(h - m_k)^2 of each row, computed from differences to the nearest centre, float64."""
    nearest = nearest_class_centre(features, reference.centres)
    out = torch.empty(len(features), dtype=torch.float64)
    step = max(1, 2**20 // features.shape[1])
    for start in range(0, len(features), step):
        block = slice(start, start + step)
        differences = features[block].double() - reference.centres[nearest[block]]
        out[block] = differences.square().sum(1)
    return out
