"""VCI of draws from the features of trained networks: the measurements of the finding about finite samples.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data import AnySplit
from collapselab.experiments.grid import Grid
from collapselab.features.measure import measure
from collapselab.records.experiment import ExtraRow
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import layer_features

# Numbers of samples of the draws; proportionally fewer from a small test set.
SIZES = (600, 1000, 2000, 5000)
_NUM_SMALL, _SMALLEST_SET = 2, 7000
DRAWS = 6
_BATCH = 1000
_CUT_OFF = 1e-9  # relative, of eigenvalues: features are float32
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sampled:
    """Features and labels of samples.

    Attributes:
        features: (n, p).
        labels: (n,), from 0 to c - 1, every one present.
    """

    features: Float[Tensor, "n p"]
    labels: Int[Tensor, " n"]

    def at(self, rows: _Rows) -> Sampled:
        """Return the samples of these rows."""
        return Sampled(self.features[rows], self.labels[rows])

    def permuted(self, generator: np.random.Generator) -> Sampled:
        """Return the same features with labels in random order: labels that say nothing."""
        return Sampled(self.features, self.labels[generator.permutation(len(self.labels))])

    def vci(self) -> ExtraRow:
        """Return n, VCI, and VCI adjusted for n; None where it is undefined."""
        found = measure(self.features, self.labels, metrics=["vci", "vci_adjusted"]).splits["train"]
        return {"n": len(self.labels), "vci": found["vci"], "vci_adjusted": found["vci_adjusted"]}


def measure_draws(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return VCI of the last hidden layer of every network of a seed: of all samples, and of balanced draws.

    The draws of a seed are the same samples for every network.

    Returns:
        Rows with job, kind, n, draw, vci, vci_adjusted, rank and effective_rank (see `ranks`; of all samples only). Kinds: `test` and `train`; `permuted`, test features with
        labels in random order; `equal` and `unequal`, Gaussian features with the class means of the test features and
        their pooled covariance, or the covariance of each class. Rows with draw -1 are of all samples.
    """
    rows: list[ExtraRow] = []
    for name, run in runs.of(seed).items():
        model, data = run.model(), runs.samples.of(run.job.recipe)
        layer = classifier_name(model)

        def sampled(split: AnySplit, model: torch.nn.Module = model, layer: str = layer) -> Sampled:
            return Sampled(layer_features(model, split, layer, _BATCH), split.labels)

        for row in network_rows(sampled(data.train), sampled(data.test), seed):
            rows.append({"job": name} | row)
    return rows


def network_rows(train: Sampled, test: Sampled, seed: int) -> Iterator[ExtraRow]:
    """Yield the rows of one network."""
    yield {"kind": "train", "draw": -1} | train.vci()
    sizes = draw_sizes(len(test.labels))
    small = sizes[:_NUM_SMALL]
    yield from _of_draws("test", test, seed, sizes)
    for draw, rows in _draws(test.labels, small, seed):
        yield {"kind": "permuted", "draw": draw} | test.at(rows).permuted(_generator(seed, draw, 1)).vci()
    for kind in ("equal", "unequal"):
        yield from _of_draws(kind, gaussian(test, seed, pooled=kind == "equal"), seed, small)


def draw_sizes(num_samples: int) -> tuple[int, ...]:
    """Return the numbers of samples of draws from a set."""
    return tuple(size * min(num_samples, _SMALLEST_SET) // _SMALLEST_SET for size in SIZES)


def _of_draws(kind: str, whole: Sampled, seed: int, sizes: tuple[int, ...]) -> Iterator[ExtraRow]:
    yield {"kind": kind, "draw": -1} | whole.vci() | ranks(whole)
    for draw, rows in _draws(whole.labels, sizes, seed):
        yield {"kind": kind, "draw": draw} | whole.at(rows).vci()


def ranks(of: Sampled) -> ExtraRow:
    """Return the rank of the features, and the effective rank of their regression on the labels.

    1 - VCI is the share of the variance of one-hot labels that a linear regression on the features explains. With residuals
    e and leverages l = (h - mean)^T Sigma_T^+ (h - mean), whose mean is the rank, the effective rank is
    E[e^2 l] / E[e^2]: for large n, the regression of n samples fits a share of effective rank / n of the residual variance
    by chance (Takeuchi 1976, for squared loss). It equals the rank where the size of the residuals does not depend on the
    leverage. All classes must have equally many samples.
    """
    x, y = of.features.double(), torch.nn.functional.one_hot(of.labels).double()
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    covariance = x.T @ x / len(x)
    inverse = torch.linalg.pinv(covariance, rtol=_CUT_OFF, hermitian=True)
    solved = x @ inverse
    leverages, residuals = (solved * x).sum(dim=1), (y - solved @ (x.T @ y / len(x))).square().sum(dim=1)
    return {
        "rank": float(torch.linalg.matrix_rank(covariance, rtol=_CUT_OFF, hermitian=True)),
        "effective_rank": float((residuals * leverages).mean() / residuals.mean()),
    }


def _draws(labels: Int[Tensor, " n"], sizes: tuple[int, ...], seed: int) -> Iterator[tuple[int, _Rows]]:
    """Yield number and rows of draws without replacement, with equally many samples of each class."""
    of_class = [np.flatnonzero(labels.numpy() == label) for label in range(int(labels.max()) + 1)]
    for size in sizes:
        for draw in range(DRAWS):
            generator = _generator(seed, draw, size)
            yield (
                draw,
                np.concatenate(
                    [generator.choice(own, size // len(of_class), replace=False) for own in of_class]
                ),
            )


def gaussian(like: Sampled, seed: int, *, pooled: bool) -> Sampled:
    """Return Gaussian features with the class means of given ones, and as many samples of each class.

    Args:
        like: the given ones.
        seed: of the draw.
        pooled: whether every class has the mean covariance of all classes; else each has its own.
    """
    out, generator = like.features.double().clone(), _generator(seed, 0, 2)
    members = [like.labels == label for label in range(int(like.labels.max()) + 1)]
    own = [torch.cov(out[rows].T, correction=0) for rows in members]
    mean = torch.stack(own).mean(dim=0)
    for rows, covariance in zip(members, own, strict=True):
        values, vectors = torch.linalg.eigh(mean if pooled else covariance)
        drawn = torch.from_numpy(generator.standard_normal((int(rows.sum()), len(values))))
        out[rows] = out[rows].mean(dim=0) + (drawn * values.clamp_min(0).sqrt()) @ vectors.T
    return Sampled(out, like.labels)


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(seeds)
