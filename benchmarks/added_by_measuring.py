"""What measuring adds in the first hour with the package: four small cases, each with its time and its ratio or limit.

    python benchmarks/added_by_measuring.py                 # all cases (a minute)
    python benchmarks/added_by_measuring.py --case mlp --case trainer

Every case runs once before it is timed, so that imports and first calls do not count. The two sides of a ratio alternate
in one process; the ratio of the minima is printed.

    trainer     tiny BERT in the Trainer of transformers, 3 epochs of 256 sentences: with the callback over without; <= 1.2.
                Also with a pass over the data at each of the four points, but nothing measured
    images      ResNet-18 on 39 images of 64 x 64 pixels, 20 steps: with a monitor at the first and the last step; <= 10 s
    mlp         `profile` of 30 digits on the MLP of width 1024, every layer and metric; <= 1.5 s
    four        the same with four metrics
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import collapselab
from collapselab.models import open_model

FOUR = ("normalized_within", "cdnv", "equiangularity", "ncc_accuracy")


def seconds(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, runs: dict[str, Callable[[], object]], repeat: int) -> None:
    """Time runs in turn and print the minimum of each, and its ratio to the first."""
    for run in runs.values():
        run()
    times = {label: [0.0] * repeat for label in runs}
    for turn in range(repeat):
        for label, run in runs.items():
            times[label][turn] = seconds(run)
    first = min(next(iter(times.values())))
    for label, found in times.items():
        print(f"{name:8} {label:24} {min(found):8.2f} s {min(found) / first:6.2f}x", flush=True)


def train_images(monitored: bool) -> None:
    """Train ResNet-18 for 20 steps on 39 images."""
    torch.manual_seed(0)
    labels = torch.arange(39) % 3
    images = torch.randn(39, 3, 64, 64) + labels[:, None, None, None]
    loader = DataLoader(TensorDataset(images, labels), batch_size=20, shuffle=True)
    model = open_model("torchvision/resnet18", num_classes=3, input_shape=(3, 64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loop(step: Callable[[], object]) -> None:
        for _ in range(10):
            for inputs, targets in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
                step()

    if not monitored:
        loop(lambda: None)
        return
    with tempfile.TemporaryDirectory() as out, collapselab.Monitor(model, loader, out=out) as monitor:
        loop(monitor.step)


def train_bert(callback: Literal["measure", "forward"] | None) -> None:
    """Train tiny BERT with the Trainer, and at four points measure it, or only run it on all sentences."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from collapselab.integrations.transformers import NeuralCollapseCallback

    class Forward(TrainerCallback):
        """What no measuring can do without: a pass of the network over the data at each point."""

        @torch.no_grad()
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = kwargs["model"].eval()
            for batch in kwargs["train_dataloader"]:
                model(**batch)
            model.train()

        on_train_begin = on_epoch_end

    torch.manual_seed(0)
    tokens = torch.randint(4, 1000, (256, 32))
    labels = torch.arange(256) % 4
    tokens[:, 1] = labels
    data = [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]
    config = BertConfig(
        vocab_size=1000, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
        num_labels=4,  # pyright: ignore[reportCallIssue] of every configuration
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out, num_train_epochs=3, per_device_train_batch_size=16, report_to="none",
            save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        callbacks = {
            None: [],
            "forward": [Forward()],
            "measure": [NeuralCollapseCallback(out=Path(out) / "collapse")],
        }
        Trainer(
            BertForSequenceClassification(config),
            arguments,
            train_dataset=data,  # pyright: ignore[reportArgumentType] a list is a data set
            callbacks=callbacks[callback],
        ).train()


def profile_mlp(metrics: tuple[str, ...] | None) -> None:
    """Profile 30 digits on the MLP of the papers."""
    from collapselab.cli.profile_job import ProfileJob, run_job

    run_job(ProfileJob("mlp", "digits", limit=30, options={"metrics": metrics}))


CASES: dict[str, dict[str, Callable[[], object]]] = {
    "trainer": {
        "bare": lambda: train_bert(None),
        "with forward passes only": lambda: train_bert("forward"),
        "with the callback": lambda: train_bert("measure"),
    },
    "images": {"bare": lambda: train_images(False), "with a monitor": lambda: train_images(True)},
    "mlp": {"every metric": lambda: profile_mlp(None)},
    "four": {"four metrics": lambda: profile_mlp(FOUR)},
}


def main() -> None:
    """Print every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in arguments.case or CASES:
        compare(name, CASES[name], arguments.repeat)


if __name__ == "__main__":
    main()
