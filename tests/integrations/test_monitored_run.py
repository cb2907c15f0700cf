"""Only the first process writes; a failure there has the same outcome in all, or one would wait for the others forever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from collapselab import InputError, distributed, profile
from collapselab.integrations import monitored_run
from collapselab.integrations.monitored_run import MonitoredRun
from collapselab.records.run_record import MonitoredSettings

SETTINGS = MonitoredSettings(monitored="Linear", every=None, at=(), options={}, settings={})
MEASURED = profile(nn.Linear(3, 2), [(torch.eye(3), torch.tensor([0, 1, 1]))])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the first of two processes sends, one after the other; this process is the second."""
    sent: list[Any] = []
    monkeypatch.setattr(distributed, "rank_and_world", lambda: (1, 2))
    monkeypatch.setattr(monitored_run, "rank_and_world", lambda: (1, 2))
    monkeypatch.setattr(distributed, "_gathered", lambda own: [sent.pop(0) if sent else None, own])
    return sent


def test_rows_that_were_not_written_are_missing_in_every_process(answers: list[Any], tmp_path: Path) -> None:
    answers += [None, 0]  # the first process has created version 0
    run = MonitoredRun(tmp_path / "run", SETTINGS, 0)
    assert run.folder.path == tmp_path / "run" / "version_0"
    answers.append((True, "no room"))
    with pytest.raises(InputError, match="process 0: no room"):
        run.append(3, 1.0, MEASURED, spectra=False)
    assert not run.has(3)
    run.append(3, 1.0, MEASURED, spectra=False)
    assert run.has(3)


def test_a_folder_that_cannot_be_created_is_refused_in_every_process(
    answers: list[Any], tmp_path: Path
) -> None:
    answers += [None, 0, (True, "no room")]  # its number is known, and then it is not written
    with pytest.raises(InputError, match="process 0: no room"):
        MonitoredRun(tmp_path / "run", SETTINGS, 0)
