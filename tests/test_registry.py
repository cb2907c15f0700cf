"""Ids of experiments are known before any is imported."""

from __future__ import annotations

import pytest

from collapselab import InputError
from collapselab.registry import IDS, experiments, find_experiment


@pytest.mark.parametrize("id", IDS)
def test_every_id_is_that_of_its_module(id: str) -> None:
    assert find_experiment(id).id == id
    for other in IDS[id]:
        assert find_experiment(other) is find_experiment(id)
        assert other.partition("/")[0] == id.partition("/")[0]


def test_no_id_means_two_experiments() -> None:
    names = [name for id, others in IDS.items() for name in (id, *others)]
    assert len(set(names)) == len(names)
    assert list(experiments()) == list(IDS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hui2022/fig33", "unknown experiment 'hui2022/fig33'; did you mean 'hui2022/fig3'"),
        ("zzz", "unknown experiment 'zzz'; see collapselab reproduce list"),
        ("", "unknown experiment ''; see collapselab reproduce list"),
    ],
)
def test_unknown_ids(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_experiment(name)
