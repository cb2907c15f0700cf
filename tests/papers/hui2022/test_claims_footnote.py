"""Claims of footnote 2: dropout as an accelerator, and networks whose variance does not vanish."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from claim_rows import curve, table, verdict

from collapselab.experiments.claims.claim import judge_all
from collapselab.papers.hui2022 import claims


def dropout(share: float, train: float, **changes: Any) -> list[dict[str, Any]]:
    return curve(f"mlp-{share}", model="mlp", dropout=share, train=train, **changes)


def test_dropout_is_compared_at_the_same_step_of_the_same_seed() -> None:
    both = [*dropout(0.0, 1e-3), *dropout(0.5, 1e-4)]
    lacks = table(both, dropout(0.0, 1e-3, seed=1))
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", lacks) == "inconclusive"
    # Without dropout the run goes on, and gets lower in the end.
    longer = table(dropout(0.0, 1e-6, rests=False), dropout(0.5, 1e-4))
    rows = pd.DataFrame(longer[(longer["dropout"] == 0) | (longer["step"] <= 100)])
    judged = judge_all(claims.FOOTNOTE2, rows)[1]
    assert judged["verdict"] == "holds"
    assert judged["evidence"]["cifar10, mlp"]["at step"] == {"seed 0": 100}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_dropout_is_judged_at_zero_train_error_only(share: float) -> None:
    errs = {share: 0.99}
    rows = table(
        *(dropout(one, train, accuracy=errs.get(one, 1.0)) for one, train in ((0.0, 1e-3), (0.5, 1e-4)))
    )
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", rows) == "inconclusive"


def test_footnote_2() -> None:
    mlp = [
        curve(f"mlp-{share}", model="mlp", dataset="mnist", dropout=share, train=train)
        for share, train in ((0.0, 1e-3), (0.5, 1e-4))
    ]
    vgg = curve("vgg", model="vgg11_bn", dropout=0.5, train=0.05)
    rows = table(*mlp, vgg)
    assert verdict(claims.FOOTNOTE2, "vgg-does-not-vanish", rows) == "holds"
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", rows) == "holds"
    slower = [
        curve(f"mlp-{share}", model="mlp", dropout=share, train=train)
        for share, train in ((0.0, 1e-4), (0.5, 1e-3))
    ]
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", table(*slower)) == "fails"
    assert verdict(claims.FOOTNOTE2, "vgg-does-not-vanish", table(*slower)) == "inconclusive"
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", table(vgg)) == "inconclusive"
