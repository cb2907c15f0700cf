"""Weights of a size whose squares overflow or vanish: every number is that of the same weight at an ordinary size."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from collapselab import InputError, measure, profile

RNG = np.random.default_rng(11)
LABELS = np.arange(60) % 3
X = RNG.normal(size=(60, 6)) + 2 * np.eye(3, 6)[LABELS]
WEIGHT, BIAS = RNG.normal(size=(3, 6)), RNG.normal(size=3)
SIZES = [2.0**664, 2.0**990, 2.0**-664, 2.0**-980]  # 1e200 and 1e298, and their inverses


@pytest.mark.parametrize("size", SIZES)
def test_measure_gives_the_numbers_of_the_scaled_weight(size: float) -> None:
    wanted = measure(X, LABELS, weight=WEIGHT, bias=BIAS, test=(X, LABELS), spectra=True)
    found = measure(X, LABELS, weight=WEIGHT * size, bias=BIAS * size, test=(X, LABELS), spectra=True)
    assert found.warnings == wanted.warnings
    for split, values in wanted.splits.items():
        assert found.splits[split] == pytest.approx(values, rel=1e-9), split
    singular = np.linalg.svd(WEIGHT, compute_uv=False) * size
    assert found.spectra["train"]["weight_singular_values"] == pytest.approx(singular, rel=1e-9)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("size", SIZES)
def test_profile_gives_the_numbers_of_the_scaled_weight(size: float) -> None:
    def profiled(factor: float) -> Any:
        net = nn.Linear(6, 3).double()
        net.weight.data, net.bias.data = torch.from_numpy(WEIGHT * factor), torch.from_numpy(BIAS * factor)
        batch = torch.from_numpy(X), torch.from_numpy(LABELS)
        return profile(nn.Sequential(net), [batch])["0"]

    found, wanted = profiled(size), profiled(1.0)
    assert found.train == pytest.approx(wanted.train, rel=1e-9)
    values = [value * size for value in wanted.weight_singular_values]
    assert list(found.weight_singular_values) == pytest.approx(values, rel=1e-9)


def test_decisions_of_an_enormous_bias_are_those_of_the_bias() -> None:
    bias = np.array([0, 1e250, 0])
    found = measure(X, LABELS, weight=WEIGHT, bias=bias, metrics=["ncc_agreement"])
    centres = np.stack([X[c == LABELS].mean(0) for c in range(3)])
    nearest = np.square(X[:, None] - centres).sum(2).argmin(1)
    assert found["ncc_agreement"] == pytest.approx((nearest == 1).mean())


@pytest.mark.parametrize("value", [1e301, -1e305, float("nan"), float("inf")])
def test_a_weight_at_the_end_of_the_range_is_refused(value: float) -> None:
    weight = WEIGHT.copy()
    weight[1, 2] = value
    with pytest.raises(
        InputError, match=r"weight has 1 NaN or infinite values \(the limit is 1e\+300\); save"
    ):
        measure(X, LABELS, weight=weight)
