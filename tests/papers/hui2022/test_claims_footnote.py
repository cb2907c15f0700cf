"""Claims of footnote 2: dropout as an accelerator, and networks whose variance does not vanish."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from claim_rows import FACTORS, curve, judgement, seeds, verdict

from collapselab.papers.hui2022 import footnote2

FOOTNOTE2 = footnote2.EXPERIMENT
SOONER, LOSS_SOONER = "train-variance-sooner-with-dropout", "train-loss-sooner-with-dropout"
VGG, DROPOUT = "train-variance-stays", "train-variance-lower-with-dropout"


def rows(
    without: float = 1e-3, with_dropout: float = 1e-4, vgg: float | None = None, **changes: Any
) -> pd.DataFrame:
    def one(seed: int) -> list[dict[str, Any]]:
        mlp = {"model": "mlp", "dataset": "mnist", "seed": seed}
        out = curve("mlp-0", dropout=0.0, train=without, **mlp)
        out += curve("mlp-0.5", dropout=0.5, train=with_dropout, **mlp | changes)
        return out + (curve("vgg", model="vgg11_bn", dropout=0.5, train=vgg, seed=seed) if vgg else [])

    return seeds(one)


def test_footnote_2() -> None:
    both = rows(vgg=0.5)
    assert verdict(FOOTNOTE2, VGG, both) == "holds"
    assert verdict(FOOTNOTE2, DROPOUT, both) == "holds"
    assert verdict(FOOTNOTE2, VGG, rows(vgg=0.05)) == "fails"
    assert verdict(FOOTNOTE2, DROPOUT, rows(1e-4, 1e-3)) == "fails"
    assert verdict(FOOTNOTE2, DROPOUT, rows(1e-4, 1e-4)) == "inconclusive"


def test_experiments_without_a_vgg_or_without_an_mlp() -> None:
    judged = judgement(FOOTNOTE2, VGG, rows())
    no_run = "this folder has no runs in the literal arm with model vgg* and dropout 0.5."
    assert (judged.verdict, judged.notes[0]) == ("inconclusive", no_run)
    alone = seeds(lambda seed: curve("vgg", model="vgg11_bn", dropout=0.5, train=0.5, seed=seed))
    for id in (DROPOUT, SOONER):
        judged = judgement(FOOTNOTE2, id, alone)
        assert (judged.verdict, judged.is_asked) == ("inconclusive", False)
        assert {*judged.void.values()} == {"only one value of dropout"}


def test_the_claim_about_vgg_is_about_networks_with_dropout() -> None:
    both = pd.concat(
        [rows(vgg=0.5), seeds(lambda seed: curve("b", model="vgg11_bn", dropout=0.0, train=0.01, seed=seed))]
    )
    assert verdict(FOOTNOTE2, VGG, both) == "holds"
    # With and without dropout, VGG is compared as well.
    judged = judgement(FOOTNOTE2, DROPOUT, both)
    assert (judged.verdict, judged.agreement) == ("fails", "1 of 2 settings")
    assert judgement(FOOTNOTE2, DROPOUT, rows(vgg=0.5)).agreement == "1 of 1 setting"


def test_dropout_is_compared_within_a_seed() -> None:
    lacks = pd.DataFrame(
        [row for row in rows().to_dict("records") if (row["seed"], row["job"]) != (1, "mlp-0.5")]
    )
    judged = judgement(FOOTNOTE2, DROPOUT, lacks)
    assert (judged.verdict, judged.void) == ("inconclusive", {1: "missing runs: mlp-0.5"})


def test_dropout_is_compared_at_the_same_step() -> None:
    """Without dropout the run goes on, and gets lower in the end."""
    longer = rows(1e-6, 1e-4)
    longer.loc[(longer["dropout"] == 0) & (longer["step"] <= 100), "train_variance"] = 0.9
    shorter = pd.DataFrame(longer[(longer["dropout"] == 0) | (longer["step"] <= 100)])
    judged = judgement(FOOTNOTE2, DROPOUT, shorter)
    assert judged.verdict == "holds"
    assert judged.readings[0].what == "train variance with dropout 0 at step 100"


@pytest.mark.parametrize("job", ["mlp-0", "mlp-0.5"])
def test_dropout_is_judged_at_zero_train_error_only(job: str) -> None:
    errs = rows()
    errs.loc[errs["job"] == job, "train_accuracy"] = 0.99
    assert judgement(FOOTNOTE2, DROPOUT, errs).void == dict.fromkeys(
        range(3), f"{job}: train accuracy 0.99 < 0.999"
    )


def power_laws(without: float, with_dropout: float, metric: str = "train_variance") -> pd.DataFrame:
    """Curves that fall as a power of the step, each slower than it ends: the level is twice the end of the slower."""

    def one(seed: int) -> list[dict[str, Any]]:
        out = []
        for share, exponent in ((0.0, without), (0.5, with_dropout)):
            made = curve(f"mlp-{share:g}", model="mlp", dataset="mnist", dropout=share, seed=seed)
            out += [row | {metric: max(row["step"], 0.5) ** -(exponent * FACTORS[seed])} for row in made]
        return out

    return seeds(one)


@pytest.mark.parametrize(("id", "metric"), [(SOONER, "train_variance"), (LOSS_SOONER, "train_loss")])
def test_speed_is_the_step_at_which_both_are_at_one_level(id: str, metric: str) -> None:
    judged = judgement(FOOTNOTE2, id, power_laws(0.5, 1.0, metric))
    assert judged.verdict == "holds"
    what = f"step at which {metric.replace('_', ' ')} is 2 times the higher of both ends, with dropout"
    without, sooner, ratio = judged.readings
    assert [one.what for one in judged.readings] == [f"{what} 0", f"{what} 0.5", f"{what} 0 over 0.5"]
    # Seed 1: the end without dropout is 10,000 ** -0.5; twice that is at 10,000 / 4 without, at 10,000 ** 0.5 / 2 with dropout.
    assert (without.by_seed[1], sooner.by_seed[1]) == pytest.approx((2500, 50))
    assert ratio.by_seed[1] == pytest.approx(50)
    assert verdict(FOOTNOTE2, id, power_laws(1.0, 0.5, metric)) == "fails"
    assert verdict(FOOTNOTE2, id, power_laws(0.5, 0.5, metric)) == "inconclusive"


def test_speed_at_other_levels_is_in_the_sensitivity_list() -> None:
    judged = judgement(FOOTNOTE2, SOONER, power_laws(0.5, 1.0))
    assert [one.threshold for one in judged.sensitivity] == [1.25, 4.0]
    assert all(one.verdict == "holds" for one in judged.sensitivity)
    assert "is 1.25 times the higher of both ends" in judged.sensitivity[0].what


def test_speed_that_was_not_measured() -> None:
    judged = judgement(FOOTNOTE2, LOSS_SOONER, rows())
    assert (judged.verdict, len(judged.void)) == ("inconclusive", 3)
