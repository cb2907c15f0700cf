"""Compare a layer of a profile with the oracle, from features that a test extracted by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapselab.probes import LayerProfile, Profile, profile
from oracles import Oracle

# Sequences and maps as one row of features per sample, which the oracles know.
flat_profile = partial(profile, reduce="flatten")

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


def statistics(features: Tensor, labels: Tensor) -> tuple[np.ndarray, float]:
    """Class means and share of variance within classes, balanced, straight from their definitions."""
    x, y = features.double().numpy().reshape(len(labels), -1), labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    within = np.mean(
        [((x[y == c] - mean) ** 2).sum(1).mean() for c, mean in zip(np.unique(y), means, strict=True)]
    )
    return means, within / (within + ((means - means.mean(0)) ** 2).sum(1).mean())


def agrees(found: Profile, name: str, features: Tensor, labels: Tensor) -> None:
    means, share = statistics(features, labels)
    measured = found[name].splits["train"].class_means
    assert measured is not None
    assert measured.shape == means.shape, name
    assert np.abs(measured.numpy() - means).max() <= 1e-11 * np.abs(means).max(), name
    assert found[name].train["normalized_within"] == pytest.approx(share, rel=1e-10), name


def inputs_of(model: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """What every linear and convolution layer reads in one forward pass over all samples."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[..., None]:
        return lambda _module, args: caught.update([(name, args[0].clone())])

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    handles = [module.register_forward_pre_hook(catch(name)) for name, module in layers]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return caught
