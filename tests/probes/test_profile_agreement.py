"""Every process plans with its own first batch; what they find must be the same in all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from collapselab import InputError, distributed
from collapselab.probes import profile_run
from collapselab.probes.options import complete_options
from collapselab.probes.profile_run import ProfileRun

INPUTS, LABELS = torch.eye(6), torch.tensor([0, 1, 2, 0, 1, 2])
BATCHES = [(INPUTS, LABELS)]


def run(loader: Any) -> ProfileRun:
    with torch.no_grad():
        return ProfileRun(
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 9)), loader, complete_options({})
        )


def other_process(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """Let another process exist. Its values are this one's, unless `answers` change those of a type."""

    def gathered(own: Any) -> list[Any]:
        return [own, answers[type(own).__name__](own) if type(own).__name__ in answers else own]

    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(distributed, "_gathered", gathered)


def test_processes_with_the_same_plan_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    other_process(monkeypatch)
    run(BATCHES)


def test_plans_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other_process(monkeypatch, str=lambda own: own.replace("'2'", "'3'"))
    with pytest.raises(InputError, match="the first batches of the processes give different layers"):
        run(BATCHES)


def test_labels_unknown_to_another_process_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise only one of them would open a label space, and wait there forever."""
    known = DataLoader(TensorDataset(INPUTS, LABELS), 6)
    assert run(known)._labels.room is None
    other_process(monkeypatch, int=lambda own: max(own, 1))
    assert run(known)._labels.room is not None


def test_the_number_of_labels_is_the_largest_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[int] = []
    real = profile_run.plan_probes

    def planned(*arguments: Any, **named: Any) -> Any:
        hints.append(named["hints"].classes.number)
        return real(*arguments, **named)

    monkeypatch.setattr(profile_run, "plan_probes", planned)
    other_process(monkeypatch, int=lambda own: own if own <= 1 else 8)
    run(BATCHES)
    assert hints == [8]
