"""Generate the table of scores of the documentation from the registry.

python -m collapselab.transfer.scores.catalogue docs/scores.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from collapselab.transfer.scores.registry import SCORES, Score

_HEAD = """# Scores of transferability

Generated from the registry by `make docs`; do not edit by hand. [Transfer](transfer.md) says how to use them.

A score predicts how well features transfer, from n features h_i in R^p of the **target** data and their labels y_i (C
classes), without training. F is the n x p matrix of features; Σ_W, Σ_B, Σ_T and the other letters are those of the
[metric catalogue](metrics.md). "Larger predicts better transfer" is the claim of the source, or for metrics of neural
collapse that of Wang et al. 2023: target features that are more collapsed transfer better. On the data of pretraining
the claim is the opposite: there, a *larger* VCI predicts better transfer (Xu, Liu 2023).

`ncti` is the only score that compares models: the sum of `ncti_seli` and `ncti_ncc` minus `ncti_vc`, each scaled to
[0, 1] over the models.
"""


def catalogue() -> str:
    """Return the whole table as Markdown."""
    return "\n".join([_HEAD, *(_entry(score) for score in SCORES)])


def _entry(score: Score) -> str:
    prediction = (
        "predicts nothing by itself"
        if score.direction == "neither"
        else f"{score.direction} predicts better transfer"
    )
    lines = [
        f"## `{score.name}`",
        "",
        f"    {score.formula}",
        "",
        f"- Source: {score.source}",
        f"- Direction: {prediction}",
        f"- Cost: {score.cost}",
        f"- Needs: labels and {score.needs}",
    ]
    if score.note:
        lines.append(f"- {score.note}")
    return "\n".join(lines) + "\n"


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(catalogue(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
