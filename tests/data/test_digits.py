"""The digits that come with scikit-learn."""

import torch

from collapselab.data import load_digits


def test_sizes_and_values() -> None:
    data = load_digits()
    assert (len(data.train), len(data.test)) == (1000, 797)
    assert data.train.inputs.shape[1:] == (64,)
    assert data.train.inputs.min() == 0
    assert data.train.inputs.max() == 1
    assert set(data.train.labels.tolist()) == set(data.test.labels.tolist()) == set(range(10))


def test_train_and_test_share_no_digit() -> None:
    data = load_digits()
    both = torch.cat([data.train.inputs, data.test.inputs])
    assert len(both.unique(dim=0)) == len(both)
