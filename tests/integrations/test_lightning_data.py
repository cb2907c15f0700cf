"""The callback measures batches on the way that Lightning gives them: hooks of transfer, precision plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning_warnings import QUIET

from collapselab.integrations.lightning import NeuralCollapseCallback

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:You have overridden"),
]

NUM, DIM = 26, 6


class Images(nn.Module):
    """Reads rows; its middle layer has another width for the sake of a second probe point."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(DIM, 9), nn.Linear(9, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(inputs)))


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.losses = Images(), list[float]()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


STAGES: list[tuple[bool, bool]] = []  # not an attribute of the network, which would be restored


class Transferring(Model):
    """Normalises after the transfer; adds noise to training batches only; unpacks batches of another form before."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"image": batch[0], "label": batch[1]}

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return super().transfer_batch_to_device((batch["image"], batch["label"]), device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        inputs = (batch[0].float() - 100) / 50
        STAGES.append((self.trainer.training, self.trainer.validating))
        return (inputs + torch.rand(()) if self.trainer.training else inputs), batch[1]


class Data(LightningDataModule):
    """Halves what it transfers, and that in place of the module's hook."""

    def train_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))

    def val_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0].float() / 2, batch[1]


def data() -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(24) % 3, torch.zeros(2, dtype=torch.long)])  # unbalanced
    return TensorDataset(
        torch.randint(0, 150, (NUM, DIM), generator=draw, dtype=torch.uint8) + 40 * labels[:, None].byte(),
        labels,
    )


class Floats(Data):
    def __init__(self) -> None:
        super().__init__()
        images, labels = data().tensors
        self.rows = TensorDataset(images.float() / 100, labels)

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=8)

    on_after_batch_transfer = LightningDataModule.on_after_batch_transfer


def fit(tmp_path: Path, model: Model, loaders: LightningDataModule, *callbacks: Any, **settings: Any) -> None:
    torch.manual_seed(3)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(model, datamodule=loaders)
    assert trainer.state.stage is None or not trainer.validating


def class_means(inputs: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([inputs[labels == label].double().mean(0) for label in range(3)])


def means_of(callback: NeuralCollapseCallback, layer: str, split: str = "train") -> Tensor:
    assert callback.monitor is not None
    assert callback.monitor.profile is not None
    assert callback.monitor.profile.weighting == "balanced"  # class counts are known without a pass
    means = callback.monitor.profile[layer].splits[split].class_means
    assert means is not None
    return means.double()


@pytest.mark.parametrize(
    ("network", "loaders"),
    [(Transferring, None), (Transferring, Data), (Model, Data)],
)
def test_hooks_of_transfer_are_used(network: Any, loaders: Any, tmp_path: Path) -> None:
    """The module's hook is used, or that of the data module where it has one."""
    images, labels = data().tensors
    expected = (images.double() - 100) / 50 if loaders is None else images.double() / 2
    plain = type("Plain", (Data,), {"on_after_batch_transfer": LightningDataModule.on_after_batch_transfer})
    callback, model = NeuralCollapseCallback(layers=None), network()
    fit(tmp_path, model, (loaders or plain)(), callback)
    for split in ("train", "test"):
        measured = means_of(callback, "net.first", split)
        torch.testing.assert_close(measured, class_means(expected, labels), atol=1e-5, rtol=0)


def test_hooks_see_a_trainer_that_validates(tmp_path: Path) -> None:
    plain = type("Plain", (Data,), {"on_after_batch_transfer": LightningDataModule.on_after_batch_transfer})
    for callbacks, validated in (([], False), ([NeuralCollapseCallback()], True)):
        STAGES.clear()
        fit(tmp_path, Transferring(), plain(), *callbacks, limit_val_batches=0)
        assert ((False, True) in STAGES) == validated
        assert STAGES.count((True, False)) == 8  # batches of training


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true", "32-true"])
def test_precision_plugins_are_used(precision: Any, tmp_path: Path) -> None:
    results, callback = [], NeuralCollapseCallback(layers=None)
    for callbacks in ([], [callback]):
        torch.manual_seed(1)
        model = Model()
        fit(tmp_path, model, Floats(), *callbacks, precision=precision)
        results.append((model.losses, [parameter.clone() for parameter in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(one, other) for one, other in zip(*(found[1] for found in results), strict=True))
    assert torch.get_default_dtype() == torch.float32
    rows, labels = Floats().rows.tensors
    first, head = model.net.first, model.net.head
    low = torch.bfloat16 if precision.startswith("bf16") else first.weight.dtype
    inputs = rows.to(torch.float32 if precision == "bf16-mixed" else low)
    torch.testing.assert_close(
        means_of(callback, "net.first"), class_means(inputs.double(), labels), atol=1e-6, rtol=0
    )
    with torch.no_grad():
        hidden = torch.relu(nn.functional.linear(inputs.to(low), first.weight.to(low), first.bias.to(low)))
    assert head.in_features == hidden.shape[1]
    torch.testing.assert_close(
        means_of(callback, "net.head"), class_means(hidden.double(), labels), atol=1e-6, rtol=0
    )
