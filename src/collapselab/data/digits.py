"""The 1,797 handwritten digits (8 x 8 pixels) that ship with scikit-learn: real data, no download."""

from __future__ import annotations

import torch

from collapselab.data.splits import DataSplits, Split, standardised

# The file is sorted by writer. One fixed shuffle makes train and test draws from the same distribution; it is
# part of the data set, not of a run's seed.
_SHUFFLE_SEED = 0
NUM_TRAIN = 1000


def load_digits(num_train: int = NUM_TRAIN) -> DataSplits:
    """Optical digits (Alpaydin and Kaynak 1998): `num_train` for training, the rest for test.

    Returns:
        Inputs (n, 64), float32, every pixel standardised over train; labels 0 … 9.
    """
    from sklearn.datasets import load_digits as load

    raw = load()
    inputs = torch.from_numpy(raw.data).double()  # pyright: ignore[reportAttributeAccessIssue] a Bunch
    labels = torch.from_numpy(raw.target).long()  # pyright: ignore[reportAttributeAccessIssue] a Bunch
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SHUFFLE_SEED))
    train, test = order[:num_train], order[num_train:]
    train_inputs, test_inputs = standardised(inputs[train], inputs[test])
    return DataSplits(
        name="digits",
        num_classes=10,
        train=Split(train_inputs.float(), labels[train]),
        test=Split(test_inputs.float(), labels[test]),
    )
