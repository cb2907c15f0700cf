"""Two arms where the paper is silent: what their runs share, and the claim that compares them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from claim_rows import curve, seeds

from collapselab.experiments.claims import judge_claims
from collapselab.experiments.recipes import Job
from collapselab.papers.hui2022.arms import BEFORE_ARMS, DECIDED, LITERAL, PAPYAN, WEIGHT_DECAY
from collapselab.papers.hui2022.transfer_jobs import CONTROL
from collapselab.records.judgement import Judgement
from collapselab.registry import experiments
from collapselab.text import flat

IN_ARMS = [experiment for experiment in experiments().values() if experiment.before]


def values(job: Job) -> dict[str, Any]:
    return dict(flat(job.recipe.model_dump(mode="json")))


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("experiment", IN_ARMS, ids=lambda experiment: experiment.id)
def test_every_run_has_a_twin_that_differs_in_what_the_paper_is_silent_about(
    experiment: Any, scale: str
) -> None:
    jobs = {job.name: job for job in experiment.presets[scale].jobs(3) if job.labels["arm"] != CONTROL}
    literal = [job for job in jobs.values() if job.labels["arm"] == LITERAL]
    assert literal
    assert len(jobs) == 2 * len(literal)
    if (experiment.id, scale) == ("hui2022/fig5", "cpu"):  # checkpoints of each arm are at steps of its own
        literal = [job for job in literal if f"{job.name}-{PAPYAN}" in jobs]
    for job in literal:
        twin = jobs[f"{job.name}-{PAPYAN}"]
        own, other = values(job), values(twin)
        different = {path for path in own if own[path] != other.get(path)}
        if (experiment.id, scale, job.after) == ("hui2022/fig5", "cpu", None):
            different.remove("checkpoints.at")
        expected = {"optimizer.weight_decay"}
        if job.recipe.model.name == "mlp":
            expected |= {"model.options.batch_norm"}
            assert (own["model.options.batch_norm"], other["model.options.batch_norm"]) == (False, True)
        if job.after:
            expected |= {"start.checkpoint"}
            assert twin.after in jobs
            assert f"/{twin.after}/" in other["start.checkpoint"]
        assert different == expected
        assert own["optimizer.weight_decay"] == 0 < other["optimizer.weight_decay"]
        assert twin.labels == {**job.labels, "arm": PAPYAN, "weight_decay": other["optimizer.weight_decay"]}
        if scale == "paper":
            assert other["optimizer.weight_decay"] == WEIGHT_DECAY


@pytest.mark.parametrize("experiment", IN_ARMS, ids=lambda experiment: experiment.id)
def test_every_claim_of_the_paper_is_judged_in_each_arm(experiment: Any) -> None:
    arms = [
        (claim.id.rpartition("-")[0], (claim.only or {}).get("arm"))
        for claim in experiment.claims
        if claim is not DECIDED and (claim.only or {}).get("arm") != CONTROL
    ]
    assert (
        {id for id, _ in arms}
        == {id for id, arm in arms if arm == LITERAL}
        == {id for id, arm in arms if arm == PAPYAN}
    )
    assert len(set(arms)) == len(arms)


def decided(papyan: float, literal: float, **more: Any) -> Judgement:
    def run(seed: int) -> list[dict[str, Any]]:
        with_decay = {"arm": PAPYAN, "weight_decay": 5e-4, "train": papyan}
        return [
            *curve("a", seed=seed, train=literal, **BEFORE_ARMS),
            *curve("a-papyan", seed=seed, **with_decay, **more),
        ]

    (judged,) = judge_claims([DECIDED], seeds(run), "Hui")
    return judged


@pytest.mark.parametrize(
    ("papyan", "literal", "verdict"),
    [
        (0.01, 0.9, "holds"),
        (0.01, 0.02, "fails"),  # both vanish
        (0.5, 0.9, "fails"),  # neither does
        (0.9, 0.01, "fails"),
        (0.08, 0.13, "fails"),  # on the two sides of the threshold, but hardly apart
    ],
)
def test_weight_decay_decides_if_it_alone_makes_variance_vanish(
    papyan: float, literal: float, verdict: str
) -> None:
    assert decided(papyan, literal).verdict == verdict


def test_arms_are_compared_within_a_seed() -> None:
    assert decided(0.01, 0.9, accuracy=0.9).void == dict.fromkeys(
        range(3), "a-papyan: train accuracy 0.9 < 0.999"
    )
    rows = pd.DataFrame([row for seed in range(3) for row in curve("a", seed=seed, **BEFORE_ARMS)])
    (judged,) = judge_claims([DECIDED], rows, "Hui")
    assert judged.verdict == "inconclusive"
    assert {*judged.void.values()} == {"only one value of weight decay"}
