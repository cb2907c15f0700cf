"""Every quantity again, the slow and obvious way: float64, two passes, whole matrices, no shared code.

Letters: n samples, p features, c classes. Labels are 0 … C-1. `weighting` is `balanced` or `sample`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
import scipy.spatial
import torch
from sklearn.cluster import KMeans

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
EPS = float(np.finfo(np.float64).eps)


def as_double(features: Any) -> Array:
    """Features of any dtype as float64, bfloat16 included."""
    if isinstance(features, torch.Tensor):
        return features.double().numpy()
    return np.asarray(features, dtype=np.float64)


@dataclass
class Oracle:
    """All quantities of one labelled set of features; the classes are the labels that occur."""

    features: Array
    labels: Labels
    weighting: str = "balanced"
    weight: Array | None = None

    def __post_init__(self) -> None:
        self.classes = np.unique(self.labels)
        self.num_classes = len(self.classes)
        self.rows = [self.features[self.labels == c] for c in self.classes]
        self.counts = np.array([len(rows) for rows in self.rows])
        # About the first row, so that an offset common to all features is not rounded into the means.
        origin = self.features[0]
        near = np.stack([(rows - origin).mean(axis=0) for rows in self.rows])
        self.means = near + origin
        if self.weighting == "balanced":
            self.pi = np.full(self.num_classes, 1 / self.num_classes)
        else:
            self.pi = self.counts / self.counts.sum()
        self.centred = near - self.pi @ near
        self.deviations = [(rows - origin) - mean for rows, mean in zip(self.rows, near, strict=True)]
        self.class_variances = np.array([(d**2).sum() / len(d) for d in self.deviations])
        # Sigma_T from its own sum, about the global mean.
        self.from_global = [(rows - origin) - self.pi @ near for rows in self.rows]

    @property
    def r(self) -> int:
        return min(self.features.shape[1], self.num_classes - 1)

    @property
    def sigma_w(self) -> Array:
        return sum(
            (w * d.T @ d / len(d) for w, d in zip(self.pi, self.deviations, strict=True)),
            start=np.zeros((self.features.shape[1],) * 2),
        )

    @property
    def sigma_b(self) -> Array:
        return (self.centred.T * self.pi) @ self.centred

    @property
    def sigma_t(self) -> Array:
        return sum(
            (w * d.T @ d / len(d) for w, d in zip(self.pi, self.from_global, strict=True)),
            start=np.zeros((self.features.shape[1],) * 2),
        )

    # ------------------------------------------------------------ NC1

    def within_trace(self) -> float:
        return float(self.pi @ self.class_variances)

    def between_trace(self) -> float:
        return float(self.pi @ (self.centred**2).sum(axis=1))

    def total_trace(self) -> float:
        return float(sum(w * (d**2).sum() / len(d) for w, d in zip(self.pi, self.from_global, strict=True)))

    def normalized_within(self) -> float:
        return self.within_trace() / self.total_trace()

    def squared_distance(self) -> float:
        return self.within_trace() / self.between_trace()

    def fuzziness(self) -> float:
        """Sum over samples of the squared length in the metric Sigma_B^+: a sum of squares cannot cancel."""
        _, s, vt = np.linalg.svd(self.centred * np.sqrt(self.pi)[:, None], full_matrices=False)
        s, vt = s[: self.r], vt[: self.r]
        keep = s > max(self.centred.shape) * EPS * s[0]
        whitened = vt[keep].T / s[keep]
        return float(
            sum(
                w * ((d @ whitened) ** 2).sum() / len(d)
                for w, d in zip(self.pi, self.deviations, strict=True)
            )
        )

    def nc1(self) -> float:
        return self.fuzziness() / self.num_classes

    def explained(self) -> float:
        """Tr(Sigma_T^+ Sigma_B) by least squares on the weighted rows, never a p x p matrix.

        With D the rows sqrt(pi_c/n_c) (h_i - mu_G), Sigma_T = D^T D, so the trace is a sum of squared
        norms of pinv(D)^T sqrt(pi_c) (mu_c - mu_G); features are scaled to unit total variance first.
        """
        rows = np.concatenate(
            [np.sqrt(w / len(d)) * d for w, d in zip(self.pi, self.from_global, strict=True)]
        )
        scale = np.sqrt((rows**2).sum(axis=0))
        varying = scale > 0
        rows = rows[:, varying] / scale[varying]
        means = (self.centred * np.sqrt(self.pi)[:, None])[:, varying] / scale[varying]
        _, s, vt = np.linalg.svd(rows, full_matrices=False)
        keep = s**2 > self.features.shape[1] * EPS * s[0] ** 2
        return float((((means @ vt[keep].T) / s[keep]) ** 2).sum())

    def vci(self) -> float:
        return 1 - self.explained() / self.r

    def vci_adjusted(self) -> float:
        """By the projectors onto the centred features and the class indicators, n x n, and their mean over chance.

        For unequal weights the mean is that of Gaussian features, from the spectrum of the n x n matrix K of weights.
        """
        weights = np.concatenate([np.full(n, w / n) for w, n in zip(self.pi, self.counts, strict=True)])
        rows = np.concatenate(self.from_global) * np.sqrt(weights)[:, None]
        rank = int(np.linalg.matrix_rank(rows / np.linalg.norm(rows, axis=0), tol=1e-7))
        r, u = min(rank, self.num_classes - 1), np.sqrt(weights)
        indicators = np.repeat(np.eye(self.num_classes), self.counts, axis=0) / np.sqrt(self.counts)
        off = np.eye(len(u)) - np.outer(u, u)
        values, vectors = np.linalg.eigh(off @ np.diag(weights) @ off)

        def missing(t: float) -> float:
            return float((t * values / (1 + t * values)).sum() - rank)

        t = float(scipy.optimize.brentq(missing, 0, 1e15))  # pyright: ignore[reportArgumentType]
        by_class = ((vectors.T @ indicators) ** 2).sum(axis=1)
        by_chance = float((t * values / (1 + t * values)) @ by_class)
        return (1 - self.explained() / r) / (1 - by_chance / r)

    def unbiased(self, within: Array, pi: Array) -> tuple[float, float] | None:
        """Mean squared distances of pairs: half that of two samples of a class, and across classes less that."""
        if (self.counts < 2).any():
            return None
        own = np.array([pair_distance(d) / 2 for d in self.deviations])
        across = 0.0
        for i, j in self.pairs():
            distances = scipy.spatial.distance.cdist(self.rows[i], self.rows[j], "sqeuclidean").mean()
            across += pi[i] * pi[j] / 2 * (distances - own[i] - own[j])
        return (float(within @ own), across) if across > 0 else None

    def squared_distance_debiased(self) -> float | None:
        traces = self.unbiased(self.pi, self.pi)
        return None if traces is None else traces[0] / traces[1]

    def normalized_within_debiased(self) -> float | None:
        traces = self.unbiased(self.pi, self.pi)
        return None if traces is None else traces[0] / sum(traces)

    def strong_test_variance_debiased(self) -> float | None:
        c = self.num_classes
        traces = self.unbiased(self.counts / self.counts.sum(), np.full(c, 1 / c))
        return None if traces is None else traces[0] / traces[1]

    def unit_means(self) -> Array:
        out = []
        for rows in self.rows:
            norms = np.linalg.norm(rows, axis=1)
            rows, norms = rows[norms > 0], norms[norms > 0]
            if len(rows):
                out.append((rows / norms[:, None]).mean(axis=0))
        return np.stack(out)

    def cosine_similarity(self) -> float:
        """Every pair of samples of a class, one by one matrix of cosines."""
        values = []
        for rows in self.rows:
            norms = np.linalg.norm(rows, axis=1)
            units = rows[norms > 0] / norms[norms > 0, None]
            if len(units):
                values.append((units @ units.T).mean())
        return float(np.mean(values))

    def class_separation(self) -> float:
        d_within = 1 - self.cosine_similarity()
        d_total = 1 - (self.unit_means().mean(axis=0) ** 2).sum()
        return float(1 - d_within / d_total)

    def pairs(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(self.num_classes) for j in range(self.num_classes) if i != j]

    def cdnv(self) -> float:
        v, m = self.class_variances, self.centred
        return float(np.mean([(v[i] + v[j]) / (2 * ((m[i] - m[j]) ** 2).sum()) for i, j in self.pairs()]))

    # ------------------------------------------------------------ NC2

    def equinorm(self) -> float:
        norms = np.linalg.norm(self.centred, axis=1)
        return float(norms.std() / norms.mean())

    def cosines(self) -> Array:
        units = self.centred / np.linalg.norm(self.centred, axis=1)[:, None]
        return np.array([units[i] @ units[j] for i, j in self.pairs()])

    def equiangularity(self) -> float:
        return float(self.cosines().std())

    def max_angle_gap(self) -> float:
        return float(np.abs(self.cosines() + 1 / (self.num_classes - 1)).mean())

    def mean_cosine_gap(self) -> float:
        return float((self.cosines() + 1 / (self.num_classes - 1)).mean())

    def etf_distance(self) -> float:
        c = self.num_classes
        gram = self.centred @ self.centred.T
        simplex = (np.eye(c) - np.ones((c, c)) / c) / np.sqrt(c - 1)
        return float(np.linalg.norm(gram / np.linalg.norm(gram) - simplex))

    # ------------------------------------------------------------ NC3

    def self_duality(self) -> float:
        assert self.weight is not None
        return float(
            np.linalg.norm(
                self.weight / np.linalg.norm(self.weight) - self.centred / np.linalg.norm(self.centred)
            )
        )

    def weight_rows(self, eps: float = EPS) -> Array:
        """Orthonormal basis of the row space of W, one vector a row, largest singular value first."""
        assert self.weight is not None
        _, s, vt = np.linalg.svd(self.weight, full_matrices=False)
        return vt[s > max(self.weight.shape) * eps * s[0]]

    def alignment(self) -> float:
        _, s, vt = np.linalg.svd(self.centred, full_matrices=False)
        means = vt[: int((s > max(self.centred.shape) * EPS * s[0]).sum())]
        rows = self.weight_rows()
        k = min(self.num_classes - 1, len(means), len(rows), self.features.shape[1])
        return float(np.cos(scipy.linalg.subspace_angles(means[:k].T, rows[:k].T)).mean())

    def num_angles(self) -> int:
        means = int(np.linalg.matrix_rank(self.centred))
        return min(self.num_classes - 1, means, len(self.weight_rows()), self.features.shape[1])

    def alignment_random(self, draws: int = 4000) -> float:
        """Monte Carlo: both subspaces drawn, their angles by scipy."""
        return float(random_alignments(self.num_angles(), self.features.shape[1], draws).mean())

    def weight_singular_spread(self) -> float:
        """Over the C largest singular values, those below the rank of W as zero."""
        assert self.weight is not None
        values = np.linalg.svd(self.weight, compute_uv=False)[: self.num_classes]
        values = np.where(values > max(self.weight.shape) * EPS * values[0], values, 0)
        return float(values.std() / values.mean())

    def weight_top_spread(self) -> float:
        """Over one singular value less."""
        assert self.weight is not None
        values = np.linalg.svd(self.weight, compute_uv=False)
        top = np.where(values > max(self.weight.shape) * EPS * values[0], values, 0)[: self.num_classes - 1]
        return float(np.std(top) / np.mean(top))

    def weight_stable_rank(self) -> float:
        assert self.weight is not None
        return float(np.linalg.norm(self.weight) ** 2 / np.linalg.norm(self.weight, 2) ** 2)

    # ------------------------------------------------------------ ranks and spectra

    def stable_rank(self) -> float:
        sigma = self.sigma_w
        return float(np.trace(sigma) / np.linalg.norm(sigma, 2))

    # Of a scatter that is kept whole both bounds are the value.
    stable_rank_low = stable_rank_high = stable_rank

    def stable_rank_per_class(self) -> float:
        scatters = [d.T @ d for d in self.deviations if (d**2).sum() > 0]
        return float(np.mean([np.trace(s) / np.linalg.norm(s, 2) for s in scatters]))

    def stable_rank_published(self) -> float:
        """Sum of squared singular values over the largest squared one divided by n_c, of the rows of each class."""
        values = [np.linalg.svd(d, compute_uv=False) for d in self.deviations]
        return float(
            np.mean(
                [
                    len(d) * (s**2).sum() / s[0] ** 2
                    for d, s in zip(self.deviations, values, strict=True)
                    if s[0] > 0
                ]
            )
        )

    def projector(self) -> Array:
        rows = self.weight_rows()
        return rows.T @ rows

    def within_in_weight_space(self) -> float:
        return float(np.trace(self.projector() @ self.sigma_w))

    def within_off_weight_space(self) -> float:
        p = self.features.shape[1]
        return float(np.trace((np.eye(p) - self.projector()) @ self.sigma_w))

    def between_in_weight_space(self) -> float:
        return float(np.trace(self.projector() @ self.sigma_b))

    def between_off_weight_space(self) -> float:
        p = self.features.shape[1]
        return float(np.trace((np.eye(p) - self.projector()) @ self.sigma_b))

    def components(self, percent: int) -> int:
        values = np.sort(np.linalg.eigvalsh(self.sigma_t))[::-1].clip(min=0)
        total, running = values.sum(), 0.0
        for index, value in enumerate(values):
            running += value
            if running >= percent / 100 * total * (1 - 1e-12):
                return index + 1
        raise AssertionError

    def components_90(self) -> int:
        return self.components(90)

    def components_95(self) -> int:
        return self.components(95)

    def components_99(self) -> int:
        return self.components(99)

    # ------------------------------------------------------------ Hui's variances

    def labelled_variance(self, reference: Array) -> float:
        """Sample by sample: E norm(h - mu_y)^2 over the spread of the reference means."""
        numerator = np.mean(
            [
                ((h - reference[np.searchsorted(self.classes, y)]) ** 2).sum()
                for h, y in zip(self.features, self.labels, strict=True)
            ]
        )
        return float(numerator / spread(reference))

    def train_variance(self) -> float:
        return self.labelled_variance(self.means)

    strong_test_variance = train_variance


def pair_distance(rows: Array) -> float:
    """Mean squared distance over all pairs of two different rows."""
    return float(scipy.spatial.distance.pdist(rows, "sqeuclidean").mean())


def random_alignments(k: int, dim: int, draws: int) -> Array:
    """Mean cosines of the principal angles between two Gaussian k-dimensional subspaces of R^dim."""
    rng = np.random.default_rng(12345)
    pairs = (rng.standard_normal((2, dim, k)) for _ in range(draws))
    return np.array([np.cos(scipy.linalg.subspace_angles(a, b)).mean() for a, b in pairs])


def spread(centres: Array) -> float:
    """mean_c norm(mu_c - mean of them)^2."""
    return float(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).mean())


def weak_variance(reference_rows: Array, rows: Array, k: int, seed: int = 0) -> float:
    """k-means of `reference_rows`, then the mean squared distance of `rows` to the nearest centre."""
    shift = reference_rows.mean(axis=0)
    model = KMeans(k, n_init=10, tol=0, max_iter=1000, random_state=seed).fit(reference_rows - shift)  # pyright: ignore[reportArgumentType] the stub reads only the string default
    centres = model.cluster_centers_ + shift
    distances = ((rows[:, None, :] - centres[None]) ** 2).sum(axis=2)
    return float(distances.min(axis=1).mean() / spread(centres))


def nearest(features: Array, means: Array) -> Labels:
    """argmin_c norm(h - mu_c) by differences; distances within 1e-12 of the least are ties, lowest wins."""
    out = np.empty(len(features), dtype=np.int64)
    for row, h in enumerate(features):
        distances = ((h - means) ** 2).sum(axis=1)
        out[row] = np.flatnonzero(distances <= distances.min() * (1 + 1e-12))[0]
    return out


def least_squares_loss(features: Array, labels: Labels) -> float:
    """The least of (1/2) sum_c 1/(C n_c) sum_{i in c} norm(W h_i + b - y_i)^2 over W and b."""
    classes, index = np.unique(labels, return_inverse=True)
    c = len(classes)
    sample_weights = 1 / (c * np.bincount(index))[index]
    design = np.column_stack([features - features.mean(axis=0), np.ones(len(features))])
    targets = np.eye(c)[index]
    root = np.sqrt(sample_weights)[:, None]
    solution = np.linalg.lstsq(design * root, targets * root, rcond=None)[0]
    return float(0.5 * (sample_weights[:, None] * (design @ solution - targets) ** 2).sum())
