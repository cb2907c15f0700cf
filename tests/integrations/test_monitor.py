"""A monitor in a hand-written loop: what it writes, when, and that training does not notice."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monitored_network import BATCHES, DIM, NUM_CLASSES, Noisy, network
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from collapselab import InputError
from collapselab.integrations import Monitor
from collapselab.records.recipe import Recipe
from collapselab.records.run_record import RunRecord
from collapselab.records.versions import newest_run
from collapselab.storage import provenance
from collapselab.training import RunFolder


def train(model: nn.Module, loader: DataLoader[Any], epochs: int = 2, monitor: Monitor | None = None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[3].eval()  # pyright: ignore[reportIndexIssue] a mode of its own, to be put back
    for _ in range(epochs):
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            if monitor is not None:
                monitor.step()
            optimizer.zero_grad()
            assert torch.is_grad_enabled()


def steps_of(out: Path) -> list[int]:
    return sorted({row.step for row in RunFolder(newest_run(out)).read_rows()})


def run_of(out: Path) -> dict[str, Any]:
    return json.loads((newest_run(out) / "run.json").read_text())


def seed_all() -> None:
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 (the shared generator is what must not move)
    torch.manual_seed(7)


def outcome(model: nn.Module, loader: DataLoader[Any]) -> dict[str, Any]:
    """Weights, and what each generator draws next."""
    weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    assert isinstance(loader.dataset, Noisy)
    drawn = (random.random(), np.random.rand(), torch.rand(3).tolist(), loader.dataset.own.random())  # noqa: NPY002 (the shared generator is what must not move)
    return {"weights": weights, "drawn": drawn, "order": [labels.tolist() for _, labels in loader]}


def test_measuring_does_not_change_the_training(
    train_loader: DataLoader[Any], test_loader: DataLoader[Any], tmp_path: Path
) -> None:
    outcomes = []
    for monitored in (False, True):
        model, order = network(), train_loader.generator
        assert order is not None
        order.manual_seed(5)
        assert isinstance(train_loader.dataset, Noisy)
        train_loader.dataset.own = np.random.default_rng(1)
        # Made before the draws begin: run-time type checks of its arguments draw from Python's generator.
        monitor = Monitor(model, train_loader, test_loader, out=tmp_path / "run", every=4)
        seed_all()
        if monitored:
            with monitor:
                train(model, train_loader, monitor=monitor)
            assert [module.training for module in model] == [True, True, True, False, True]  # pyright: ignore[reportGeneralTypeIssues]
        else:
            train(model, train_loader)
        outcomes.append(outcome(model, train_loader))
    assert outcomes[0] == outcomes[1]
    assert steps_of(tmp_path / "run") == [0, 4, 8, 12]


def test_gradients_and_the_gradient_mode_are_left_alone(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    model = network()
    model(torch.randn(4, DIM)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    with Monitor(model, train_loader, out=tmp_path / "run") as monitor:
        with torch.no_grad():
            monitor.measure()
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_pass_of_persistent_workers_goes_on(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(16, DIM), torch.arange(16) % NUM_CLASSES)
    weights = WeightedRandomSampler([1.0] * 16, 16, generator=torch.Generator().manual_seed(0))
    for number, sampler in enumerate((RandomSampler(data), weights)):
        loader = DataLoader(data, batch_size=4, sampler=sampler, num_workers=1, persistent_workers=True)
        with Monitor(network(), loader, out=tmp_path / str(number), at=[2]) as monitor:
            assert [step for step, _ in enumerate(loader, start=1) if monitor.step()] == [2]
        assert monitor.current_step == 4


@pytest.mark.parametrize(
    ("when", "measured"),
    [
        ({}, [0, 12]),
        ({"every": 5}, [0, 5, 10, 12]),
        ({"every": 6}, [0, 6, 12]),
        ({"at": [3, 4, 40]}, [0, 3, 4, 12]),
        ({"log_spaced": (12, 4)}, [0, 1, 2, 5, 12]),
    ],
)
def test_first_due_and_last_steps_are_measured(
    when: dict[str, Any], measured: list[int], train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    model = network()
    with Monitor(model, train_loader, out=tmp_path / "run", **when) as monitor:
        train(model, train_loader, monitor=monitor)
    assert steps_of(tmp_path / "run") == measured
    assert monitor.profile is not None


def test_the_folder_holds_what_a_run_holds(
    train_loader: DataLoader[Any], test_loader: DataLoader[Any], tmp_path: Path
) -> None:
    model, out = network(), tmp_path / "run"
    with Monitor(
        model, train_loader, test_loader, out=out, every=5, epsilon=0.3, spectra=True, settings={"lr": 0.1}
    ) as monitor:
        assert run_of(out)["status"] == "running"
        train(model, train_loader, monitor=monitor)
    run = run_of(out)
    assert run["status"] == "finished"
    assert run["recipe"]["options"]["epsilon"] == 0.3
    assert run["recipe"]["options"]["weighting"] == "balanced"
    assert run["recipe"]["settings"] == {"lr": 0.1}
    assert run["versions"]["torch"] == torch.__version__
    assert run["seconds"]["measuring"] > 0
    rows = RunFolder(newest_run(out)).read_rows()
    assert {(row.split, row.layer) for row in rows} == {
        (split, "4")
        for split in ("train", "test")  # the last layer
    }
    assert {row.step: row.epoch for row in rows} == {0: 0.0, 5: 5 / 6, 10: 10 / 6, 12: 2.0}
    assert all(row.spectra for row in rows)
    statistics = RunFolder(newest_run(out)).read_statistics(12)
    assert statistics["train/4/counts"].tolist() == [16, 16, 16]  # all of the training data, once


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_measured_before_an_error_is_kept(
    error: type[BaseException], train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(error), Monitor(network(), train_loader, out=out, every=2) as monitor:  # noqa: PT012 (the loop inside is what is interrupted)
        for _ in range(5):
            monitor.step()
        raise error
    assert run_of(out)["status"] == "stopped"
    assert steps_of(out) == [0, 2, 4]


def test_a_network_that_cannot_be_measured_stops_the_run(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Monitor(network(), train_loader, out=tmp_path / "run", layers="nowhere").start()
    assert run_of(tmp_path / "run")["status"] == "stopped"


class Breaking:
    """Ways to make a measurement fail in the middle of a training."""

    @staticmethod
    def weights(model: nn.Module, out: Path) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    @staticmethod
    def overflow(model: nn.Module, out: Path) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(3e38)

    @staticmethod
    def folder(model: nn.Module, out: Path) -> None:
        shutil.rmtree(out)

    @staticmethod
    def rows(model: nn.Module, out: Path) -> None:
        (newest_run(out) / "measurements.jsonl").unlink()
        (newest_run(out) / "measurements.jsonl").mkdir()

    @staticmethod
    def shape(model: nn.Module, out: Path) -> None:
        model.add_module("0", nn.Linear(DIM + 1, 8))


@pytest.mark.parametrize("way", ["weights", "overflow", "folder", "rows", "shape"])
def test_a_failing_measurement_warns_once_and_training_goes_on(
    way: str, train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    out, model = tmp_path / "run", network()
    with Monitor(model, train_loader, out=out, every=1) as monitor:
        monitor.step()
        getattr(Breaking, way)(model, out)
        with pytest.warns(
            UserWarning, match=r"step 2 was not measured or not written: .*; training goes on"
        ) as said:
            assert monitor.step() is None
        assert len(said) == 1
        assert len(str(said[0].message)) <= 300
        assert "\n" not in str(said[0].message)
        assert monitor.step() is None  # without another warning, which would be an error
    assert list(monitor.failures) == [2, 3]
    assert monitor.current_step == 3


def test_a_full_disk_warns_and_later_steps_are_written(
    train_loader: DataLoader[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with Monitor(network(), train_loader, out=out, every=1) as monitor:
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append_profile", full)
            with pytest.warns(UserWarning, match="step 1 .*No space left on device"):
                monitor.step()
        assert monitor.step() is not None
    assert steps_of(out) == [0, 2]
    assert run_of(out)["status"] == "finished"


def test_ctrl_c_while_measuring_ends_the_training(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    def interrupt(_: Any, step: int) -> None:
        if step == 1:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with (
        pytest.raises(KeyboardInterrupt),
        Monitor(network(), train_loader, out=out, every=1, log=interrupt) as monitor,
    ):
        monitor.step()
    assert run_of(out)["status"] == "stopped"


def test_a_stopped_run_goes_on_from_a_checkpoint(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), Monitor(network(), train_loader, out=out, every=2) as monitor:  # noqa: PT012 (the loop inside is what is interrupted)
        for _ in range(7):
            monitor.step()
        raise KeyboardInterrupt
    with Monitor(network(), train_loader, out=out, every=2, first_step=4) as monitor:
        assert steps_of(out) == [0, 2, 4]
        for _ in range(5):
            monitor.step()
    assert monitor.epoch == 9 / BATCHES
    assert steps_of(out) == [0, 2, 4, 6, 8, 9]
    rows = RunFolder(newest_run(out)).read_rows()
    assert len(rows) == 6
    assert run_of(out)["status"] == "finished"


def test_rows_are_never_lost_unasked(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with Monitor(network(), train_loader, out=out, every=2) as monitor:
        monitor.step()
    first = monitor.folder / "measurements.jsonl"
    before = first.read_bytes()
    with Monitor(network(), train_loader, out=out, every=2) as second:
        second.step()
    assert [monitor.folder.name, second.folder.name] == ["version_0", "version_1"]
    assert first.read_bytes() == before
    assert (out / "thesis.tex").read_text() == "precious"
    RunFolder(tmp_path / "digits").create()
    RunFolder(tmp_path / "digits").write_run(RunRecord(**provenance(), recipe=Recipe(), status="stopped"))
    for first_step in (0, 4):
        with pytest.raises(InputError, match="holds a run of another kind"):
            Monitor(network(), train_loader, out=tmp_path / "digits", first_step=first_step).start()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be created .*; choose another out="):
        Monitor(network(), train_loader, out=tmp_path / "file").start()


def test_a_run_measured_in_another_way_is_not_continued(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with Monitor(network(), train_loader, out=out, every=2) as monitor:
        monitor.step()
    with pytest.warns(UserWarning, match=r"version_0: was measured with every 2, not 3; .* in a new version"):
        other = Monitor(network(), train_loader, out=out, every=3, first_step=1).start()
    other.stop()
    assert other.folder == out / "version_1"
    assert sorted({row.step for row in RunFolder(monitor.folder).read_rows()}) == [0, 1]


def test_overwrite_replaces_the_newest_version_and_nothing_else(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for every in (1, 2):
        with Monitor(network(), train_loader, out=out, every=every):
            pass
    newest = out / "version_1"
    (newest / "notes.txt").write_text("mine")
    with Monitor(network(), train_loader, out=out, every=3, overwrite=True) as monitor:
        assert monitor.folder == newest
        monitor.step()
        monitor.step()
    assert sorted(path.name for path in out.iterdir()) == ["version_0", "version_1"]
    assert steps_of(out) == [0, 2]
    assert RunFolder(newest).stored_steps("statistics") == [0, 2]
    assert run_of(out)["recipe"]["every"] == 3
    assert run_of(out / "version_0")["recipe"]["every"] == 1
    assert (newest / "notes.txt").read_text() == "mine"
    # A training that resumes continues its run, whatever the script says about a new start.
    with Monitor(network(), train_loader, out=out, every=3, overwrite=True, first_step=2):
        pass
    assert steps_of(out) == [0, 2]


def test_a_run_of_an_earlier_release_is_continued_where_it_is(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    """Its files lie in `out` itself."""
    with Monitor(network(), train_loader, out=tmp_path / "new", every=2) as monitor:
        monitor.step()
    old = monitor.folder.rename(tmp_path / "old")
    with Monitor(network(), train_loader, out=old, every=2, first_step=1) as monitor:
        monitor.step()
    assert monitor.folder == old
    assert steps_of(old) == [0, 1, 2]
