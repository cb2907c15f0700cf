"""Validate the labels of a split, and warn about unusual ones, with the same messages for files, arrays and networks.

Letters: k labels of the label space, c classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from collapselab.errors import InputError

_REMEDIES = {
    "train": "give class_counts= as the loader yields them",
    "test": "give split_batch= if the batches have other labels than the data set",
}


def check_two_classes(counts: Int[Tensor, " k"], values: Int[Tensor, " k"], where: str) -> None:
    """Check that at least two labels occur.

    Args:
        counts: samples of each label.
        values: the user's labels.
        where: name of the data in the message.

    Raises:
        InputError: there is only one.
    """
    present = values[counts > 0]
    if len(present) < 2:
        raise InputError(
            f"{where}: all labels are {int(present[0])}; neural collapse needs at least two classes"
        )


def check_known(
    counts: Int[Tensor, " k"], classes: Int[Tensor, " c"], values: Int[Tensor, " k"], where: str
) -> None:
    """Check that the labels of the test split all occur in the train split.

    Args:
        counts: test samples of each label.
        classes: label numbers of the train split.
        values: the user's labels.
        where: name of the data in the message.

    Raises:
        InputError: how many samples have other labels, and the first such label.
    """
    unknown = counts.clone()
    unknown[classes] = 0
    number = int(unknown.sum())
    if number:
        raise InputError(
            f"{where}: {number} samples have labels that no training sample has, the first is "
            f"{int(values[unknown > 0][0])}; leave them out or add the class to train"
        )


def check_declared(
    counts: Int[Tensor, " k"], declared: Int[Tensor, " k"], values: Int[Tensor, " k"], split: str
) -> None:
    """Check that a split has as many samples of each label as declared.

    Raises:
        InputError: naming the first label that differs.
    """
    if torch.equal(counts, declared):
        return
    wrong = int((counts != declared).nonzero()[0])
    raise InputError(
        f"{split}: class {int(values[wrong])} was declared with {int(declared[wrong])} samples but {int(counts[wrong])} "
        f"came; {_REMEDIES[split]}"
    )


def label_warnings(
    counts: Int[Tensor, " k"], classes: Int[Tensor, " c"] | None, values: Int[Tensor, " k"]
) -> list[str]:
    """Return warnings about classes without samples and classes of one sample.

    Args:
        counts: samples of each label.
        classes: label numbers of the train split, for test data; None for the train split itself.
        values: the user's labels.
    """
    warnings = []
    missing = counts[:0] if classes is None else classes[counts[classes] == 0]
    if len(missing):
        warnings.append(
            f"{len(missing)} of the training classes have no samples here, the first is {int(values[missing[0]])}"
        )
    single = int((counts == 1).sum())
    if single:
        warnings.append(f"{single} classes have one sample and so no variance within the class")
    return warnings
