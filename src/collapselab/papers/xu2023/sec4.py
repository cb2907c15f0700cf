"""Sections 4.1, 4.2 and 5: what the metrics of variability collapse are invariant to, as identities on real features."""

from __future__ import annotations

from typing import Any

import pandas as pd

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import Claim
from collapselab.experiments.claims.judges import identity
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, Changes, Job, balanced, digits, job, scales
from collapselab.papers.xu2023 import common
from collapselab.papers.xu2023.measured_identities import CHANGES, identity_rows, measure_identities
from collapselab.papers.xu2023.sec4_charts import invariance, losses, off_weight_space
from collapselab.records.recipe import ModelSpec

_NETWORK = "The paper argues, and has no experiment here; these are its statements on pixels and on the last layer of an MLP"
_DECAY = {"optimizer.weight_decay": 5e-3, "optimizer.learning_rate": 0.05, "batch_size": 128}
# Rounding in float64: covariances of features with a condition number of 1e4 are inverted up to 1e-16 (1e4)^2.
_SAME, _EXACT, _LOSS = 1e-6, 1e-9, 1e-8


def _jobs(seed: int, changes: Changes) -> list[Job]:
    model = ModelSpec(name="mlp", options={"width": 512, "depth": 3})
    data = DataSpec(name="mnist", standardize="channel")
    return [job(common.recipe(model, data, seed, 20_000).with_changes(changes))]


def _worst(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row with the largest value of each column, undefined where one of the values is."""
    return pd.DataFrame([rows.select_dtypes("number").max(skipna=False)])


def _same(case: str, says: str, where: str, columns: dict[str, float], id: str = "") -> Claim:
    """Columns are 0 within a tolerance, in all cases whose name matches, of every kind of features."""
    near = {name: (0.0, within) for name, within in columns.items()}
    more: dict[str, Any] = {"per": ("features",), "runs": "case", "only": {"case": case}, "rows": _worst}
    return identity(id or case.replace(" ", "-"), says, near, where=where, **more)


def _example(id: str, says: str, column: str, before: float, after: float, where: str) -> Claim:
    """A metric has these values before and after the map of the example."""

    def both(rows: pd.DataFrame) -> pd.DataFrame:
        values = dict(zip(rows["case"], rows[column], strict=True))
        named = {f"{column}_before": values.get("example"), f"{column}_after": values.get("mapped example")}
        return pd.DataFrame([named], dtype="float64")

    near = {f"{column}_before": (before, _EXACT), f"{column}_after": (after, _EXACT)}
    return identity(id, says, near, where=where, runs="case", only={"features": "example"}, rows=both)


_ALL = dict.fromkeys(CHANGES, _SAME)
_VCI, _FUZZINESS, _DISTANCE, _COSINE = CHANGES
_OBSERVED = "Observations 4.2 to 4.4"
CLAIMS = (
    _same("off weight space*", "Within-class variance off the row space of the classifier's weight grows without changing the loss.",
          "Proposition 4.1", {"change_of_loss": _EXACT, "error_of_within_trace": _EXACT, "change_of_within_in_weight_space": _SAME},
          id="off-weight-space"),
    _same("scaling", "All four metrics are invariant to scaling all features by one number.", _OBSERVED, _ALL),
    _same("rotation", "All four metrics are invariant to orthogonal maps of the features.", _OBSERVED, _ALL),
    _same("separate maps", "Fuzziness is invariant to invertible maps of the span of the class means and of its complement.",
          "Observation 4.2", {_FUZZINESS: _SAME, _VCI: _SAME}),
    _same("scale of each sample", "Cosine similarity is invariant to a separate scale of each sample.", "Observation 4.4", {_COSINE: _SAME}),
    _same("condition number 1e1", "VCI is invariant to invertible linear maps of the features.", "Corollary 5.4", {_VCI: _SAME},
          id="vci-invertible"),
    _example("fuzziness-example", "Fuzziness is not invariant to all invertible maps.", "fuzziness", 1.0, 5 / 4, "Observation 4.2"),
    _example("squared-distance-example", "Squared distance is not invariant to all invertible maps.", "squared_distance", 2.0, 3 / 2, "Observation 4.3"),
    _example("cosine-similarity-example", "Cosine similarity is not invariant to all invertible maps.", "cosine_similarity", 1 / 12, 1 / 8, "Observation 4.4"),
    _example("vci-example", "VCI stays the same under the map that changes the other three metrics.", "vci", 1 / 2, 1 / 2, "Corollary 5.4"),
    _same("mapped", "The least squares loss of a linear classifier is invariant to invertible maps of the features.", "Observation 4.5",
          {"change_of_loss": _SAME}, id="loss-invertible"),
    _same("spread*", "The least squares loss is 1/2 - 1/(2C) - Tr(Sigma_T^+ Sigma_B)/(2C).", "Theorem 5.1", {"error_of_loss": _LOSS},
          id="loss-by-vci"),
    _same("unequal classes", "The least squares loss is this function of Tr(Sigma_T^+ Sigma_B) also with classes of unequal sizes.", "Theorem 5.1", {"error_of_loss": _LOSS}, id="loss-by-vci-unequal"),
    identity("explained-bound", "Tr(Sigma_T^+ Sigma_B) is at most the rank of Sigma_B.", {}, {"explained_over_rank": 1 + _LOSS},
             where="Theorem 5.2", per=("features",), runs="case", only={"case": "spread*"}, rows=_worst),
    _same("spread 0", "Tr(Sigma_T^+ Sigma_B) is the rank of Sigma_B where features have collapsed.", "Theorem 5.2",
          {"error_of_explained": _LOSS}, id="explained-at-collapse"),
    _same("few samples", "Tr(Sigma_T^+ Sigma_B) is the rank of Sigma_B, without collapse, also where there are more dimensions than samples.",
          "Theorem 5.2; our own addition", {"error_of_explained": _LOSS}, id="explained-few-samples"),
)  # fmt: skip

EXPERIMENT = Experiment(
    id="xu2023/sec4",
    paper=common.PAPER,
    where="Sec. 4.1, 4.2 and 5",
    title="What metrics of variability collapse are invariant to",
    question="Which metrics stay the same when features are transformed, and what has VCI to do with the loss of a linear "
    "classifier?",
    presets=scales(
        _jobs,
        paper=At(f"{_NETWORK} on all of MNIST. {common.LEFT_OPEN}"),
        cpu=At(
            f"{_NETWORK} on 2,500 digits of MNIST, with 256 units in each of three layers. {common.LEFT_OPEN}",
            changes={"data.train": balanced(2500), "data.test": balanced(1000), "model.options.width": 256, "steps": 2000, **_DECAY},
        ),
        smoke=At(
            f"{_NETWORK} on 600 digits of 8 x 8 pixels. {SMOKE}",
            seeds=1,
            changes={"data": digits(600, 200), "model.options.width": 64, "steps": 200, **_DECAY},
        ),
    ),
    rows=identity_rows,
    charts=[invariance, off_weight_space, losses],
    claims=CLAIMS,
    extras={"identities": measure_identities},
    is_whole=True,
)  # fmt: skip
