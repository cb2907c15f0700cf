"""Where a monitor logs to, and what it refuses."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
from monitored_network import network
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from collapselab import InputError
from collapselab.integrations import Monitor
from collapselab.integrations.destinations import MAIN_METRICS
from collapselab.metrics.registry import CHEAP_METRICS, METRICS, names_of
from collapselab.records.versions import newest_run
from collapselab.training import RunFolder

TEST_ONLY = {metric.name for metric in METRICS if "train" not in metric.splits}


class Run:
    """As a W&B run, and as a logger of Lightning under another name."""

    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged[step] = data


class Logger(Run):
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.log(metrics, step)


def test_every_destination_gets_the_same_scalars(
    train_loader: DataLoader[Any], test_loader: DataLoader[Any], tmp_path: Path
) -> None:
    called: dict[int, dict[str, float]] = {}
    run, logger, table = Run(), Logger(), tmp_path / "deep" / "scalars.csv"
    writer = SummaryWriter(tmp_path / "board")
    log = [lambda metrics, step: called.update({step: metrics}), run, logger, writer, table, None]
    with Monitor(network(), train_loader, test_loader, out=tmp_path / "run", log=log) as monitor:
        monitor.step()
    writer.close()
    assert called == run.logged == logger.logged
    assert set(called) == {0, 1}
    # Six of the last layer, on each split.
    assert called[1].keys() == {
        f"collapse/{split}{metric}/4" for split in ("", "test/") for metric in MAIN_METRICS
    }
    row = next(
        row
        for row in RunFolder(newest_run(tmp_path / "run")).read_rows()
        if (row.step, row.layer) == (1, "4")
    )
    assert called[1]["collapse/normalized_within/4"] == row.metrics["normalized_within"]
    with table.open() as file:
        lines = list(csv.DictReader(file))
    assert {line["name"]: float(line["value"]) for line in lines if line["step"] == "1"} == called[1]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert set(events.Tags()["scalars"]) == called[0].keys() | called[1].keys()
    point = events.Scalars("collapse/test/cdnv/4")[-1]
    assert (point.step, point.value) == (1, pytest.approx(called[1]["collapse/test/cdnv/4"]))


def test_what_is_measured_by_default_and_what_logging_adds(
    train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    cheap, last, both = set(CHEAP_METRICS) - TEST_ONLY, {"4"}, {"0", "4"}
    everything = set(names_of("train"))
    choices: list[tuple[dict[str, Any], set[str], set[str]]] = [
        ({}, cheap, last),
        ({"log_metrics": iter(["vci", "cdnv"])}, cheap | {"vci"}, last),
        ({"log_layers": "all"}, cheap, both),
        ({"log_layers": ["0"]}, cheap, both),
        ({"layers": None, "metrics": None}, everything, both),
        ({"layers": "0", "metrics": ["cdnv"], "log_layers": "all"}, {"cdnv"}, {"0"}),
    ]
    for number, (choice, metrics, layers) in enumerate(choices):
        with Monitor(network(), train_loader, out=tmp_path / str(number), **choice) as monitor:
            pass
        assert monitor.profile is not None
        assert {layer.name for layer in monitor.profile.layers} == layers
        assert all(set(layer.train) == metrics for layer in monitor.profile.layers)
        rows = RunFolder(monitor.folder).read_rows()
        assert {row.layer for row in rows} == layers
        assert all(set(row.metrics) - {"loss", "accuracy"} == metrics for row in rows)


def test_log_metrics_and_log_layers_choose(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    choices: list[tuple[dict[str, Any], set[str]]] = [
        ({"log_metrics": ["cdnv"], "log_layers": "last"}, {"collapse/cdnv/4"}),
        ({"metrics": iter(["cdnv", "vci"]), "log_layers": ["0"]}, {"collapse/cdnv/0", "collapse/vci/0"}),
    ]
    for number, (choice, names) in enumerate(choices):
        logged: dict[str, float] = {}
        out = tmp_path / str(number)
        with Monitor(
            network(), train_loader, out=out, log=lambda values, _, to=logged: to.update(values), **choice
        ):
            pass
        assert logged.keys() == names


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"log": object()}, "cannot write to a object"),
        ({"log": logging.getLogger()}, "cannot write to a RootLogger"),
        ({"log": "scalars.txt"}, "does not end in .csv"),
        ({"every": 2, "at": [3]}, "give one of them"),
        ({"every": 0}, "from 1 on"),
        ({"at": [-1]}, "negative"),
        ({"log_spaced": (10, 1)}, "from 2 on"),
        ({"log_metrics": ["cdvn"]}, "did you mean 'cdnv'"),
        ({"layer": "0"}, "unknown option 'layer'; did you mean 'layers'"),
        ({"settings": {"model": nn.ReLU()}}, "settings: .*not JSON serializable"),
    ],
)
def test_mistakes_are_said_at_once(
    wrong: dict[str, Any], message: str, train_loader: DataLoader[Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Monitor(network(), train_loader, out=tmp_path / "run", **wrong)
    assert "\n" not in str(caught.value)


def test_loaders_that_cannot_serve_are_refused(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="test_loader is an iterator"):
        Monitor(network(), train_loader, iter(train_loader), out=tmp_path / "run")

    class Endless:
        def __iter__(self) -> Any:
            return iter(train_loader)

    with pytest.raises(InputError, match="give steps_per_epoch="):
        Monitor(network(), Endless(), out=tmp_path / "run")
    with Monitor(network(), Endless(), out=tmp_path / "run", steps_per_epoch=4) as monitor:
        monitor.step()
        assert monitor.epoch == 0.25
        monitor.step(epoch=3)
        assert monitor.epoch == 3.0


def test_a_csv_file_of_someone_else_is_refused(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="other columns"):
        Monitor(network(), train_loader, out=tmp_path / "run", log=tmp_path / "mine.csv").start()
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"


def test_a_csv_file_follows_the_versions_of_the_run(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    """Each start has a file of its own; what continues or replaces the newest version does so with the newest file."""
    out = tmp_path / "run"

    def start(steps: int, first_step: int = 0, *, every: int = 1, overwrite: bool = False) -> None:
        with Monitor(
            network(), train_loader, out=out, every=every, log=out / "scalars.csv", log_metrics=["cdnv"],
            first_step=first_step, overwrite=overwrite,
        ) as monitor:  # fmt: skip
            for _ in range(steps):
                monitor.step()

    def steps() -> dict[str, list[int]]:
        """Return the steps in each file, by what follows `scalars` in its name."""
        found = {}
        for path in sorted(out.glob("*.csv")):
            with path.open() as file:
                found[path.stem.removeprefix("scalars")] = [
                    int(line["step"]) for line in csv.DictReader(file)
                ]
        return found

    start(3)
    first = {"": [0, 1, 2, 3]}
    assert steps() == first
    start(2)
    assert steps() == first | {"_version_1": [0, 1, 2]}
    start(2, first_step=1)
    assert steps() == first | {"_version_1": [0, 1, 2, 3]}
    start(1, overwrite=True)
    assert steps() == first | {"_version_1": [0, 1]}
    with pytest.warns(UserWarning, match="in a new version beside it"):
        start(2, first_step=1, every=2)
    assert steps() == first | {"_version_1": [0, 1], "_version_2": [1, 2, 3]}
    (out / "scalars_version_1.csv").unlink()
    start(0)
    assert steps() == first | {"_version_2": [1, 2, 3], "_version_3": [0]}


def test_outside_of_with_it_does_not_measure(train_loader: DataLoader[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with Monitor"):
        Monitor(network(), train_loader, out=tmp_path / "run").measure()
