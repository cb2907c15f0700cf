"""The 1,797 handwritten digits (8 x 8 pixels) that ship with scikit-learn: real data, no download."""

from __future__ import annotations

import torch

from collapselab.data.splits import DataSplits, Split

NUM_TRAIN = 1000
_MAX_INTENSITY = 16


def load_digits(num_train: int = NUM_TRAIN) -> DataSplits:
    """Optical digits (Alpaydin and Kaynak 1998): the first `num_train` for training, the rest for test.

    The digits are in the order of their writers, so that test digits come from other hands than training
    digits. Pixels are scaled to [0, 1] and not standardised one by one: border pixels that few digits ink
    would become outliers of thirty standard deviations.

    Returns:
        Inputs (n, 64), float32; labels 0 … 9.
    """
    from sklearn.datasets import load_digits as load

    raw = load()
    inputs = torch.from_numpy(raw.data).float() / _MAX_INTENSITY  # pyright: ignore[reportAttributeAccessIssue] a Bunch
    labels = torch.from_numpy(raw.target).long()  # pyright: ignore[reportAttributeAccessIssue] a Bunch
    return DataSplits(
        name="digits",
        num_classes=10,
        train=Split(inputs[:num_train], labels[:num_train]),
        test=Split(inputs[num_train:], labels[num_train:]),
    )
