"""Compare a layer of a profile with the oracle, from features that a test extracted by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from collapselab.probes import LayerProfile
from oracles import Oracle

# Metrics of features alone, of every group.
METRICS = (
    "within_trace", "between_trace", "normalized_within", "fuzziness", "cosine_similarity", "cdnv", "equinorm",
    "equiangularity", "max_angle_gap", "etf_distance", "stable_rank", "train_variance",
)  # fmt: skip


def assert_equals_oracle(
    layer: LayerProfile, features: Tensor, labels: Tensor, *, rel: float = 1e-8, metrics: Any = METRICS
) -> None:
    """Counts, means and metrics equal those of features (n, …) in float64; complex ones as (real, imaginary)."""
    if features.is_complex():
        flat = features.flatten(1)
        features = torch.cat((flat.real, flat.imag), 1)
    rows = features.detach().double().flatten(1).numpy()
    oracle = Oracle(rows, labels.numpy())
    split = layer.splits["train"]
    assert split.counts.tolist() == oracle.counts.tolist()
    assert split.class_means is not None
    scale = np.abs(oracle.means).max()
    assert np.abs(split.class_means.numpy() - oracle.means).max() <= rel * scale
    for name in metrics:
        assert layer.train[name] == pytest.approx(getattr(oracle, name)(), rel=rel, abs=rel), (
            layer.name,
            name,
        )
