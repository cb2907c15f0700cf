"""Measurements for sec. 4.1, 4.2 and 5 of Xu and Liu (2023), on the pixels and the last layer of a trained network.

Each row is one case. Columns that begin with `change_of` or `error_of` are zero up to rounding where an identity holds.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.experiments.grid import Grid
from collapselab.metrics import variability
from collapselab.metrics.alignment import within_in_weight_space
from collapselab.metrics.inputs import MetricInputs
from collapselab.papers.xu2023.common import (
    LastLayer,
    class_means,
    class_stats,
    last_layer_of,
    metric_inputs,
    sample_weights,
)
from collapselab.papers.xu2023.transformations import example, invertible, transformed
from collapselab.records.experiment import ExtraRow

METRICS = ("vci", "fuzziness", "squared_distance", "cosine_similarity")
CHANGES = tuple(f"change_of_{name}" for name in METRICS)
# Within-class variance that is added off the row space of the weight, over Tr Sigma_T.
ADDED = (0.0, 1.0, 1e2, 1e4)
# Factors of the distances from the class means.
SPREAD = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0)
_FEW = 3  # samples of each class: fewer in all than features
_COLUMNS = (
    "seed", "features", "case", *METRICS, *CHANGES, "added", "spread", "loss", "change_of_loss", "error_of_within_trace",
    "change_of_within_in_weight_space", "error_of_loss", "explained_over_rank", "error_of_explained",
)  # fmt: skip


def measure_identities(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return the rows of all cases, of the only network of a seed."""
    (run,) = runs.of(seed).values()
    return cases(last_layer_of(run, runs), seed)


def cases(last: LastLayer, seed: int) -> list[ExtraRow]:
    """Return the rows of all cases: of what a network and its classifier read, and of the example of observation 4.2."""
    rows: list[ExtraRow] = []
    for name, features in (("pixels", last.inputs.double()), ("last layer", last.features.double())):
        own = (*_transformations(features, last.labels, seed), *_losses(features, last.labels, seed))
        rows += [{"features": name} | case for case in own]
    rows += [{"features": "last layer"} | case for case in _off_weight_space(last, seed)]
    features, labels, matrix = example()
    rows += [
        {"features": "example", "case": "example", **_metrics(metric_inputs(features, labels))},
        {"features": "example", "case": "mapped example", **_metrics(metric_inputs(features @ matrix.T, labels))},
    ]  # fmt: skip
    return rows


def identity_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per seed, features (`pixels`, `last layer`, `example`) and case."""
    rows = [row | {"seed": seed} for seed in runs.seeds for row in runs.extra("identities", seed)]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _metrics(inputs: MetricInputs) -> dict[str, float | None]:
    return {name: getattr(variability, name)(inputs) for name in METRICS}


def _change(after: float | None, before: float | None) -> float | None:
    """Return the relative change; None if a value is undefined."""
    return None if after is None or not before else abs(after / before - 1)


# ---------------------------------------------------------------- sec. 4.2: transformations


def _transformations(
    features: Float[Tensor, "n p"], labels: Int[Tensor, " n"], seed: int
) -> Iterator[ExtraRow]:
    before: dict[str, float | None] = {}
    for case, after in transformed(features, labels, seed):
        values = _metrics(metric_inputs(after, labels))
        before = before or values
        changes = {f"change_of_{name}": _change(value, before[name]) for name, value in values.items()}
        yield {"case": case, **values, **changes}


# ---------------------------------------------------------------- sec. 4.1: variance that the classifier does not read


def _off_weight_space(last: LastLayer, seed: int) -> Iterator[ExtraRow]:
    """Add variance along a direction that the weight maps to zero, as in the proof of proposition 4.1."""
    features, weight, bias = (one.double() for one in (last.features, last.weight, last.bias))
    direction = torch.linalg.svd(weight, full_matrices=True).Vh[-1]
    amounts = _amounts(
        (features - class_means(features, last.labels)[last.labels]) @ direction, last.labels, seed
    )
    plain: ExtraRow = {}
    within, total = 0.0, 0.0
    for added in ADDED:
        moved = features + (added * total) ** 0.5 * amounts[:, None] * direction
        inputs = MetricInputs(class_stats(moved, last.labels), weight=weight)
        if not plain:
            within, total = inputs.within_trace, inputs.total_trace
        read = within_in_weight_space(inputs)
        loss = float(nn.functional.cross_entropy(moved @ weight.T + bias, last.labels))
        row: ExtraRow = {
            "case": f"off weight space {added:g}",
            "added": added,
            "loss": loss,
            "read": read,
            **_metrics(inputs),
        }
        plain = plain or row
        yield {name: value for name, value in row.items() if name != "read"} | {
            "change_of_loss": abs(loss / float(plain["loss"] or 0) - 1),
            "error_of_within_trace": abs(inputs.within_trace / (within + added * total) - 1),
            "change_of_within_in_weight_space": abs((read or 0) / float(plain["read"] or 0) - 1),
        }  # fmt: skip


def _amounts(along: Float[Tensor, " n"], labels: Int[Tensor, " n"], seed: int) -> Float[Tensor, " n"]:
    """Return numbers of mean 0 in each class and mean square 1, uncorrelated with `along`, which has mean 0 in each class."""
    weights = sample_weights(labels)
    drawn = torch.randn(len(labels), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    amounts = (drawn - class_means(drawn, labels)[labels])[:, 0]
    square = (weights * along.square()).sum().clamp_min(torch.finfo(torch.float64).tiny)
    amounts -= along * (weights * along * amounts).sum() / square
    return amounts / (weights * amounts.square()).sum().sqrt()


# ---------------------------------------------------------------- sec. 5: the least loss of a linear classifier


def least_squares_loss(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> float:
    """Return the least of (1/2) sum_i norm(W h_i + b - y_i)^2 / (c n_y) over W and b, y_i one-hot: theorem 5.1.

    By a singular value decomposition of the samples: neither covariances nor their pseudo-inverses are used.
    """
    roots = sample_weights(labels).sqrt()[:, None]
    centred = features - features.mean(dim=0)  # which the bias makes up for
    read = torch.cat([centred, torch.ones_like(roots)], dim=1) * roots
    wanted = nn.functional.one_hot(labels).double() * roots
    solved = torch.linalg.lstsq(read, wanted, driver="gelsd").solution
    return float((read @ solved - wanted).square().sum() / 2)


def _losses(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"], seed: int) -> Iterator[ExtraRow]:
    """Theorem 5.1 and 5.2 for classes of any spread, of unequal sizes, of few samples; observation 4.5."""
    means = class_means(features, labels)[labels]
    plain = least_squares_loss(features, labels)
    for factor in SPREAD:
        row = _loss(means + factor * (features - means), labels)
        yield {"case": f"spread {factor:g}", "spread": factor, **row}
    # Half of the samples of every other class.
    kept = (torch.arange(len(labels)) % 2 == 0) | (labels % 2 == 0)
    yield {"case": "unequal classes", **_loss(features[kept], labels[kept])}
    few = torch.cat([(labels == label).nonzero()[:_FEW, 0] for label in labels.unique()])
    yield {"case": "few samples", **_loss(features[few], labels[few])}
    matrix = invertible(features.shape[1], 10.0, torch.Generator().manual_seed(seed))
    mapped = least_squares_loss(features @ matrix.T, labels)
    yield {"case": "mapped", "loss": mapped, "change_of_loss": _change(mapped, plain)}


def _loss(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> ExtraRow:
    inputs = metric_inputs(features, labels)
    found, num_classes = variability.explained(inputs), inputs.num_classes
    assert found is not None, "class means differ"
    loss, share = least_squares_loss(features, labels), found.trace / inputs.between_svd.rank
    vci = variability.vci(inputs)
    assert vci is not None, "class means differ"
    predicted = (1 - 1 / num_classes - inputs.max_between_rank * (1 - vci) / num_classes) / 2
    return {
        "vci": vci,
        "squared_distance": variability.squared_distance(inputs),
        "loss": loss,
        "error_of_loss": abs(loss - predicted),
        "explained_over_rank": share,
        "error_of_explained": abs(share - 1),
    }
