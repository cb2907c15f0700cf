"""Claims of footnote 2: dropout as an accelerator, and networks whose variance does not vanish."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from claim_rows import curve, judgement, seeds, verdict

from collapselab.papers.hui2022 import footnote2

FOOTNOTE2 = footnote2.EXPERIMENT
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
    no_run = "Not tested: this folder has no runs in the literal arm with model vgg*."
    assert (judged.verdict, judged.notes[0]) == ("inconclusive", no_run)
    alone = seeds(lambda seed: curve("vgg", model="vgg11_bn", dropout=0.5, train=0.5, seed=seed))
    assert verdict(FOOTNOTE2, DROPOUT, alone) == "inconclusive"


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
