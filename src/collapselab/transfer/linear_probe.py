"""The linear probe: the accuracy of a linear classifier on frozen features, on another task.

The penalty is chosen on a validation split; the probe is then refitted to train and validation samples together, and
evaluated once on test samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.checks import check_finite
from collapselab.errors import InputError
from collapselab.transfer.logistic import Logistic, LogisticPath

Samples = tuple[Tensor, Tensor]

NUM_PENALTIES = 97
_LOWEST, _HIGHEST = 1e-6, 1e6


@dataclass(frozen=True)
class ProbeResult:
    """Result of a linear probe.

    Attributes:
        accuracy: on test, by `score`.
        score: `top1`, or `mean_per_class`: the mean over classes of the accuracy on each.
        penalty: the chosen one.
        validation: accuracy on the validation split by penalty, largest penalty first.
        classifier: fitted to train and validation.
        warnings: fits that did not converge.
    """

    accuracy: float
    score: str
    penalty: float
    validation: dict[float, float] = field(repr=False)
    classifier: Logistic = field(repr=False)
    warnings: tuple[str, ...] = ()


def linear_probe(
    train: Samples,
    test: Samples,
    *,
    validation: Samples | None = None,
    validation_share: float = 0.2,
    num_penalties: int = NUM_PENALTIES,
    score: str = "top1",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Fit a multinomial logistic regression to features, as Kornblith et al. (2021) and Xu and Liu (2023) probe them.

    Args:
        train, test, validation: features (n, p) and labels (n,), whole numbers from 0. Without `validation`, a share of
            each class of `train` is held out for it.
        validation_share: that share; every class keeps at least one training sample.
        num_penalties: logarithmically spaced over [1e-6, 1e6]; 97 are 8 per decade.
        score: maximised on validation and reported on test: `top1` or `mean_per_class`.
        seed: for the split.
        progress: called with the number of fits done and in all.

    Raises:
        InputError: features are NaN, shapes do not agree, test or validation has a label that train lacks, there is a
            single class, or no sample to validate on.

    Example:
        >>> import torch
        >>> features, labels = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
        >>> linear_probe((features, labels), (features, labels), num_penalties=3).accuracy
        1.0
    """
    if score not in ("top1", "mean_per_class"):
        raise InputError(f"unknown score {score!r}; use top1 or mean_per_class")
    if num_penalties < 1:
        raise InputError(f"num_penalties is {num_penalties}; give at least 1")
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    for name, samples in given.items():
        _check(samples, name, train)
    if validation is None:
        train, validation = _split(train, validation_share, seed)
    num_classes = int(train[1].max()) + 1
    penalties = np.geomspace(_HIGHEST, _LOWEST, num_penalties).tolist() if num_penalties > 1 else [1.0]
    path = LogisticPath(*train, num_classes)
    by_penalty: dict[float, float] = {}
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        for number, penalty in enumerate(penalties, start=1):
            by_penalty[penalty] = _score(path.fit(penalty), validation, num_classes, score)
            if progress is not None:
                progress(number, num_penalties + 1)
        # The first of equally good ones: the largest penalty.
        chosen = max(by_penalty, key=lambda penalty: by_penalty[penalty])
        both = tuple(torch.cat(parts) for parts in zip(train, validation, strict=True))
        classifier = LogisticPath(both[0], both[1], num_classes).fit(chosen)
    if progress is not None:
        progress(num_penalties + 1, num_penalties + 1)
    return ProbeResult(
        accuracy=_score(classifier, test, num_classes, score),
        score=score,
        penalty=chosen,
        validation=by_penalty,
        classifier=classifier,
        warnings=tuple(str(warning.message) for warning in raised),
    )


def _check(samples: Samples, name: str, train: Samples) -> None:
    features, labels = samples
    where = f"linear probe, {name}"
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise InputError(
            f"{where}: features {tuple(features.shape)} and labels {tuple(labels.shape)}; give (n, p) and (n,)"
        )
    if not len(labels):
        raise InputError(f"{where}: no samples; give some")
    if features.shape[1] != train[0].shape[1]:
        raise InputError(
            f"{where}: {features.shape[1]} features per sample, but train has {train[0].shape[1]}; give the same"
        )
    check_finite(features, f"{where}, features")
    new = sorted(set(labels.tolist()) - set(train[1].tolist()))
    if new:
        raise InputError(f"{where}: no train sample has label {new[0]}; leave such samples out")


def _split(train: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Return what stays in train, and a share of each class (at least one sample where it has two) for validation."""
    if not 0 < share < 1:
        raise InputError(f"validation_share is {share}; give a share between 0 and 1")
    features, labels = train[0], train[1].cpu()
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
    chosen = torch.from_numpy(held_out).to(features.device)
    return (features[~chosen], train[1][~chosen]), (features[chosen], train[1][chosen])


def _score(
    classifier: Logistic,
    samples: tuple[Float[Tensor, "n p"], Int[Tensor, " n"]],
    num_classes: int,
    score: str,
) -> float:
    features, labels = samples[0].cpu(), samples[1].cpu().long()
    right = (classifier.predict(features) == labels).double()
    if score == "top1":
        return float(right.mean())
    counts = labels.bincount(minlength=num_classes)
    of_class = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, right)
    return float((of_class / counts)[counts > 0].mean())
