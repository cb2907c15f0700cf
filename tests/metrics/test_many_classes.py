"""Pairs of class means in tiles: the same whatever the tile, and 50,000 classes in little memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from families import CASES, Case

from collapselab.metrics import pairs
from collapselab.metrics.pairs import pair_geometry
from helpers import assert_close

FIELDS = ("mean_cosine", "cosine_std", "mean_abs_gap", "cdnv", "etf_distance")


@pytest.mark.parametrize("tile", [1, 2, 3, 7])
@pytest.mark.parametrize("case", [CASES["unbalanced"], CASES["more classes than features"]], ids=["C5", "C8"])
def test_tiles_do_not_matter(case: Case, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case.inputs()
    whole = inputs.pairs
    monkeypatch.setattr(pairs, "_TILE", tile)
    tiled = pair_geometry(inputs.centred_means, inputs.class_variances, inputs.mean_rounding)
    for field in FIELDS:
        assert_close(
            getattr(tiled, field), getattr(whole, field), rel=1e-13, why="the same terms in another order"
        )


@pytest.mark.parametrize("tile", [2, 1024])
def test_coincident_means_are_found_in_any_tile(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_TILE", tile)
    means = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means[8] = means[3]
    found = pair_geometry(means - means.mean(0), torch.ones(9, dtype=torch.float64), 1e-30)
    assert found.coincident == (3, 8)
    assert found.cdnv is None


def test_close_means_are_taken_from_differences() -> None:
    """Two means 1e-6 apart at distance 1 from the origin: the expanded square has lost all but four digits."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((6, 30))
    means[1] = means[0] + 1e-7 * rng.standard_normal(30)
    variances = torch.full((6,), 1e-16, dtype=torch.float64)
    found = pair_geometry(torch.as_tensor(means - means.mean(axis=0)), variances, 0.0)
    distance2 = ((means[:, None] - means[None]) ** 2).sum(axis=2)[~np.eye(6, dtype=bool)]
    # The means themselves round by eps64 of 1, that is 1e-9 of their distance.
    assert_close(
        found.cdnv, (1e-16 / distance2).mean(), rel=1e-8, why="differences of means that round by eps64"
    )


# On Linux a child's ru_maxrss begins with the size of the process that started it; VmHWM is its own.
PEAK = f"""
import resource, pathlib

def report_peak():
    status = pathlib.Path('/proc/self/status')
    lines = status.read_text().splitlines() if status.exists() else []
    own = [int(line.split()[1]) / 2**20 for line in lines if line.startswith('VmHWM')]
    print(own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / {2**30 if sys.platform == "darwin" else 2**20})
"""
PAIRS = """
import torch
from collapselab.metrics.pairs import pair_geometry

means = torch.randn(14_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
found = pair_geometry(means - means.mean(0), torch.ones(14_000, dtype=torch.float64), 1e-20)
assert found.cdnv is not None
report_peak()
"""
# Everything but the pairs, which take a minute or more at p = 768.
CLASSES = """
from collapselab.metrics import MetricInputs, evaluate, select
from collapselab.statistics import ClassStats

num_classes, dim = 50_000, 768
generator = torch.Generator().manual_seed(0)
means = torch.randn(num_classes, dim, generator=generator)
stats = ClassStats(num_classes, dim, "trace")
for start in range(0, 2 * num_classes, 10_000):
    labels = torch.arange(start, start + 10_000) % num_classes
    stats.update(means[labels] * (1.1 if start < num_classes else 0.9), labels)
del means
names = ["within_trace", "between_trace", "squared_distance", "cosine_similarity", "class_separation",
         "equinorm", "train_variance"]
values = evaluate(select(names, "train"), MetricInputs(stats))
assert all(value is not None for value in values.values())
assert abs(values["within_trace"] / (0.01 * dim) - 1) < 0.01
report_peak()
"""


@pytest.mark.slow
def test_fifty_thousand_classes_within_four_gib() -> None:
    """Peaks of one process, since an import takes seconds: of pairs first, then also of many classes."""
    script = PEAK + PAIRS + CLASSES
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    of_pairs, of_classes = map(float, out.split())
    assert of_pairs < 1.3  # GiB; one float64 matrix of 14,000 classes by classes would be 1.46
    assert of_classes < 4
