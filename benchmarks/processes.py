"""How much faster two processes profile a network than one, each with one thread.

    python benchmarks/processes.py                     # ResNet-18 on 32x32 images, the papers' MLP (about ten minutes)

One and two gloo processes profile the same network on the same random images, alternating; the slower process of each
start is what is timed, from the first batch to the numbers, without starting Python. That both end with the same
numbers is a test (`tests/test_distributed.py`). Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import torch
import torch.distributed as dist

import collapselab
from benchmarks.record import append_record
from collapselab.data import Split
from collapselab.data.labelled import Batches, TensorInputs
from collapselab.models import open_model

CASES = {"resnet18": ("torchvision/resnet18", (3, 32, 32), 24_576), "mlp": ("mlp", (1, 28, 28), 16384)}
WANTED = 1.8
BATCH, CLASSES = 128, 10


def work(name: str) -> None:
    """In a process of its own: profile a share, print the seconds of the slowest."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model_name, shape, samples = CASES[name]
    model = open_model(model_name, num_classes=CLASSES, input_shape=shape).eval()
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(samples, *shape, generator=generator), torch.arange(samples) % CLASSES)
    whole = samples // BATCH
    start, stop = (whole * r // world * BATCH for r in (rank, rank + 1))
    loader = Batches(TensorInputs(data.inputs), data.labels, BATCH, start, stop, is_share=world > 1)
    model(data.inputs[:BATCH])
    dist.barrier()
    begun = time.perf_counter()
    # Everything of both passes; no eigenvalues, which are not shared out.
    collapselab.profile(model, loader, metrics=["normalized_within", "fuzziness", "ncc_agreement"])
    seconds = torch.tensor([time.perf_counter() - begun])
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    if rank == 0:
        print(json.dumps({"seconds": float(seconds)}))
    dist.destroy_process_group()


def seconds_of(name: str, processes: int) -> float:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__,
        "--work", name,
    ]  # fmt: skip
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ).stdout
    return json.loads(printed.splitlines()[-1])["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--append", type=Path, default=Path("benchmarks/processes.json"), metavar="FILE")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    rows = []
    for name in options.case or list(CASES):
        pairs = [(seconds_of(name, 1), seconds_of(name, 2)) for _ in range(options.repeat)]
        one, two = (min(times) for times in zip(*pairs, strict=True))
        rows.append({"case": name, "one": one, "two": two, "speed": one / two, "wanted": WANTED})
        print(
            f"{name:<10} two processes {one / two:.2f}x as fast as one (wanted {WANTED:g}x; {two:.2f} s, {one:.2f} s)",
            flush=True,
        )
    append_record(options.append, rows)


if __name__ == "__main__":
    main()
