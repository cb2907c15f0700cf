"""Long work is announced once, from the pace of its first second."""

from __future__ import annotations

import logging

import pytest

from collapselab.passes import estimate as module
from collapselab.passes.estimate import Estimate


@pytest.fixture(autouse=True)
def _long_is_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG_SECONDS", 10.0)  # tests of other modules announce nothing


class Paced:
    """An estimate whose clock advances with the samples."""

    def __init__(self, seconds_per_sample: float) -> None:
        self.now, self.lines, self.reports = 0.0, list[str](), list[tuple[str, int, int]]()
        self._pace = seconds_per_sample
        self.estimate = Estimate(
            lambda *report: self.reports.append(report),
            self.lines.append,
            "less is shorter",
            lambda: self.now,
        )

    def read(self, what: str, total: int, batch: int = 10) -> None:
        for done in range(batch, total + 1, batch):
            self.now += self._pace * batch
            self.estimate(what, done, total)


def test_long_work_is_announced_once_for_each_piece_and_short_work_never() -> None:
    long = Paced(0.1)
    long.read("train: class statistics", 1810)
    long.read("test: class statistics", 1810)
    # 1800 samples after the first batch, at 10 samples a second
    assert long.lines == [
        f"{split}: class statistics: about 3 min; less is shorter" for split in ("train", "test")
    ]
    assert len(long.reports) == 362
    short = Paced(0.1)
    short.read("train: class statistics", 100)
    assert short.lines == []
    quick = Paced(0.001)
    quick.read("train: class statistics", 9000)
    assert quick.lines == []


def test_work_of_unknown_length_is_not_announced() -> None:
    paced = Paced(0.1)
    for done in range(10, 5000, 10):
        paced.now += 1
        paced.estimate("train: class statistics", done, 0)
    assert paced.lines == []


def test_without_a_listener_the_logger_of_the_package_warns(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    estimate = Estimate(clock=lambda: now)
    with caplog.at_level(logging.WARNING, "collapselab"):
        for done in (1, 2, 3):
            now += 2
            estimate("train: metrics", done, 100)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["train: metrics: about 3 min"]
