"""Figure 6: claims about accuracy on rows that show them and on rows that do not, and the runs of every L."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from collapselab.experiments.claims import judge_claims
from collapselab.papers.rangamani2023.fixed_etf import EXPERIMENT
from collapselab.papers.rangamani2023.fixed_rows import ETF, FREE, IDENTITY, ORTHOGONAL

DEPTH, FIRST = 10, 7
AccuracyOf = Callable[[str, int], float]


def as_the_paper_says(kind: str, trained: int) -> float:
    """ETFs cost nothing from the first collapsed layer on, and a point per layer before it; the controls cost nothing."""
    return 0.98 - 0.01 * max(FIRST - trained, 0) * (kind == ETF)


def rows_of(accuracy: AccuracyOf, first: float = FIRST) -> pd.DataFrame:
    rows = [
        {
            "job": f"{kind}-{trained}",
            "fixed": kind,
            "trained": trained,
            "seed": seed,
            "test_accuracy": accuracy(kind, trained) + 1e-3 * seed,
        }
        for seed in range(3)
        for kind, trained in [
            (FREE, DEPTH + 1),
            *((kind, at) for kind in (ETF, IDENTITY, ORTHOGONAL) for at in range(1, DEPTH + 1)),
        ]
    ]
    return pd.DataFrame(rows).assign(
        dataset="mnist", model="mlp", ended="steps", train_accuracy=1.0, first_collapsed=first
    )


def verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {one.id: one.verdict for one in judge_claims(EXPERIMENT.claims, rows, "a paper")}


def test_all_claims_hold_if_only_etfs_in_uncollapsed_layers_cost_accuracy() -> None:
    assert set(verdicts(rows_of(as_the_paper_says)).values()) == {"holds"}


@pytest.mark.parametrize(
    ("accuracy", "failing"),
    [
        (lambda kind, trained: 0.98 - 0.01 * (kind == ETF), {"etf-as-good", "etf-as-good-as-identity", "etf-as-good-as-orthogonal"}),
        (lambda kind, trained: 0.98, {"etf-worse", "etf-worse-than-identity", "etf-worse-than-orthogonal"}),
        # The network is merely shallower: identity matrices cost as much.
        (lambda kind, trained: as_the_paper_says(ETF, trained), {"etf-worse-than-identity", "etf-worse-than-orthogonal"}),
        (lambda kind, trained: as_the_paper_says(ETF if kind == IDENTITY else kind, trained), {"etf-worse-than-identity"}),
    ],
)  # fmt: skip
def test_each_claim_can_fail(accuracy: AccuracyOf, failing: set[str]) -> None:
    assert {id for id, verdict in verdicts(rows_of(accuracy)).items() if verdict == "fails"} == failing


@pytest.mark.parametrize(("first", "asked"), [(float("nan"), set()), (1, {"etf-as-good"})])
def test_nothing_is_asked_where_there_are_no_such_layers(first: float, asked: set[str]) -> None:
    """Without collapsed layers no claim is asked; if all but the first are, none about uncollapsed layers."""
    found = verdicts(rows_of(as_the_paper_says, first))
    assert {
        id
        for id, verdict in found.items()
        if verdict != "inconclusive" and not id.endswith(("identity", "orthogonal"))
    } - asked == set()


def test_the_chart_marks_the_first_collapsed_layer_and_ends_at_the_free_network() -> None:
    (chart,) = (chart for make in EXPERIMENT.charts for chart in make(rows_of(as_the_paper_says)))
    (panel,) = chart.panels
    assert [(mark.at, mark.label) for mark in panel.marks] == [
        (FIRST, "layers before the first collapsed one")
    ]
    assert [series.name for series in panel.series] == ["simplex ETFs", "identity", "random orthogonal"]
    for series in panel.series:
        assert sorted(set(series.points["x"])) == list(range(1, DEPTH + 2))


def test_every_number_of_trained_layers_is_run_with_every_kind_at_equal_recipes() -> None:
    jobs = EXPERIMENT.presets["paper"].jobs(0)
    mnist = [job for job in jobs if job.labels["dataset"] == "mnist"]
    assert {(job.labels["fixed"], job.labels["trained"]) for job in mnist} == {
        (FREE, 11), *((kind, trained) for kind in (ETF, IDENTITY, ORTHOGONAL) for trained in range(1, 11))
    }  # fmt: skip
    ignored = {"model.options": {}, "checkpoints.at": ()}
    assert len({job.recipe.with_changes(ignored).to_yaml() for job in mnist}) == 1
    assert (mnist[0].recipe.steps, mnist[0].recipe.loss) == (164_150, "mse")
