"""What each process of the tests of split models runs: profile models whose parameters or layers are split."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import collapselab

NUM_SAMPLES, DIM = 103, 6


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(DIM, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)]
    return nn.Sequential(*layers).double()


class Convolutional(nn.Module):
    """With batch norm, whose buffers `DistributedDataParallel` sends around in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(2, 5, 2), nn.BatchNorm1d(5)
        self.head = nn.Linear(10, 4)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(inputs.unflatten(1, (2, 3)))).relu().flatten(1))


class Gated(nn.Module):
    """The feed-forward block of a language model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(DIM, 8), nn.Linear(DIM, 8), nn.Linear(8, DIM)
        self.head = nn.Linear(DIM, 4)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs + self.down(nn.functional.silu(self.gate(inputs)) * self.up(inputs)))


NETWORKS = {"dense": network, "convolution": Convolutional, "gated": Gated}


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (NUM_SAMPLES,), generator=generator)
    means = 2 * torch.randn(4, DIM, generator=generator)
    return TensorDataset(
        (means[labels] + torch.randn(NUM_SAMPLES, DIM, generator=generator)).double(), labels
    )


def loaders(*, sampler: bool = False) -> tuple[Any, Any]:
    data = samples()
    sets = (data, TensorDataset(*data[:50]))
    if sampler:
        return tuple(DataLoader(part, 16, sampler=DistributedSampler(part)) for part in sets)  # pyright: ignore[reportReturnType] two
    return tuple(DataLoader(part, 16) for part in sets)  # pyright: ignore[reportReturnType] two


def fsdp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for part in (*(child for child in model.children() if list(child.parameters())), model):
        fully_shard(part, mesh=mesh)
    return model


def flat_fsdp(model: nn.Module, _mesh: DeviceMesh) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def tensor_parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    plans: dict[type[nn.Module], dict[str, Any]] = {
        Gated: {"gate": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()},
        nn.Sequential: {
            "0": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
            "2": RowwiseParallel(input_layouts=Shard(-1), output_layouts=Replicate()),
            "4": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
        },
        Convolutional: {"head": ColwiseParallel(output_layouts=Replicate())},
    }
    return parallelize_module(model, mesh, plans[type(model)])


def ddp(model: nn.Module, _mesh: DeviceMesh) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


SPLITS: dict[str, Callable[[nn.Module, DeviceMesh], nn.Module]] = {
    "fsdp": fsdp, "flat fsdp": flat_fsdp, "tensor parallel": tensor_parallel, "ddp": ddp,
}  # fmt: skip


def result(model: nn.Module, **options: Any) -> dict[str, Any]:
    return collapselab.profile(model, *loaders(), **options).to_dict()


def refusal(model: nn.Module, *args: Any, **options: Any) -> str:
    try:
        collapselab.profile(model, *args, **options)
    except collapselab.InputError as error:
        return str(error)
    return "measured"


def refusals(mesh: DeviceMesh) -> dict[str, str]:
    """What is wrong in one process alone ends all of them, also in the middle of a forward pass."""
    split = tensor_parallel(network(), mesh)
    found = {
        "sampler": refusal(split, *loaders(sampler=True)),
        "inner": refusal(tensor_parallel(Gated(), mesh), *loaders(), layers=["gate", "head", "down"]),
        "part": refusal(parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}),
                        *loaders(), layers="1"),
    }  # fmt: skip
    for kind, (value, label) in {"poisoned": (float("nan"), 1), "mislabelled": (0.0, 7)}.items():
        data = samples()
        inputs, labels = data.tensors
        if dist.get_rank() == 1:
            inputs[41, 3], labels[41] = value, label  # sample 41 belongs to the second process
        loader = DataLoader(data, 16, sampler=DistributedSampler(data, shuffle=False))
        found[kind] = refusal(fsdp(network(), mesh), loader)
    return found


def trained(mesh: DeviceMesh, *, measured: bool) -> list[float]:
    """Outputs after one step, with a profile between the gradients and the optimiser."""
    model, (train, _) = fsdp(network(), mesh), loaders()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = samples().tensors[0][:16]
    model(inputs).square().sum().backward()
    if measured:
        collapselab.profile(model, train)
    optimizer.step()
    return model(inputs).flatten().tolist()


def ids_by_process() -> dict[str, Any]:
    """Each process sees labels that the other does not see, and no process knows all of them beforehand."""
    inputs, labels = samples().tensors
    order = labels.argsort(stable=True)
    ids = torch.tensor([19_999_999, 4, 70_001, 12])[labels[order]]
    batches = list(zip(inputs[order].split(26), ids.split(26), strict=True))
    model = nn.Sequential(network(), nn.Flatten(0))  # no class scores
    return collapselab.profile(model, batches, batches[::-1]).to_dict()


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found: dict[str, Any] = {
        f"{kind}, {how}": result(split(NETWORKS[kind](), mesh))
        for how, split in SPLITS.items()
        for kind in NETWORKS
    }
    found["sampler"] = collapselab.profile(fsdp(network(), mesh), *loaders(sampler=True)).to_dict()
    found["ids"] = ids_by_process()
    found["trained"] = [trained(mesh, measured=measured) for measured in (False, True)]
    if dist.get_world_size() > 1:
        found["refusals"] = refusals(mesh)
    (out / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Meshes and split models still hold threads of gloo, which now and then abort the interpreter while it shuts down.
    os._exit(0)
