"""LEEP: how well the classes that the source classifier predicts explain the target labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from collapselab.errors import InputError
from collapselab.transfer.samples import class_sums, read_samples

# Rows of float16 probabilities of 1000 classes sum to one within this.
_SUM_TOLERANCE = 1e-2


def leep(source_probabilities: Any, labels: Any) -> float:
    """Return LEEP, the log expected empirical prediction (Nguyen et al. 2020, eq. 2); at most 0, larger is better.

    With theta(x_i)_z the probability of source class z and P(y, z) = (1/n) sum over the samples i with label y of
    theta(x_i)_z, LEEP = (1/n) sum_i ln sum_z P(y_i | z) theta(x_i)_z. Source classes of probability 0 in all samples do
    not contribute. The score depends on the number and the sizes of the target classes: compare models on one data set.

    Cost: O(n z) for z source classes.

    Args:
        source_probabilities: (n, z), the softmax output of the pretrained classifier on the target samples.
        labels: (n,), target labels.

    Raises:
        InputError: negative probabilities, rows that do not sum to 1 (logits, for example), NaN, a single class.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> leep(np.eye(3)[labels], labels)  # the source classes are the target classes
        0.0
    """
    samples = read_samples(source_probabilities, labels, "LEEP, source probabilities")
    probabilities = samples.features
    sums = probabilities.sum(axis=1)
    wrong = (probabilities < 0).any(axis=1) | (np.abs(sums - 1) > _SUM_TOLERANCE)
    if wrong.any():
        raise InputError(
            f"LEEP: {int(wrong.sum())} rows of source probabilities are negative or do not sum to 1, the first row "
            f"{int(wrong.argmax())} (counting from 0); give the softmax of the source classifier's scores"
        )
    probabilities = probabilities / sums[:, None]
    joint = class_sums(probabilities, samples)
    marginal = joint.sum(axis=0)
    conditional = joint / np.where(marginal > 0, marginal, 1.0)
    expected = (conditional[samples.labels] * probabilities).sum(axis=1)
    return float(np.log(np.minimum(expected, 1.0)).mean())
