"""Accuracy of pre-trained checkpoints after transfer: linear probes, and the rows of figure 5."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from collapselab.data import DataSplits
from collapselab.experiments.claims.claim import Void
from collapselab.experiments.grid import Grid, GridRun
from collapselab.frames import rows_that, rows_where
from collapselab.inference import paired_difference_interval
from collapselab.papers.hui2022.common import is_right, probe_is_right
from collapselab.papers.hui2022.transfer_jobs import CONTROL
from collapselab.records.experiment import ExtraRow, Label
from collapselab.records.recipe import StartFrom
from collapselab.report.builders import ACCURACY_AXES, VARIANCES, Lines, Quantity, by_column
from collapselab.report.chart import TEST, Axis, Look

_VARIANCES = ("train_variance", "train_variance_final")
_PLACE = ("kind", "dataset", "model", "arm", "weight_decay", "seed", "pretrain_step")
_Right = Bool[Tensor, " n"]
_LOW = "lower_end_of_the_interval_over_test_samples_of_the"
_OF_CHECKPOINT = ("dataset", "model", "arm", "weight_decay", "pretrain_step")
_COLUMNS = (*_PLACE, *_VARIANCES, "learning_rate", "accuracy", "num_test", "lost", "gained")


def compare_checkpoints(runs: Grid, seed: int) -> list[ExtraRow]:
    """Compare networks on the same test samples, sample by sample.

    Returns:
        For every checkpoint two rows, with the numbers of test samples that only the other network (`lost`) and only this
        one (`gained`) classifies correctly. `linear_probe`: a probe of the checkpoint, trained on the samples of
        fine-tuning, and the network fine-tuned from it at the best rate. `against_first`: that network, and the one fine-tuned
        from the first checkpoint of the arm. Of checkpoints whose fine-tuning always diverged there is no second row.
    """
    sweeps: dict[StartFrom, list[GridRun]] = {}
    for run in runs.of(seed).values():
        if run.job.recipe.start:
            sweeps.setdefault(run.job.recipe.start, []).append(run)
    first: dict[Label, _Right] = {}
    rows: list[ExtraRow] = []
    for sweep in sweeps.values():
        job = sweep[0].job
        place: ExtraRow = {name: job.labels[name] for name in _OF_CHECKPOINT}
        samples = runs.samples.of(job.recipe)
        # Features of the pre-trained network; its two outputs are not used.
        before = runs.of(seed)[str(job.after)].model(int(job.labels["pretrain_step"]))
        probed, tuned = probe_is_right(before, samples, seed), _tuned_is_right(sweep, samples)
        rows.append({"kind": "linear_probe", **place, **_compared(probed, tuned)})
        if tuned is not None:
            reference = first.setdefault(f"{place['dataset']} {place['arm']}", tuned)
            rows.append({"kind": "against_first", **place, **_compared(tuned, reference)})
    return rows


def _tuned_is_right(sweep: Sequence[GridRun], samples: DataSplits) -> _Right | None:
    """Which test samples the best network of a sweep classifies correctly; None if all diverged."""
    converged = [run for run in sweep if run.record.ended != "diverged"]
    rights = [is_right(run.model(), samples.test) for run in converged]
    return max(rights, key=lambda right: int(right.sum()), default=None)


def _compared(one: _Right, other: _Right | None) -> ExtraRow:
    row: ExtraRow = {"accuracy": float(one.double().mean())}
    if other is not None:
        row |= {"lost": int((other & ~one).sum()), "gained": int((one & ~other).sum())}
    return row


def transfer_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per measured step of pre-training, per fine-tuned network and per comparison.

    Returns:
        Columns kind (`pretraining`, `fine_tuning`, `linear_probe`, `against_first`), dataset, model, seed, pretrain_step, train_variance
        and train_variance_final of the pre-trained network at that step, learning_rate, accuracy (on the super-classes in
        rows of pre-training, else on the classes in the end; missing where training diverged) and num_test, the test
        samples that it is a share of; lost and gained, in rows of linear probes and `against_first`: see
        `compare_checkpoints`.
    """
    tables = [_seed_rows(runs, seed) for seed in runs.seeds]
    return pd.concat(tables, ignore_index=True).reindex(columns=list(_COLUMNS))


def _seed_rows(runs: Grid, seed: int) -> pd.DataFrame:
    tables, num_test = [], {}
    for run in runs.of(seed).values():
        table, data = run.curve().rename(columns={"test_accuracy": "accuracy"}), run.record.data
        assert data is not None
        if run.job.labels["kind"] == "pretraining":
            table["pretrain_step"] = table["step"]
        else:
            table = table.tail(1)
            table = table.assign(accuracy=table["accuracy"].where(table["ended"] != "diverged"))
            num_test[run.job.labels["dataset"]] = data.num_test
        tables.append(table.assign(num_test=data.num_test))
    for row in runs.extra("comparisons", seed):
        tables.append(pd.DataFrame([row | {"seed": seed, "num_test": num_test[row["dataset"]]}]))
    rows = pd.concat(tables, ignore_index=True)
    key = ["dataset", "arm", "weight_decay", "pretrain_step"]
    checkpoints = rows_where(rows, kind="pretraining").set_index(key)
    return rows.drop(columns=list(_VARIANCES)).join(checkpoints[list(_VARIANCES)], on=key)


# ---------------------------------------------------------------- what is drawn and judged


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per checkpoint, seed and kind of transfer, with the best accuracy over learning rates (sec. 4.2)."""
    others = {name: "first" for name in (*_VARIANCES, "num_test") if name in rows}
    kept = rows_that(rows, rows["kind"].isin(["fine_tuning", "linear_probe"]))
    grouped = kept.groupby(list(_PLACE), sort=False, as_index=False)
    return grouped.agg({**others, "accuracy": "max"})


def of_arms(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out the control, and number the checkpoints of each arm by their steps, from 1."""
    kept = rows_that(rows, rows["arm"] != CONTROL)
    numbers = kept.groupby(["dataset", "arm"])["pretrain_step"].rank(method="dense")
    return kept.assign(checkpoint=numbers.fillna(0).astype(int))


def of_control(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep only the control."""
    return rows_where(rows, arm=CONTROL)


def best_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per fine-tuned checkpoint, with the best accuracy over learning rates; diverged runs have none."""
    return rows_where(transfers(rows), kind="fine_tuning")


def kinds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Tell fine-tuning and linear probes apart."""
    tuned, probed = (rows_where(rows, kind=kind) for kind in ("fine_tuning", "linear_probe"))
    return [("fine-tuned (best rate)", tuned), ("linear probe", probed)]


def less_by_probing(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how much less accurate the linear probe is than fine-tuning: the least over checkpoints, and the mean.

    Where networks were compared sample by sample, the lower end of the 95 % interval of the first is added.
    """
    parts = best_rates(rows), rows_where(rows, kind="linear_probe")
    tuned, probed = (part.set_index("pretrain_step") for part in parts)
    less = tuned["accuracy"] - probed["accuracy"]
    least = probed.loc[[less.idxmin()]] if less.notna().all() else probed.iloc[:0]
    lost = {"least": less.min(skipna=False), "mean": less.mean(), _LOW: _lower_end(least)}
    return pd.DataFrame([lost]).rename(columns="{}_accuracy_lost_by_probing".format)


def lost_by_collapse(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how much less accurate fine-tuning from the most collapsed checkpoint is than from the first checkpoint.

    Raises:
        Void: networks were not compared sample by sample.
    """
    compared = rows_where(rows, kind="against_first").sort_values("train_variance")
    if not compared["lost"].notna().any():
        raise Void("not compared sample by sample")
    last = compared.head(1)
    lost = {"": (last["lost"] - last["gained"]) / last["num_test"], f"{_LOW}_": _lower_end(last)}
    return pd.DataFrame(lost).rename(columns="{}accuracy_lost_by_collapse".format)


def _lower_end(row: pd.DataFrame) -> float:
    """Return the lower end of the 95 % interval of the accuracy that a row lost."""
    if not len(row) or "lost" not in row:
        return math.nan
    lost, gained, trials = (float(row[name].iloc[0]) for name in ("lost", "gained", "num_test"))
    return paired_difference_interval(lost, gained, trials)[0]


DOWNSTREAM = Axis("downstream test accuracy", "tight", percent=True)
_ACCURACY = Quantity("accuracy", "test accuracy", Look(TEST))


def _pretraining(rows: pd.DataFrame) -> pd.DataFrame:
    return of_arms(rows_where(rows, kind="pretraining"))


PAGE_CHARTS = (
    Lines(
        "learning-rates", "Fine-tuning at every learning rate", (_ACCURACY,), "A gap is training that diverged.",
        x="learning_rate", axes=(Axis("learning rate of fine-tuning", "log"), DOWNSTREAM), references=False, on_paper=False,
        select=lambda rows: of_arms(rows_where(rows, kind="fine_tuning")), split=by_column("pretrain_step", "from step {:,}"),
    ),
    Lines(
        "pretraining", "Train variance while pre-training", VARIANCES[:1], x="pretrain_step", on_paper=False,
        select=_pretraining,
    ),
    Lines(
        "pretraining-accuracy", "Test accuracy while pre-training, two classes", (_ACCURACY,), x="pretrain_step",
        axes=ACCURACY_AXES, references=False, on_paper=False, select=_pretraining,
    ),
)  # fmt: skip
