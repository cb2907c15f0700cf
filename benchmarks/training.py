"""What the training engine costs over a loop written by hand: the same network, batch and optimiser, in one process.

    python benchmarks/training.py                       # the MLP of 3 x 1024, ResNet-18 on 32x32 images (five minutes)
    python benchmarks/training.py --case mlp --repeat 9

The floor is a bare loop: index a batch, forward, cross-entropy, backward, SGD with momentum (fused, as the engine's), images
in channels-last form, as the engine's. Blocks of steps of the two alternate, so that both see the same machine; the ratio
is of the fastest blocks, the median of the ratios of neighbouring blocks stands beside it. On a GPU the engine runs bf16
and captured, the bare loop bf16, and a second ratio says how much of the engine's step the kernels take (1.00 is not
launch-bound).
Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.record import append_record
from collapselab.data import DataSplits, Split
from collapselab.records.recipe import ModelSpec, Optimizer
from collapselab.training import Recipe, RunFolder
from collapselab.training.building import build_model
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer

WANTED = 1.10
BATCH, CLASSES, SAMPLES = 128, 10, 2048
CASES: dict[str, tuple[ModelSpec, tuple[int, ...], int]] = {
    "mlp": (
        ModelSpec(name="mlp", options={"width": 1024, "depth": 3, "batch_norm": False}),
        (1, 28, 28),
        40,
    ),
    "resnet18": (ModelSpec(name="torchvision/resnet18"), (3, 32, 32), 6),
}


def bare_loop(
    model: nn.Module, data: DataSplits, recipe: Recipe, device: torch.device
) -> Callable[[int], None]:
    """Steps of a loop with nothing in it but training."""
    inputs, labels = data.train.inputs, data.train.labels
    if inputs.ndim == 4:
        model, inputs = (
            model.to(memory_format=torch.channels_last),
            inputs.to(memory_format=torch.channels_last),
        )
    model.to(device).train()
    rate, momentum = recipe.optimizer.learning_rate, recipe.optimizer.momentum
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    order = torch.randperm(SAMPLES, device=device).split(BATCH)
    taken = 0

    def run(steps: int) -> None:
        nonlocal taken
        for _ in range(steps):
            rows = order[taken % len(order)]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
                loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            taken += 1

    return run


def kernel_share(run: Callable[[int], None], steps: int) -> float:
    """Of the time of some steps on a GPU, the share in which a kernel runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        start = time.perf_counter()
        run(steps)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return busy / seconds


def timed(run: Callable[[int], None], steps: int, device: torch.device) -> float:
    start = time.perf_counter()
    run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def compare(name: str, repeat: int) -> dict[str, float | str]:
    spec, shape, steps = CASES[name]
    on_gpu = torch.cuda.is_available()
    recipe = Recipe(
        model=spec,
        optimizer=Optimizer(learning_rate=0.01),
        steps=100_000,
        batch_size=BATCH,
        precision="bf16-mixed" if on_gpu else "32-true",
        num_threads=torch.get_num_threads(),
    )
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(SAMPLES, *shape, generator=generator), torch.arange(SAMPLES) % CLASSES)
    steps *= 25 if on_gpu else 1
    with tempfile.TemporaryDirectory() as scratch:
        fabric = make_fabric(recipe)
        data = DataSplits("random", CLASSES, split, split).to(fabric.device)
        folder = RunFolder(Path(scratch) / "run")
        folder.create()
        trainer = Trainer(recipe, data, folder, fabric, lambda *_: None)
        trainer.engine.training_mode()

        def ours(number: int) -> None:
            for _ in range(number):
                trainer.train_step()

        bare = bare_loop(build_model(recipe, data), data, recipe, fabric.device)
        for run in (ours, bare):
            run(3)
        pairs = [
            (timed(ours, steps, fabric.device), timed(bare, steps, fabric.device)) for _ in range(repeat)
        ]
        share = kernel_share(ours, steps) if on_gpu else None
    engine, floor = (min(times) for times in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    row: dict[str, float | str] = {
        "case": name,
        "engine": engine,
        "bare": floor,
        "ratio": engine / floor,
        "median_ratio": statistics.median(ratios),
        "wanted": WANTED,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
    }
    print(
        f"{name:<10} engine {1e3 * engine:.2f} ms a step, bare loop {1e3 * floor:.2f} ms: {engine / floor:.3f}x, median "
        f"{row['median_ratio']:.3f}x (wanted {WANTED:g}x)",
        flush=True,
    )
    if share is not None:
        row["kernel_share"] = share
        print(f"{'':<10} kernels run in {share:.0%} of the engine's time", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--append", type=Path, default=Path("benchmarks/training.json"), metavar="FILE")
    options = parser.parse_args()
    rows = [compare(name, options.repeat) for name in options.case or list(CASES)]
    append_record(options.append, rows)


if __name__ == "__main__":
    main()
