"""What each process of the distributed tests runs: profile a share, write what came out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import collapselab

NUM_SAMPLES, NUM_CLASSES, DIM = 103, 4, 6


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(DIM, 80), nn.ReLU(), nn.Linear(80, 12), nn.ReLU(), nn.Linear(12, NUM_CLASSES)]
    return nn.Sequential(*layers).double()


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    means = 2 * torch.randn(NUM_CLASSES, DIM, generator=generator)
    inputs = means[labels] + torch.randn(NUM_SAMPLES, DIM, generator=generator)
    return TensorDataset(inputs.double(), labels)


def loaders(how: str) -> tuple[Any, Any]:
    """Train and test loaders; the test set has 10 samples, fewer than fill two batches of each process."""
    data = samples()
    test = TensorDataset(*data[:10])
    if how == "sampler":  # repeats one sample to make 103 even
        train, held_out = (DataLoader(part, 16, sampler=DistributedSampler(part)) for part in (data, test))
        return train, held_out
    if how == "poisoned":  # the second batch, which the second process reads
        data.tensors[0][20, 3] = float("nan")
    return DataLoader(data, 16), DataLoader(test, 16)


def result(how: str) -> dict[str, Any]:
    train, test = loaders(how)
    layers = collapselab.profile(
        network(), train, test, scatter="sketch" if how == "sketch" else "auto", spectra=True
    )
    return layers.to_dict()


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world)
    found: dict[str, Any] = {how: result(how) for how in ("dealt", "sampler", "sketch")}
    try:
        result("poisoned")
    except collapselab.InputError as error:
        found["poisoned"] = str(error)
    (out / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Meshes and split models still hold threads of gloo, which now and then abort the interpreter while it shuts down.
    os._exit(0)
