"""Read a complete run, as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from collapselab.errors import InputError
from collapselab.frames import last_layer, rows_where
from collapselab.plotting import plotted
from collapselab.probes.summaries import first_collapsed
from collapselab.records.completeness import check_finished
from collapselab.records.judgement import Judgement
from collapselab.records.rows import VARIANCES, MeasuredRow, final, rows_table
from collapselab.records.run_curve import run_curve
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import RunRecord


@dataclass(frozen=True, eq=False)
class Run:
    """A run with at least one measured step.

    Attributes:
        record: as run.json holds it.
        judgements: as verdicts.json holds them; empty where there are none.
        rows: every measured row: columns step, epoch, split, layer, depth, and one per metric.
        variances: Hui's variances of the last layer, one row per step: columns step, train_variance,
            strong_test_variance, weak_test_variance and the three `_final`; NaN where not measured.
        spectra: columns when (`initialisation`, `end`), split, layer, name, index (from 1), value.
        statistics: of the last measured step, named `split/layer/quantity`: counts (C,), class_means (C, p),
            class_variances (C,); empty where they were not kept.
        warnings: of the last measured step, each with its split and layer.
        layers_beside: depths of shortcuts and of layers on parallel branches, as in `Profile`.
    """

    record: RunRecord
    judgements: tuple[Judgement, ...]
    rows: pd.DataFrame
    variances: pd.DataFrame
    spectra: pd.DataFrame
    statistics: dict[str, Tensor]
    warnings: tuple[str, ...]
    layers_beside: frozenset[int] = frozenset()

    @property
    def epsilon(self) -> float:
        """Share of variance within classes below which a layer is collapsed."""
        return self.record.epsilon

    @property
    def last_step(self) -> int:
        """The last measured step."""
        return int(self.rows["step"].max())

    @property
    def splits(self) -> list[str]:
        """`train` and, where it was measured, `test`."""
        return self.rows["split"].drop_duplicates().tolist()

    @property
    def layers(self) -> list[str]:
        """Names in order of depth."""
        return self.at(self.last_step, "train")["layer"].tolist()

    @property
    def first_collapsed(self) -> str | None:
        """First layer from which all are collapsed on train data at the end; None where the last one is not."""
        last = self.at(self.last_step, "train")
        if "normalized_within" not in last:
            return None
        return first_collapsed(last["layer"].tolist(), last["normalized_within"].tolist(), self.epsilon)

    def at(self, step: int, split: str) -> pd.DataFrame:
        """Return the rows of one step and split, in order of depth."""
        return rows_where(self.rows, step=step, split=split).sort_values("depth")

    def plot(self, *names: str) -> list[Any]:
        """Draw metrics of the last layer over training, a panel per metric; needs matplotlib.

        Args:
            names: of metrics, or `loss` and `accuracy`; default: one for each property of neural collapse, loss, accuracy.

        Returns:
            The axes of one figure: `axes[0].figure.savefig("run.pdf")`.
        """
        return plotted(self, names)

    def class_means(self, split: str) -> Tensor | None:
        """Return the class means (C, p) of the last layer at the end, or None where they were not kept."""
        return self.statistics.get(f"{split}/{self.layers[-1]}/class_means")

    def class_cosines(self) -> dict[str, pd.DataFrame]:
        """Return the cosines (C, C) between these class means, by split; see `cosine_matrix`."""
        means = {split: self.class_means(split) for split in self.splits}
        return {
            split: cosine_matrix(own.numpy())
            for split, own in means.items()
            if own is not None and len(own) > 1
        }


def cosine_matrix(class_means: npt.NDArray[Any]) -> pd.DataFrame:
    """Return cosines between class means (C, p) centred at their mean: (C, C), NaN where a mean has no direction."""
    centred = class_means - class_means.mean(0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=np.full_like(centred, np.nan), where=norms > 0)
    return pd.DataFrame(np.clip(unit @ unit.T, -1, 1))


def read_run(folder: RunFolder) -> Run:
    """Read a run whole, finished or not.

    Raises:
        InputError: there is no run, nothing is measured yet, a file is damaged, or rows of a finished run are missing.
    """
    record, measured = folder.read_run(), folder.read_rows()
    if record is None or not measured:
        raise InputError(f"{folder.path}: no measured run; run it first")
    check_finished(folder, record)
    rows = rows_table(measured)
    last = int(rows["step"].max())
    return Run(
        record=record,
        judgements=tuple(folder.read_verdicts()),
        rows=rows,
        variances=_variances(folder),
        spectra=_spectra(measured, last),
        statistics=folder.read_statistics(last),
        warnings=tuple(
            f"{row.split} {row.layer}: {warning}"
            for row in measured
            if row.step == last
            for warning in row.warnings
        ),
        layers_beside=frozenset(row.depth for row in measured if row.is_beside),
    )


def _variances(folder: RunFolder) -> pd.DataFrame:
    curve = last_layer(run_curve(folder, {})).reset_index(drop=True)
    return curve.filter(["step", *VARIANCES, *map(final, VARIANCES)])


def _spectra(measured: list[MeasuredRow], last: int) -> pd.DataFrame:
    names = {0: "initialisation", last: "end"}
    out = [
        (names[row.step], row.split, row.layer, name, index, value)
        for row in measured
        if row.step in names
        for name, values in row.spectra.items()
        for index, value in enumerate(values, start=1)
    ]
    return pd.DataFrame(out, columns=["when", "split", "layer", "name", "index", "value"])
