"""The linear probe: the accuracy of a linear classifier on frozen features, on another task.

The penalty is chosen on a validation split; the probe is then refitted to train and validation samples together, and
evaluated once on test samples. Features are standardised first, so that a penalty means the same for features of any
unit; the papers do not say that they did, and `standardize=False` takes features as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.checks import check_finite
from collapselab.errors import InputError
from collapselab.features.arrays import feature_matrix, label_vector
from collapselab.transfer.logistic import Logistic, LogisticPath, in_float64
from collapselab.transfer.samples import check_split, is_whole

# Features (n, p), on the device of those of train, and class numbers (n,), on the CPU.
Samples = tuple[Tensor, Tensor]

NUM_PENALTIES = 97
_MOST_PENALTIES = 10_000
# The penalty is chosen among fits with the default tolerance; the reported accuracy is that of a fit to more digits.
_TOLERANCE_OF_REFIT = 1e-10
_LOWEST, _HIGHEST = 1e-6, 1e6
# Where the smallest penalty exceeds this share of the largest variance of a feature, it decides the fit.
_SMALL = 1e-3


@dataclass(frozen=True)
class ProbeResult:
    """Result of a linear probe.

    Attributes:
        accuracy: on test, by `score`.
        score: `top1`, or `mean_per_class`: the mean over classes of the accuracy on each.
        penalty: the chosen one.
        validation: accuracy on the validation split by penalty, largest penalty first.
        classifier: fitted to train and validation; it takes features in the user's unit and predicts the user's labels.
        warnings: a penalty at the edge of the grid, fits that did not converge.
    """

    accuracy: float
    score: str
    penalty: float
    validation: dict[float, float] = field(repr=False)
    classifier: Logistic = field(repr=False)
    warnings: tuple[str, ...] = ()


def linear_probe(
    train: Any,
    test: Any,
    *,
    validation: Any = None,
    validation_share: float = 0.2,
    num_penalties: int = NUM_PENALTIES,
    score: str = "top1",
    standardize: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Fit a multinomial logistic regression to features, as Kornblith et al. (2021) and Xu and Liu (2023) probe them.

    Args:
        train, test, validation: features (n, p) and labels (n,), non-negative whole numbers with or without gaps, each
            in any container that `collapselab.measure` takes. Without `validation`, a share of each class of `train`
            is held out for it.
        validation_share: that share; every class keeps at least one training sample.
        num_penalties: logarithmically spaced over [1e-6, 1e6]; 97 are 8 per decade.
        score: maximised on validation and reported on test: `top1` or `mean_per_class`.
        standardize: subtract the mean of each feature and divide by its standard deviation, both over the samples that
            are fitted. The result then does not depend on the unit of any feature. False: features as they are.
        seed: for the split.
        progress: called with the number of fits done and in all.

    Raises:
        InputError: features are NaN or masked, shapes do not agree, test or validation has a label that train lacks,
            there is a single class, a seed that is no whole number from 0, or no sample to validate on.

    Example:
        >>> import torch
        >>> features, labels = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
        >>> linear_probe((features, labels), (features, labels), num_penalties=3).accuracy
        1.0
    """
    if score not in ("top1", "mean_per_class"):
        raise InputError(f"unknown score {score!r}; use top1 or mean_per_class")
    if not (is_whole(num_penalties, 1) and num_penalties <= _MOST_PENALTIES):
        raise InputError(f"num_penalties is {num_penalties}; give a whole number from 1 to {_MOST_PENALTIES}")
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    splits, classes = _read(given)
    fitted, chosen_on = splits["train"], splits.get("validation")
    if chosen_on is None:
        fitted, chosen_on = _split(fitted, validation_share, seed)
    penalties = np.geomspace(_HIGHEST, _LOWEST, num_penalties).tolist() if num_penalties > 1 else [1.0]
    report = progress or (lambda _done, _total: None)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        by_penalty, best = _choose(
            LogisticPath(*fitted, len(classes), standardize=standardize), penalties, chosen_on, score, report
        )
        both = tuple(torch.cat(parts) for parts in zip(fitted, chosen_on, strict=True))
        path = LogisticPath(both[0], both[1], len(classes), standardize=standardize, start=best)
        last = path.fit(best.penalty, _TOLERANCE_OF_REFIT)
    report(num_penalties + 1, num_penalties + 1)
    return ProbeResult(
        accuracy=_score(last, splits["test"], score),
        score=score,
        penalty=best.penalty,
        validation=by_penalty,
        classifier=replace(last, classes=torch.from_numpy(classes)),
        warnings=(
            *_grid_warnings(by_penalty, fitted[0], is_standardized=standardize),
            *(str(warning.message) for warning in raised),
        ),
    )


def _choose(
    path: LogisticPath,
    penalties: list[float],
    chosen_on: Samples,
    score: str,
    report: Callable[[int, int], None],
) -> tuple[dict[float, float], Logistic]:
    """Return scores by penalty, in the order of `penalties`, and the first of equally good classifiers in that order."""
    samples = in_float64(chosen_on[0]), chosen_on[1]
    order = {penalty: place for place, penalty in enumerate(penalties)}
    scores: dict[float, float] = {}
    best: Logistic | None = None
    for number, fit in enumerate(path.fits(penalties), start=1):
        scores[fit.penalty] = found = _score(fit, samples, score)
        if best is None or (found, -order[fit.penalty]) > (scores[best.penalty], -order[best.penalty]):
            best = fit
        report(number, len(penalties) + 1)
    assert best is not None, "there is at least one penalty"
    return {penalty: scores[penalty] for penalty in penalties}, best


def _read(given: dict[str, Any]) -> tuple[dict[str, Samples], npt.NDArray[np.int64]]:
    """Return the samples of each split with labels numbered 0 … c - 1, and the labels (c,) of train in ascending order.

    Raises:
        InputError: samples that do not fit together.
    """
    splits: dict[str, Samples] = {}
    classes = np.empty(0, np.int64)
    for name, samples in given.items():
        where = f"linear probe, {name}"
        if not isinstance(samples, tuple | list) or len(samples) != 2:
            raise InputError(
                f"{where}: a {type(samples).__name__} is no pair of arrays; give (features, labels)"
            )
        features = feature_matrix(samples[0], where)
        if splits:
            features = features.to(splits["train"][0].device)
        labels = label_vector(samples[1], len(features), where)
        check_finite(features, where)
        if name == "train":
            classes = np.unique(labels)
        elif features.shape[1] != splits["train"][0].shape[1]:
            raise InputError(
                f"{where}: {features.shape[1]} features per sample, but train has {splits['train'][0].shape[1]}; give the "
                "same"
            )
        new = labels[~np.isin(labels, classes)]
        if len(new):
            raise InputError(
                f"{where}: no train sample has label {new[0]}, which {len(new)} samples here have; leave such samples out"
            )
        splits[name] = features, torch.from_numpy(np.searchsorted(classes, labels))
    return splits, classes


def _grid_warnings(by_penalty: dict[float, float], features: Tensor, *, is_standardized: bool) -> list[str]:
    """Warn where a penalty outside the grid might be better.

    A plateau that reaches the edge is none of these: there a larger or smaller penalty is only as good.
    """
    penalties = list(by_penalty)
    found = []
    for edge, beyond in ((penalties[0], "larger"), (penalties[-1], "smaller")):
        inner = [
            value for penalty, value in by_penalty.items() if penalty not in (penalties[0], penalties[-1])
        ]
        if inner and by_penalty[edge] == max(by_penalty.values()) > max(inner):
            found.append(
                f"the best penalty, {edge:g}, is at the edge of the grid; one that is {beyond} may be better"
                + ("" if is_standardized else ": give standardize=True, or features of another unit")
            )
    largest = float(in_float64(features).var(dim=0, correction=0).max())
    if not is_standardized and _SMALL * largest < _LOWEST:
        found.append(
            f"no feature has a variance above {largest:.1g}, so that even the smallest penalty of the grid, {_LOWEST:g}, "
            "limits the fit; give standardize=True, or features of another unit"
        )
    return found


def _split(train: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Return what stays in train, and a share of each class (at least one sample where it has two) for validation."""
    check_split(share, seed)
    features, labels = train
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in labels.unique().tolist():
        rows = np.flatnonzero(labels.numpy() == label)
        number = min(max(1, round(share * len(rows))), len(rows) - 1)
        held_out[generator.permutation(rows)[:number]] = True
    if not held_out.any():
        raise InputError(
            "linear probe, train: every class has a single sample, so none can be held out; give validation="
        )
    chosen = torch.from_numpy(held_out)
    rows = chosen.to(features.device)
    return (features[~rows], labels[~chosen]), (features[rows], labels[chosen])


def _score(classifier: Logistic, samples: Samples, score: str) -> float:
    features, labels = samples
    right = (classifier.predict(features) == labels).double()
    if score == "top1":
        return float(right.mean())
    num_classes = len(classifier.classes)
    counts = labels.bincount(minlength=num_classes)
    of_class = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, right)
    return float((of_class / counts)[counts > 0].mean())
