"""The callback in Lightning's own Trainer: what it writes and logs, and that training does not notice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from collapselab import InputError
from collapselab.records.versions import newest_run
from collapselab.training import RunFolder

pytest.importorskip("lightning")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning_warnings import QUIET

from collapselab.integrations import lightning as integration
from collapselab.integrations.lightning import NeuralCollapseCallback

pytestmark = QUIET

BATCHES = 4


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.fails_at: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.global_step == self.fails_at:
            raise ZeroDivisionError
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Bare(Classifier):
    """Has no forward of its own."""

    forward = LightningModule.forward

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def data(num: int, seed: int) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    return TensorDataset(torch.randn(num, 6, generator=draw) + torch.eye(3, 6)[labels], labels)


def fit(
    tmp_path: Path,
    *callbacks: Any,
    model: Classifier | None = None,
    validate: bool = True,
    checkpoint: Path | None = None,
    **settings: Any,
) -> tuple[Classifier, Trainer]:
    if model is None:
        torch.manual_seed(0)
        model = Classifier()
    settings = {"max_epochs": 3, "logger": False, "enable_checkpointing": False} | settings
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )
    order = torch.Generator().manual_seed(1)
    train = DataLoader(data(30, 1), batch_size=8, shuffle=True, generator=order)
    val = DataLoader(data(12, 2), batch_size=8) if validate else None
    torch.manual_seed(3)
    trainer.fit(model, train, val, ckpt_path=checkpoint)
    return model, trainer


def run_of(out: Path) -> tuple[dict[str, Any], dict[int, float]]:
    """run.json, and the epoch of each measured step."""
    run = json.loads((newest_run(out) / "run.json").read_text())
    return run, {row.step: row.epoch for row in RunFolder(newest_run(out)).read_rows()}


def test_measuring_does_not_change_the_training(tmp_path: Path) -> None:
    weights, drawn = [], []
    for callbacks in ([], [NeuralCollapseCallback(every_n_steps=5)]):
        model, _ = fit(tmp_path, *callbacks)
        weights.append(model.state_dict())
        drawn.append(torch.rand(4))
        assert all(parameter.requires_grad for parameter in model.parameters())
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name
    assert torch.equal(*drawn)
    assert list(run_of(tmp_path / "neural_collapse")[1]) == [0, 5, 10, 3 * BATCHES]


def test_run_folder_and_loggers(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "table"), TensorBoardLogger(tmp_path, "board")]
    callback = NeuralCollapseCallback(every_n_epochs=2, network="net", log_metrics=["cdnv"])
    fit(tmp_path, callback, logger=loggers)
    out = Path(loggers[0].log_dir) / "neural_collapse"
    assert callback.monitor is not None
    assert callback.monitor.folder == out / "version_0"
    run, epochs = run_of(out)
    assert run["status"] == "finished"
    assert run["recipe"]["monitored"] == "Sequential"
    assert epochs == {0: 0.0, 2 * BATCHES: 2.0, 3 * BATCHES: 3.0}
    statistics = RunFolder(newest_run(out)).read_statistics(0)
    assert statistics["train/4/counts"].tolist() == [10, 10, 10]
    assert statistics["test/4/counts"].tolist() == [4, 4, 4]
    header = (Path(loggers[0].log_dir) / "metrics.csv").read_text().split("\n")[0]
    assert {"collapse/cdnv/4", "collapse/test/cdnv/4"} <= set(header.split(","))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(loggers[1].log_dir).Reload()
    assert [point.step for point in events.Scalars("collapse/cdnv/4")] == [0, 8, 12]


def test_steps_are_optimiser_steps_under_accumulation(tmp_path: Path) -> None:
    fit(tmp_path, NeuralCollapseCallback(every_n_steps=1), accumulate_grad_batches=2, max_epochs=2)
    assert run_of(tmp_path / "neural_collapse")[1] == {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}


def test_training_that_ends_within_an_epoch_is_measured_at_its_end(tmp_path: Path) -> None:
    fit(tmp_path, NeuralCollapseCallback(), max_steps=6, max_epochs=-1, validate=False)
    assert list(run_of(tmp_path / "neural_collapse")[1]) == [0, 4, 6]
    assert not any(
        name.startswith("test/")
        for name in RunFolder(newest_run(tmp_path / "neural_collapse")).read_statistics(0)
    )


def test_an_exception_marks_the_run_stopped(tmp_path: Path) -> None:
    model = Classifier()
    model.fails_at = 5
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, NeuralCollapseCallback(out=tmp_path / "mine"), model=model)
    run, epochs = run_of(tmp_path / "mine")
    assert run["status"] == "stopped"
    assert list(epochs) == [0, BATCHES]


def test_a_run_goes_on_with_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    _, trainer = fit(tmp_path, NeuralCollapseCallback(out=out), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, NeuralCollapseCallback(out=out), checkpoint=tmp_path / "two.ckpt")
    assert run_of(out)[1] == {0: 0.0, 4: 1.0, 8: 2.0, 12: 3.0}
    assert len(RunFolder(newest_run(out)).read_rows()) == 4 * 2
    fit(tmp_path, NeuralCollapseCallback(out=out), max_epochs=1)
    fit(tmp_path, NeuralCollapseCallback(out=out, overwrite=True), max_epochs=2)
    assert sorted(path.name for path in out.iterdir()) == ["version_0", "version_1"]
    assert run_of(out)[1] == {0: 0.0, 4: 1.0, 8: 2.0}


class Watching(Callback):
    """Reads the metrics where `EarlyStopping` and `ModelCheckpoint` do, before the callback is called."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, float]] = []

    def _see(self, trainer: Trainer, where: str) -> None:
        if not trainer.sanity_checking:
            value = trainer.callback_metrics["collapse/normalized_within/net.4"]
            self.seen.append((where, trainer.global_step, float(value)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._see(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._see(trainer, "epoch")


def test_other_callbacks_see_the_metrics_of_this_epoch(tmp_path: Path) -> None:
    watching, callback = Watching(), NeuralCollapseCallback(out=tmp_path / "mine")
    fit(tmp_path, watching, callback)
    rows = RunFolder(newest_run(tmp_path / "mine")).read_rows()
    expected = {
        row.step: row.metrics["normalized_within"]
        for row in rows
        if (row.split, row.layer) == ("train", "net.4")
    }
    assert [(where, step) for where, step, _ in watching.seen] == [
        (where, step) for step in (4, 8, 12) for where in ("validation", "epoch")
    ]
    for _, step, value in watching.seen:
        assert value == pytest.approx(expected[step], rel=1e-6)  # float32


@pytest.mark.parametrize("validate", [True, False])
def test_early_stopping_watches_any_metric_of_any_layer(validate: bool, tmp_path: Path) -> None:
    stopping = EarlyStopping("collapse/nc1/net.0", patience=1, min_delta=1e9, mode="min")
    _, trainer = fit(
        tmp_path,
        stopping,
        NeuralCollapseCallback(out=tmp_path / "mine", layers=None, metrics=["nc1"]),
        validate=validate,
        max_epochs=5,
    )
    assert trainer.current_epoch == 2  # the inputs of net.0 never change: one epoch of patience
    assert run_of(tmp_path / "mine")[0]["status"] == "finished"


def test_the_best_checkpoint_is_chosen_by_a_metric(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="collapse/test/cdnv/net.4", save_top_k=1)
    callback = NeuralCollapseCallback(out=tmp_path / "mine")
    fit(tmp_path, callback, best, enable_checkpointing=True)
    rows = RunFolder(newest_run(tmp_path / "mine")).read_rows()
    found = {
        row.step: row.metrics["cdnv"]
        for row in rows
        if (row.split, row.layer) == ("test", "net.4") and row.step
    }
    step = min(found, key=lambda step: found[step] or 0.0)
    assert Path(best.best_model_path).name == f"epoch={step // BATCHES - 1}.ckpt"
    assert float(best.best_model_score or 0) == pytest.approx(found[step], rel=1e-6)


def test_a_compiled_network_is_measured_under_the_names_of_its_author(tmp_path: Path) -> None:
    """And in the precision of the trainer, whose context is entered by the network inside."""
    model = Classifier()
    model.net = torch.compile(model.net, backend="eager")  # pyright: ignore[reportAttributeAccessIssue]
    callback = NeuralCollapseCallback(out=tmp_path / "mine", network="net", layers=None, metrics=["cdnv"])
    entered = []
    forward = model.net._orig_mod.register_forward_hook(  # pyright: ignore[reportAttributeAccessIssue]
        lambda *_: entered.append(torch.is_autocast_enabled("cpu"))
    )
    fit(tmp_path, callback, model=model, max_epochs=1, precision="bf16-mixed", validate=False)
    forward.remove()
    assert {row.layer for row in RunFolder(newest_run(tmp_path / "mine")).read_rows()} == {"0", "4"}
    assert all(entered)


def test_a_trial_run_writes_nothing(tmp_path: Path) -> None:
    callback = NeuralCollapseCallback(out=tmp_path / "mine")
    fit(tmp_path, callback, fast_dev_run=True)
    assert not (tmp_path / "mine").exists()
    assert callback.monitor is None


def test_the_users_own_loaders(tmp_path: Path) -> None:
    callback = NeuralCollapseCallback(
        DataLoader(data(9, 4), batch_size=4), DataLoader(data(6, 5), batch_size=4), out=tmp_path / "mine"
    )
    fit(tmp_path, callback, max_epochs=1)
    statistics = RunFolder(newest_run(tmp_path / "mine")).read_statistics(0)
    assert statistics["train/net.4/counts"].tolist() == [3, 3, 3]
    assert statistics["test/net.4/counts"].tolist() == [2, 2, 2]


def test_mistakes_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown option 'layer'"):
        NeuralCollapseCallback(layer="net")  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match="every_n_epochs=0"):
        NeuralCollapseCallback(every_n_epochs=0)
    with pytest.raises(InputError, match="no network 'nets'; its modules: net"):
        fit(tmp_path, NeuralCollapseCallback(network="nets"))
    with pytest.raises(InputError, match="Bare has no forward; give network="):
        fit(tmp_path, NeuralCollapseCallback(), model=Bare(), validate=False)


def test_the_base_class_is_that_of_the_package_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pytorch_lightning` is a package of its own, with a Callback of its own."""

    class Other:
        """Its Callback."""

    mine = sys.modules["lightning.pytorch"]
    other = ModuleType("pytorch_lightning")
    other.__dict__["Callback"] = Other
    monkeypatch.setitem(sys.modules, "pytorch_lightning", other)
    assert issubclass(integration._callback_base(), Other)
    assert issubclass(integration._callback_base(), mine.__dict__["Callback"])
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert integration._callback_base() is Other
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ImportError, match="pip install lightning"):
        integration._callback_base()
