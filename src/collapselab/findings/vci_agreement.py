"""Errors and rankings of VCI from a finite number of samples, computed from the rows of the finding.

Every function takes the rows of one seed and one data set. Letters: j networks, n samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from collapselab.frames import rows_that, rows_where

COLUMNS = {"vci": "VCI", "vci_adjusted": "adjusted VCI"}
_Floats = npt.NDArray[np.float64]


def drawn(rows: pd.DataFrame, kind: str, column: str) -> dict[int, _Floats]:
    """Return the values of all draws by n: (networks, draws), networks in order of their names."""
    draws = rows_that(rows, (rows["kind"] == kind) & (rows["draw"] >= 0))
    return {
        int(str(n)): part.pivot(index="job", columns="draw", values=column).to_numpy(np.float64)
        for n, part in draws.groupby("n")
    }


def whole(rows: pd.DataFrame, kind: str, column: str) -> _Floats:
    """Return the value of all samples of each network, in order of their names."""
    return rows_where(rows, kind=kind, draw=-1).sort_values("job")[column].to_numpy(np.float64)


def widths(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the width of each network, in order of their names."""
    return rows_where(rows, kind="test", draw=-1).sort_values("job")["width"].to_numpy(np.int64)


def population(rows: pd.DataFrame, kind: str) -> _Floats:
    """Return the value that draws estimate, of each network.

    Of real test features this is itself an estimate: adjusted VCI of all test samples. Gaussian features were drawn with
    the class means and covariances of all test features: VCI of the latter is exactly theirs. Where labels were
    permuted it is 1.
    """
    if kind == "permuted":
        return np.ones(len(whole(rows, "test", "vci")))
    return whole(rows, "test", "vci_adjusted" if kind == "test" else "vci")


def relative_errors(rows: pd.DataFrame, kind: str, column: str) -> dict[int, _Floats]:
    """Return (estimate - population value) / population value of all draws by n: (networks, draws)."""
    true = population(rows, kind)[:, None]
    return {n: (values - true) / true for n, values in drawn(rows, kind, column).items()}


def predicted_biases(rows: pd.DataFrame, kind: str) -> dict[int, _Floats]:
    """Return by n the relative bias of adjusted VCI that effective ranks predict, of each network.

    VCI of n samples is 1 - effective rank / n of the population value, for large n; the adjustment divides by
    1 - rank / (n - 1), for a rank of at least c - 1. Real features: relative to the whole test set, whose own bias is predicted alike.
    """
    rank, effective = whole(rows, kind, "rank"), whole(rows, kind, "effective_rank")

    def factor(n: int) -> _Floats:
        return (1 - effective / n) / (1 - rank / (n - 1))

    base = factor(int(whole(rows, kind, "n")[0])) if kind == "test" else 1.0
    return {n: factor(n) / base - 1 for n in drawn(rows, kind, "vci")}


def agreement(values: _Floats, true: _Floats, pairs: npt.NDArray[np.bool_] | None = None) -> float:
    """Return Kendall's rank correlation: the share of pairs in the true order minus that in the opposite order.

    Args:
        values, true: (j,).
        pairs: (j, j), which pairs count; default all.
    """
    same = np.sign(values[:, None] - values) * np.sign(true[:, None] - true)
    if np.isnan(same).any():
        return float("nan")
    counted = np.ones_like(same, dtype=bool) if pairs is None else pairs
    return float(same[counted & ~np.eye(len(same), dtype=bool)].mean())


def rankings(rows: pd.DataFrame, kind: str, column: str) -> dict[int, float]:
    """Return by n how well networks measured with n samples each are ranked: the mean agreement over draws."""
    true = population(rows, kind)
    return {n: _over_draws(list(values.T), true) for n, values in drawn(rows, kind, column).items()}


def mixed_ranking(rows: pd.DataFrame, column: str) -> float:
    """Return how well networks are ranked if each is measured with a number of samples of its own, drawn by chance."""
    values, true = drawn(rows, "test", column), population(rows, "test")
    by_size = np.stack([values[n] for n in sorted(values)])
    seed, networks = int(rows["seed"].iloc[0]), np.arange(len(true))
    mixed = []
    for draw in range(by_size.shape[2]):
        sizes = np.random.default_rng([seed, draw]).permutation(networks % len(by_size))
        mixed.append(by_size[sizes, networks, draw])
    return _over_draws(mixed, true)


def reordered(rows: pd.DataFrame) -> dict[int, float]:
    """Return by n the share of pairs of equally wide networks that VCI and adjusted VCI put in different orders."""
    raw, adjusted = drawn(rows, "test", "vci"), drawn(rows, "test", "vci_adjusted")
    equal = np.equal.outer(widths(rows), widths(rows))
    pairs = {n: zip(raw[n].T, adjusted[n].T, strict=True) for n in raw}
    return {
        n: float(np.mean([(1 - agreement(a, b, equal)) / 2 for a, b in both])) for n, both in pairs.items()
    }


def root_mean_square(values: _Floats) -> float:
    """Return the root of the mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(values))))


def largest_bias(rows: pd.DataFrame, errors: Mapping[int, _Floats]) -> dict[int, float]:
    """Return by n the mean relative error of the networks of one width, for the width where it is largest in size."""
    of_width = [widths(rows) == width for width in np.unique(widths(rows))]
    return {n: max(abs(float(one[own].mean())) for own in of_width) for n, one in errors.items()}


def _over_draws(values: Sequence[_Floats], true: _Floats) -> float:
    return float(np.mean([agreement(one, true) for one in values]))
