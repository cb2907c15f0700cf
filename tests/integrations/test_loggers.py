"""What real loggers hold afterwards: W&B (offline), MLflow (file store), TensorBoard; and that a failing one ends nothing."""

from __future__ import annotations

import json
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monitored_network import DIM, NUM_CLASSES, network
from torch import Tensor, nn
from torch.utils.data import DataLoader

from collapselab import Monitor
from collapselab.integrations.destinations import MAIN_METRICS, _legal_names, scalars
from collapselab.probes import profile


class Twice(nn.Module):
    """Calls a layer twice: its second call is `fc#2`, which MLflow refuses as a name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.fc(self.fc(inputs).relu()).relu())


# ---------------------------------------------------------------- W&B


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    library = pytest.importorskip("wandb", reason="W&B is not installed")
    for name, value in {"MODE": "offline", "DIR": tmp_path, "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    yield library
    library.teardown()


def records_in(path: Path) -> Iterator[bytes]:
    """The records of a LevelDB log, the format of W&B's files: fragments in blocks of 32 KiB, after a header of 7 bytes."""
    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # no room for another header in this block
            at += 2**15 - at % 2**15
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last fragment of one
            yield whole
            whole = b""


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the history that an offline run has written, in order; W&B's service may still be writing them."""
    from wandb.proto import wandb_internal_pb2

    record_type: Any = vars(wandb_internal_pb2)["Record"]  # made when the module is loaded
    (path,) = folder.rglob("run-*.wandb")
    for _ in range(600):
        records = [record_type.FromString(content) for content in records_in(path)]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the run has no end")
    histories = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for items in histories
    ]


@pytest.mark.parametrize("way", ["twice a step", "own steps", "never", "module"])
def test_wandb_keeps_every_row_of_the_user_and_of_the_monitor(
    way: str, wandb: Any, train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    run = wandb.init(project="collapse", dir=tmp_path)
    logged: dict[int, dict[str, float]] = {}
    log = [wandb if way == "module" else run, lambda metrics, step: logged.update({step: metrics})]
    with Monitor(network(), train_loader, out=tmp_path / "run", every=1, log=log) as monitor:
        for step in range(1, 6):
            if way in ("twice a step", "module"):
                run.log({"loss": float(step)})
                run.log({"accuracy": float(step)})
            elif way == "own steps":
                run.log({"loss": float(step)}, step=step)
            monitor.step()
            if way == "own steps":
                run.log({"accuracy": float(step)}, step=step)
    run.finish()
    rows = rows_of(tmp_path)
    if way != "never":
        for name in ("loss", "accuracy"):
            assert [row[name] for row in rows if name in row] == [1.0, 2.0, 3.0, 4.0, 5.0]
    measured = {row["collapse/step"]: row for row in rows if "collapse/step" in row}
    assert sorted(measured) == [0, 1, 2, 3, 4, 5] == sorted(logged)
    assert set(logged[5]) == {f"collapse/{metric}/4" for metric in MAIN_METRICS}
    for step, metrics in logged.items():
        assert {name: measured[step][name] for name in metrics} == metrics


def test_two_monitors_share_a_wandb_run(wandb: Any, train_loader: DataLoader[Any], tmp_path: Path) -> None:
    run = wandb.init(project="collapse", dir=tmp_path)
    for _ in range(2):
        with Monitor(network(), train_loader, out=tmp_path / "run", log=run) as monitor:
            monitor.step()
    run.finish()
    assert [row["collapse/step"] for row in rows_of(tmp_path) if "collapse/step" in row] == [0, 1, 0, 1]


# ---------------------------------------------------------------- MLflow


def test_mlflow_accepts_every_name(
    train_loader: DataLoader[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    logged: dict[int, dict[str, float]] = {}
    log = [mlflow, lambda metrics, step: logged.update({step: metrics})]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # its file store will go one day
        mlflow.set_tracking_uri((tmp_path / "store").as_uri())
        mlflow.set_experiment("collapse")
        with (
            mlflow.start_run() as started,
            Monitor(
                Twice(), train_loader, train_loader, out=tmp_path / "run", log=log, log_layers="all"
            ) as monitor,
        ):
            monitor.step()
        client = mlflow.MlflowClient()
        assert set(client.get_run(started.info.run_id).data.metrics) == logged[1].keys() | logged[0].keys()
        assert "collapse/test/cdnv/fc-2" in logged[1]
        for name, value in logged[1].items():
            points = client.get_metric_history(started.info.run_id, name)
            assert {point.step: point.value for point in points}[1] == value


# ---------------------------------------------------------------- names


def test_names_are_legal_and_differ() -> None:
    given = ["fc", "fc#2", "fc-2", "a/b", "ünicode", "net.0", ""]
    names = _legal_names(given)
    assert list(names) == given
    assert len(set(names.values())) == len(given)
    assert [names[name] for name in ("fc", "fc#2", "fc-2", "net.0")] == ["fc", "fc-2", "fc-2-2", "net.0"]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names.values())


def test_train_and_test_names_cannot_clash() -> None:
    """MLflow stores a metric in a file of its name, so that no name may be a folder of another."""
    layers = nn.Sequential()
    for name, layer in (("test", nn.Linear(3, 3)), ("cdnv", nn.ReLU()), ("last", nn.Linear(3, 3))):
        layers.add_module(name, layer)
    labels = torch.arange(12) % 3
    batches = [(torch.eye(3)[labels] + 0.1 * torch.randn(12, 3), labels)]
    names = sorted(scalars(profile(layers, batches, batches)))
    assert not [name for name in names for other in names if other.startswith(f"{name}/")]
    assert {"collapse/cdnv/test", "collapse/test/cdnv/test", "collapse/test/within_trace/last"} <= set(names)


# ---------------------------------------------------------------- failures


def test_a_failing_logger_is_reported_once_and_the_others_go_on(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    calls: list[int] = []

    def offline(_: dict[str, float], step: int) -> None:
        calls.append(step)
        raise ConnectionError("no route to host\nretry later")

    table = tmp_path / "scalars.csv"
    log = [offline, table]
    with pytest.warns(
        UserWarning, match=r"log: offline failed at step 0 \(no route to host retry later\)"
    ) as said:
        monitor = Monitor(network(), train_loader, out=tmp_path / "run", every=1, log=log).start()
    for _ in range(3):
        assert monitor.step() is not None  # another warning would be an error
    monitor.finish()
    assert len(said) == 1
    assert monitor.failures == {}
    assert calls == [0, 1, 2, 3]  # it is tried again: a network may come back
    steps = {int(line.split(",")[0]) for line in table.read_text().splitlines()[1:]}
    assert steps == {0, 1, 2, 3}
