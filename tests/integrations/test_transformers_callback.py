"""The callback in the Trainer of `transformers`: what it writes and logs, and that training does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from collapselab import InputError
from collapselab.records.versions import newest_run
from collapselab.training import RunFolder

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from collapselab.integrations.transformers import NeuralCollapseCallback

STEPS = 4  # in an epoch


class Sentences(Dataset[dict[str, Tensor]]):
    def __init__(self, num: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(num) % 3
        self.tokens = torch.randint(4, 20, (num, 5), generator=draw)
        self.tokens[:, 1] = self.labels + 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "labels": self.labels[index],
        }


def make_trainer(out: Path, *callbacks: Any, evaluate: bool = True, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=12,
            max_position_embeddings=8,
            id2label={0: "a", 1: "b", 2: "c"},
        )
    )
    settings = {"num_train_epochs": 2, "report_to": "none", "save_strategy": "no"} | settings
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=8,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=2,
        seed=3,
        dataloader_pin_memory=False,
        **settings,
    )
    return Trainer(
        model,
        arguments,
        train_dataset=Sentences(30, 1),
        eval_dataset=Sentences(12, 2) if evaluate else None,
        callbacks=list(callbacks),
    )


def callback(**options: Any) -> NeuralCollapseCallback:
    return NeuralCollapseCallback(layers=["*dense", "classifier"], reduce="token:0", **options)


def run_of(out: Path) -> tuple[dict[str, Any], dict[int, float]]:
    """run.json, and the epoch of each measured step."""
    run = json.loads((newest_run(out) / "run.json").read_text())
    return run, {row.step: row.epoch for row in RunFolder(newest_run(out)).read_rows()}


def test_measuring_does_not_change_the_training(tmp_path: Path) -> None:
    weights, histories, drawn = [], [], []
    for measured in (False, True):
        trainer = make_trainer(tmp_path / str(measured))
        if measured:
            trainer.add_callback(callback(every_n_steps=3))
        trainer.train()
        assert trainer.model is not None
        weights.append(trainer.model.state_dict())
        drawn.append(torch.rand(4))
        histories.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name
    assert torch.equal(*drawn)
    # The Trainer logs its own losses at the same steps.
    assert histories[0] == histories[1]
    assert len(histories[0]) == 4
    assert list(run_of(tmp_path / "True" / "neural_collapse")[1]) == [0, 3, 6, 2 * STEPS]


def test_run_folder_history_and_reporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = make_trainer(tmp_path, callback(log_metrics=["cdnv"]), report_to="tensorboard")
    trainer.train()
    run, epochs = run_of(tmp_path / "neural_collapse")
    assert run["status"] == "finished"
    assert run["recipe"]["monitored"] == "BertForSequenceClassification"
    assert epochs == {0: 0.0, STEPS: 1.0, 2 * STEPS: 2.0}
    statistics = RunFolder(newest_run(tmp_path / "neural_collapse")).read_statistics(0)
    assert statistics["train/classifier/counts"].tolist() == [10, 10, 10]
    assert statistics["test/classifier/counts"].tolist() == [4, 4, 4]
    logged = [entry for entry in trainer.state.log_history if "test_collapse/cdnv/classifier" in entry]
    assert [entry["step"] for entry in logged] == [0, STEPS, 2 * STEPS]
    assert logged[0].keys() == {
        "collapse/cdnv/classifier",
        "test_collapse/cdnv/classifier",
        "epoch",
        "step",
    }
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload()
    for name in ("train/collapse/cdnv/classifier", "test/collapse/cdnv/classifier"):
        assert [point.step for point in events.Scalars(name)] == [0, STEPS, 2 * STEPS]


def test_every_way_to_add_the_callback_measures_and_logs_the_same(tmp_path: Path) -> None:
    histories = []
    for way in ("callbacks", "add_callback", "attach"):
        measuring = callback(every_n_epochs=2, log_metrics=["cdnv"], out=tmp_path / way)
        trainer = make_trainer(tmp_path, *([measuring] if way == "callbacks" else []))
        if way == "add_callback":
            trainer.add_callback(measuring)
        elif way == "attach":
            assert measuring.attach(trainer).attach(trainer) is measuring
        trainer.train()
        assert run_of(tmp_path / way)[1] == {0: 0.0, 2 * STEPS: 2.0}
        histories.append(
            [entry for entry in trainer.state.log_history if "collapse/cdnv/classifier" in entry]
        )
    assert histories[0] == histories[1] == histories[2]
    assert ["test_collapse/cdnv/classifier" in entry for entry in histories[0]] == [True, True]


def test_called_by_something_else_it_measures_the_training_data(tmp_path: Path) -> None:
    measuring = callback(log_metrics=["cdnv"], out=tmp_path / "mine")
    trainer = make_trainer(tmp_path)
    control, state = TrainerControl(), TrainerState()
    parts = {"model": trainer.model, "train_dataloader": trainer.get_train_dataloader()}
    measuring.on_train_begin(trainer.args, state, control, **parts)
    measuring.on_train_end(trainer.args, state, control)
    assert [entry.keys() for entry in state.log_history] == [{"collapse/cdnv/classifier", "epoch", "step"}]
    assert run_of(tmp_path / "mine")[0]["status"] == "finished"


def test_the_users_own_data_sets_and_loaders(tmp_path: Path) -> None:
    loader = DataLoader(Sentences(6, 4), batch_size=4)
    trainer = make_trainer(tmp_path, callback(train_loader=Sentences(9, 5), test_loader=loader), max_steps=1)
    trainer.train()
    statistics = RunFolder(newest_run(tmp_path / "neural_collapse")).read_statistics(1)
    assert statistics["train/classifier/counts"].tolist() == [3, 3, 3]
    assert statistics["test/classifier/counts"].tolist() == [2, 2, 2]


def test_columns_that_the_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [Sentences(12, 1)[index] for index in range(12)]
    table = datasets.Dataset.from_list(
        [{name: value.tolist() for name, value in row.items()} | {"text": "said"} for row in rows]
    )
    trainer = make_trainer(tmp_path, callback(test_loader=table), max_steps=1)
    trainer.train_dataset = table
    trainer.train()
    statistics = RunFolder(newest_run(tmp_path / "neural_collapse")).read_statistics(1)
    assert statistics["train/classifier/counts"].tolist() == [4, 4, 4]
    assert statistics["test/classifier/counts"].tolist() == [4, 4, 4]


def test_the_best_network_is_not_taken_for_the_last(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0),
        num_train_epochs=4,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
    )
    trainer.add_callback(callback(every_n_epochs=3))
    trainer.train()
    run, epochs = run_of(tmp_path / "neural_collapse")
    assert trainer.state.global_step == 2 * STEPS  # stopped early
    assert run["status"] == "finished"
    assert list(epochs) == [0]


def test_a_run_goes_on_with_the_checkpoint(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, callback(), num_train_epochs=1, save_strategy="epoch", max_steps=6)
    first.train()
    out = tmp_path / "neural_collapse"
    assert list(run_of(out)[1]) == [0, STEPS, 6]
    second = make_trainer(tmp_path, callback())
    second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS}"))
    assert list(run_of(out)[1]) == [0, STEPS, 2 * STEPS]
    make_trainer(tmp_path, callback(), max_steps=1).train()
    assert [path.name for path in sorted(out.iterdir())] == ["version_0", "version_1"]
    assert list(run_of(out)[1]) == [0, 1]


def test_an_interrupted_training_is_marked_by_the_next(tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    measuring = callback(out=tmp_path / "mine", every_n_steps=2, log=lambda _, step: step == 4 and fail())
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, measuring).train()
    assert run_of(tmp_path / "mine")[0]["status"] == "running"
    measuring._stop()  # what the interpreter calls at its end
    run, epochs = run_of(tmp_path / "mine")
    assert run["status"] == "stopped"
    assert list(epochs) == [0, 2, 4]


class Renamed(Sentences):
    """Labels under another name, as whole sentences of a network of one's own."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return {"tokens": item["input_ids"].float(), "topic": item["labels"]}


class Topics(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(5, 3)

    def forward(self, tokens: Tensor, topic: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(tokens)
        loss = None if topic is None else torch.nn.functional.cross_entropy(logits.float(), topic)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


class Scaling(Trainer):
    """Prepares its batches in a way of its own."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)
        return {**prepared, "tokens": prepared["tokens"] / 8}


def test_batches_are_prepared_as_the_trainer_prepares_them(tmp_path: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        max_steps=1,
        label_names=["topic"],
        bf16=True,
        dataloader_pin_memory=False,
    )
    data = Renamed(30, 1)
    measuring = NeuralCollapseCallback()
    trainer = Scaling(
        Topics(), arguments, train_dataset=data, eval_dataset=Renamed(12, 2), callbacks=[measuring]
    )
    trainer.train()
    assert measuring.monitor is not None
    assert measuring.monitor.profile is not None
    means = measuring.monitor.profile["head"].splits["train"].class_means
    assert means is not None
    expected = torch.stack([data.tokens[data.labels == label].double().mean(0) / 8 for label in range(3)])
    torch.testing.assert_close(means.double(), expected, atol=0.02, rtol=0)  # read in bfloat16


def test_mistakes_are_said_in_one_line() -> None:
    with pytest.raises(InputError, match="unknown option 'layer'"):
        NeuralCollapseCallback(layer="classifier")  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match="every_n_epochs=0"):
        NeuralCollapseCallback(every_n_epochs=0)
