"""What each process of the distributed test of the metric runs: update with a share of the samples, compute twice."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from collapselab.integrations.torchmetrics import NeuralCollapse

NUM_SAMPLES, NUM_CLASSES, DIM = 103, 4, 6
NAMES = ("nc1", "vci", "cdnv", "equinorm")


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    means = 2 * torch.randn(NUM_CLASSES, DIM, generator=generator)
    noise = torch.randn(NUM_SAMPLES, DIM, generator=generator)
    return (means[labels] + noise).double(), labels


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world)
    features, labels = samples()
    metric = NeuralCollapse(NUM_CLASSES, DIM, NAMES, weighting="sample")
    found: dict[str, Any] = {}
    # First 20 samples in the first process only; then all others, divided unevenly.
    parts = ([slice(0, 20)], []), ([slice(20, 50), slice(50, 90)], [slice(90, None)])
    for step, shares in enumerate(parts):
        for part in shares[rank]:
            metric.update(features[part], labels[part])
        if not metric.update_called:
            metric.update(features[:0], labels[:0])
        values = metric.compute()
        assert isinstance(values, dict)
        found[f"all {step}"] = {name: float(value) for name, value in values.items()}
        found[f"own {step}"] = metric.stats.num_samples if metric.stats.has_samples else 0
    metric.reset()
    found["after reset"] = metric.stats.has_samples
    (out / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
