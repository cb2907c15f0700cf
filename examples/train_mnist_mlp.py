"""Train the MLP of Rangamani et al. 2023 on MNIST digits past zero error, in plain PyTorch.

    python examples/train_mnist_mlp.py DATA OUT [--epochs 100] [--seed 0] [--standardize channel]

DATA is a folder of Parquet files in the layout of the Hugging Face hub. The script writes `initial.safetensors` and
`final.safetensors` to the folder OUT; measure them with

    collapselab profile mlp --dataset DATA --seed 0 --out OUT/initial
    collapselab profile mlp --dataset DATA --checkpoint OUT/final.safetensors --against OUT/initial --out OUT/final

As in the paper (appendix A): 10 hidden layers of 1024 with batch norm, mean squared error, SGD with learning rate 0.02,
decayed twice by 0.2, momentum 0.9, weight decay 5e-4, no augmentation. The paper does not give the batch size or the
epochs of the decays. How far features collapse depends on steps times learning rate times weight decay, and 8000 digits
make short epochs; therefore batches have 32 samples, and the rate decays after three quarters and nine tenths of the
epochs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import collapselab
from collapselab.data import open_data_set
from collapselab.models import open_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--standardize", choices=("channel", "pixel", "none"), default="channel")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    data = open_data_set(options.data)
    train = data.open("train", standardize=options.standardize)
    test = data.open("test", reference=train)
    (inputs, labels), (test_inputs, test_labels) = (
        next(iter(split.batches(len(split)))) for split in (train, test)
    )
    model = open_model("mlp", num_classes=train.num_classes, input_shape=train.input_shape, seed=options.seed)
    save_file(model.state_dict(), options.out / "initial.safetensors")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, fused=True)
    decays = [3 * options.epochs // 4, 9 * options.epochs // 10]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, decays, gamma=0.2)
    targets = torch.eye(train.num_classes)[labels]

    def accuracy(x: torch.Tensor, y: torch.Tensor) -> float:
        model.eval()
        with torch.no_grad():
            decided = torch.cat([model(part).argmax(1) for part in x.split(1000)])
        model.train()
        return float((decided == y).float().mean())

    start = time.perf_counter()
    for epoch in range(options.epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        total = 0.0
        for rows in order.split(options.batch_size):
            loss = nn.functional.mse_loss(model(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        scheduler.step()
        if epoch % 5 == 4 or epoch + 1 == options.epochs:
            save_file(model.state_dict(), options.out / "final.safetensors")
            last = collapselab.profile(
                model, train.batches(1000), layers="layers.10", metrics=["normalized_within"]
            ).layers[-1]
            print(
                f"epoch {epoch + 1}: loss {total / len(labels):.2e}, accuracy {accuracy(inputs, labels):.4f} on "
                f"train, {accuracy(test_inputs, test_labels):.4f} on test, share of variance within classes "
                f"{last.train['normalized_within']:.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
