"""VCI at finite n: what the finding measures against what is known exactly, and claims that can fail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from collapselab.experiments.claims import judge_claims
from collapselab.findings.vci_agreement import agreement, predicted_biases, reordered
from collapselab.findings.vci_draws import DRAWS, SIZES, Sampled, draw_sizes, gaussian, network_rows, ranks
from collapselab.findings.vci_finite_samples import CLAIMS, EXPERIMENT

WIDTHS = np.repeat([16, 32, 128], 4)
TRUE = 0.5 + np.arange(12) / 500  # raw VCI puts wider networks first


def made(
    bias: float = 0.0,
    noise: float = 2e-4,
    null: float = 1.0,
    train: float = 0.4,
    covariances: float = 0.08,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of 12 networks; raw VCI is lower by width / (n - 1), adjusted VCI by the relative bias."""
    generator, rows = np.random.default_rng(seed), []
    for place, (width, true) in enumerate(zip(WIDTHS, TRUE, strict=True)):
        labels = {"job": f"{place:02d}", "dataset": "digits", "width": width, "seed": seed, "ended": "steps"}

        def add(
            kind: str, n: int, draw: int, value: float, labels: dict = labels, width: int = width
        ) -> None:
            effective = {"rank": width, "effective_rank": width - bias * (1000 - width)}
            raw = value * (1 - width / (n - 1))
            rows.append(
                labels | effective | {"kind": kind, "n": n, "draw": draw, "vci": raw, "vci_adjusted": value}
            )

        whole = 1_000_000
        for kind, size in (("test", 0.0), ("equal", 0.0), ("unequal", -covariances)):
            add(kind, whole, -1, true)
            for n in SIZES if kind == "test" else SIZES[:2]:
                for draw in range(DRAWS):
                    left = bias * 1000 / n if kind == "test" else size
                    add(kind, n, draw, true * (1 + left + noise * generator.standard_normal()))
        add("train", 2000, -1, true * train)
        for n in SIZES[:2]:
            add("permuted", n, 0, null)
    return pd.DataFrame(rows)


def judged(rows: Sequence[pd.DataFrame], *ids: str) -> dict[str, str]:
    claims = [claim for claim in CLAIMS if not ids or claim.id in ids]
    return {one.id: one.verdict for one in judge_claims(claims, pd.concat(rows), "ours")}


def test_every_claim_can_hold() -> None:
    explored = {"ranks-better-than-exactly-known", "not-only-covariances"}
    found = judged([made(seed=seed) for seed in range(3)])
    assert {id for id, verdict in found.items() if verdict != "holds"} <= explored


@pytest.mark.parametrize(
    ("how", "id", "verdict"),
    [
        ({"null": 1.05}, "null", "fails"),
        ({"noise": 0.9}, "adjusted-is-closer", "fails"),
        ({"bias": -0.2}, "small-bias", "fails"),
        ({"noise": 0.9}, "ranks-well", "fails"),
        ({"train": 1.0}, "train-features", "fails"),
        ({"covariances": 0.01}, "unequal-covariances", "fails"),
        ({"covariances": 0.01, "bias": -0.1}, "not-only-covariances", "holds"),
    ],
    ids=str,
)
def test_claims_can_fail(how: dict[str, float], id: str, verdict: str) -> None:
    assert judged([made(**how, seed=seed) for seed in range(3)], id) == {id: verdict}


def test_rankings_that_the_adjustment_makes_worse_are_found() -> None:
    """Raw VCI of these rows is the true value, and the adjusted one depends on the width."""
    swapped = [
        rows.assign(vci=rows["vci_adjusted"], vci_adjusted=rows["vci"]).assign(
            vci_adjusted=lambda one: one["vci_adjusted"].where(one["draw"] >= 0, one["vci"])
        )
        for rows in (made(seed=seed) for seed in range(3))
    ]
    names = "ranks-better", "ranks-better-at-different-n", "same-width"
    assert judged(swapped, *names) == {names[0]: "fails", names[1]: "fails", names[2]: "holds"}


def test_a_bias_that_leverages_do_not_predict_is_found() -> None:
    rows = [made(bias=-0.1, seed=seed).assign(effective_rank=lambda one: one["rank"]) for seed in range(3)]
    assert judged(rows, "leverage-predicts-bias") == {"leverage-predicts-bias": "fails"}


def test_agreement_is_the_share_of_pairs_in_order_minus_the_rest() -> None:
    assert agreement(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 1
    assert agreement(np.array([1.0, 3, 2]), np.array([1.0, 2, 3])) == pytest.approx(1 / 3)
    assert np.isnan(agreement(np.array([1.0, np.nan]), np.array([1.0, 2])))


def test_pairs_of_another_order_are_counted_among_equal_widths_only() -> None:
    rows = made(noise=1e-6)
    assert set(reordered(rows).values()) == {0.0}
    swapped = rows["job"].isin(["00", "01"]) & (rows["draw"] >= 0)
    rows.loc[swapped, "vci_adjusted"] = 1 - rows.loc[swapped, "vci_adjusted"]
    assert reordered(rows)[600] == pytest.approx(1 / 18)  # of three widths with six pairs each


def outliers(n: int, seed: int, share: float) -> Sampled:
    """Two classes apart along one of 10 axes, and a share of outliers of four times the size that belong to either class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    features = torch.randn(n, 10, generator=generator, dtype=torch.float64)
    features[:, 0] += 3 * (2.0 * labels - 1)
    far = torch.rand(n, generator=generator) < share
    features[far] = 4 * torch.randn(int(far.sum()), 10, generator=generator, dtype=torch.float64)
    return Sampled(features, labels)


def effective_rank(of: Sampled) -> float:
    found = ranks(of)
    assert found["rank"] == 10
    return float(found["effective_rank"] or 0)


def test_the_effective_rank_is_the_rank_unless_outliers_have_large_residuals() -> None:
    # Residuals of two Gaussian classes hardly depend on leverage; standard error of the mean of 20,000 samples: 1 %.
    assert effective_rank(outliers(20_000, 0, 0.0)) == pytest.approx(10, rel=0.05)
    assert effective_rank(outliers(20_000, 0, 0.1)) > 30


def test_the_effective_rank_predicts_the_bias_of_few_samples() -> None:
    """-(effective rank - rank) / (n - rank): up to terms of the next order, a fifth of it here, and four standard errors."""
    population, n = outliers(100_000, 0, 0.1), 200
    true, predicted = float(population.vci()["vci"] or 0), -(effective_rank(population) - 10) / (n - 10)
    drawn = [float(outliers(n, seed, 0.1).vci()["vci_adjusted"] or 0) / true - 1 for seed in range(1, 151)]
    tolerance = 4 * np.std(drawn) / np.sqrt(len(drawn)) + abs(predicted) / 5
    assert tolerance < 0.7 * abs(predicted), "else no bias at all would pass"
    assert abs(np.mean(drawn) - predicted) < tolerance


def test_the_predicted_bias_is_none_where_both_ranks_agree() -> None:
    rows = made().assign(effective_rank=lambda one: one["rank"])
    for n, biases in predicted_biases(rows, "unequal").items():
        # (1 - a/n) / (1 - a/(n - 1)) is 1 up to a/n^2.
        np.testing.assert_allclose(biases, 0, atol=2 * 128 / n**2)


@pytest.mark.parametrize("pooled", [True, False])
def test_gaussian_features_have_the_means_and_covariances_that_are_asked_for(pooled: bool) -> None:
    labels = torch.arange(40_000) % 2
    like = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0)) * (1 + labels[:, None])
    like[:, 0] += 5 * labels
    drawn = gaussian(Sampled(like, labels), seed=0, pooled=pooled)
    for label, own in ((0, 1.0), (1, 4.0)):
        part = drawn.features[labels == label]
        torch.testing.assert_close(part.mean(dim=0)[0].item(), 5.0 * label, atol=0.1, rtol=0)
        expected = (2.5 if pooled else own) * torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close(torch.cov(part.T), expected, atol=0.15, rtol=0)


def test_rows_of_one_network() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(700) % 10
    test = Sampled(torch.randn(700, 12, generator=generator), labels)
    rows = pd.DataFrame(network_rows(test, test, seed=0))
    sizes = draw_sizes(700)
    assert sizes == (60, 100, 200, 500)
    assert rows.groupby("kind").size().to_dict() == {
        "train": 1, "test": 1 + 4 * DRAWS, "permuted": 2 * DRAWS, "equal": 1 + 2 * DRAWS, "unequal": 1 + 2 * DRAWS,
    }  # fmt: skip
    # Labels say nothing here: within four standard errors (0.05 for a draw of 60) of 1.
    assert rows["vci_adjusted"].mean() == pytest.approx(1, abs=0.03)
    again = pd.DataFrame(network_rows(test, test, seed=0))
    pd.testing.assert_frame_equal(rows, again)


def test_networks_differ_in_width_and_data() -> None:
    jobs = EXPERIMENT.presets["cpu"].jobs(3)
    assert len({job.name for job in jobs}) == len(jobs) == 40
    assert {(job.labels["dataset"], job.labels["width"]) for job in jobs} == {
        (data, width) for data in ("cifar10", "mnist") for width in (32, 64, 128, 256, 512)
    }
