"""How much memory does `collapselab measure` take beyond the largest shard of a large folder of shards?

    python benchmarks/shards.py --dir /tmp --gigabytes 10

writes float32 shards of C classes (a mean per class plus noise) into a new folder under --dir, measures that
folder in a process of its own, prints its peak resident memory and time, and removes the shards.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_MIB = 2**20


def generate(folder: Path, args: argparse.Namespace) -> None:
    """Write the shards. In a process of its own: a process that is forked starts with its parent's peak."""
    import numpy as np
    import torch

    rows = int(args.shard_mib * _MIB / 4 / args.dim)
    count = max(1, round(args.gigabytes * 1e9 / (rows * args.dim * 4)))
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(args.classes, args.dim, generator=generator)
    weight = means - means.mean(0)
    for index in range(count):
        labels = torch.arange(index * rows, (index + 1) * rows) % args.classes
        features = torch.randn(rows, args.dim, generator=generator).mul_(0.5).add_(means[labels])
        arrays = {"features": features, "labels": labels}
        name = folder / f"shard-{index:04d}"
        if index == 0:
            arrays["weight"] = weight
        if args.kind == "safetensors":
            from safetensors.torch import save_file

            save_file(arrays, name.with_suffix(".safetensors"))
        else:
            plain: dict[str, Any] = {key: tensor.numpy() for key, tensor in arrays.items()}
            np.savez(name.with_suffix(".npz"), **plain)


def run(command: list[str]) -> tuple[int, resource.struct_rusage, float, str]:
    """Run a command: exit code, its own resource usage (not that of earlier children), seconds, stdout."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage, time.perf_counter() - start, text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the shards go")
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--shard-mib", type=float, default=384.0)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--kind", choices=("npz", "safetensors"), default="npz")
    parser.add_argument("--json", type=Path, help="append the result to this file, one line")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="further options of collapselab measure, after --")
    args = parser.parse_args()
    if args.generate is not None:
        generate(args.generate, args)
        return
    folder = Path(tempfile.mkdtemp(prefix="collapselab-shards-", dir=args.dir))
    try:
        sizes = [
            f"--{name}={getattr(args, name.replace('-', '_'))}"
            for name in ("gigabytes", "shard-mib", "dim", "classes", "kind")
        ]
        print(f"writing {args.gigabytes:g} GB of shards to {folder}", flush=True)
        subprocess.run([sys.executable, __file__, f"--generate={folder}", *sizes], check=True)
        shards = [path.stat().st_size for path in folder.iterdir()]
        command = [
            sys.executable,
            "-m",
            "collapselab",
            "measure",
            str(folder),
            "--format",
            "json",
            *args.options,
        ]
        code, usage, seconds, text = run(command)
        if code:
            sys.exit(f"collapselab measure ended with exit code {code}")
    finally:
        shutil.rmtree(folder)
    peak = usage.ru_maxrss / 1024 if sys.platform != "darwin" else usage.ru_maxrss / _MIB
    measured = json.loads(text)
    result = {
        "benchmark": "shards",
        "kind": args.kind,
        "shards": len(shards),
        "bytes": sum(shards),
        "num_samples": measured["num_samples"],
        "num_classes": measured["num_classes"],
        "dim": measured["dim"],
        "largest_shard_mib": round(max(shards) / _MIB, 1),
        "peak_mib": round(peak, 1),
        "beyond_largest_shard_mib": round(peak - max(shards) / _MIB, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }
    for name, value in result.items():
        print(f"{name:26} {value}")
    print("warnings:", *measured["warnings"] or ["none"], sep="\n  ")
    if args.json is not None:
        with args.json.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
