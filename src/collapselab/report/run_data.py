"""What the page of a run shows, as tables: read once from the run folder, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from collapselab.experiments.claims.claim import first_collapsed_layer, rows_where
from collapselab.records.run_folder import RunFolder


@dataclass(frozen=True)
class RunData:
    """One finished run.

    Attributes:
        run: what run.json says.
        verdicts: as in verdicts.json.
        rows: every measured row, one column per metric.
        final_reference: Hui's variances of the last layer by step: columns step, train_variance,
            strong_test_variance, weak_test_variance.
        cosines: cosines between centred class means of the last layer at the end, per split (C x C).
        spectra: columns when (`initialisation`, `end`), split, layer, name, index (from 1), value.
        layers: names in order of depth.
        first_collapsed: the first collapsed layer on train data at the end, or None.
        warnings: what was unusual in the last measurement.
    """

    run: dict[str, Any]
    verdicts: list[dict[str, Any]]
    rows: pd.DataFrame
    final_reference: pd.DataFrame
    cosines: dict[str, pd.DataFrame]
    spectra: pd.DataFrame
    layers: list[str]
    first_collapsed: str | None
    warnings: list[str]

    @property
    def epsilon(self) -> float:
        return float(self.run["recipe"]["measuring"]["epsilon"])

    @property
    def last_step(self) -> int:
        return int(self.rows["step"].max())

    def at(self, step: int, split: str) -> pd.DataFrame:
        """Rows of one step and split, in order of depth."""
        return rows_where(self.rows, step=step, split=split)


def read_run(folder: RunFolder) -> RunData:
    """Read a finished run whole.

    Raises:
        ValueError: there is no finished run.
    """
    record = folder.read_run()
    if record is None or not record.is_finished:
        raise ValueError(f"{folder.path}: no finished run; a page is made at its end")
    run = record.model_dump(mode="json")
    raw: list[dict[str, Any]] = [{**row.to_json()} for row in folder.read_rows()]
    rows = folder.table()
    last = int(rows["step"].max())
    final = rows_where(rows, step=last, split="train")
    layers = final["layer"].tolist()
    statistics = folder.read_statistics(last)
    return RunData(
        run=run,
        verdicts=[
            one.model_dump(mode="json") | {"evidence": {"notes": one.notes}} for one in folder.read_verdicts()
        ],
        rows=rows,
        final_reference=_final_reference(folder, layers[-1]),
        cosines={
            split: cosine_matrix(statistics[f"{split}/{layers[-1]}/class_means"])
            for split in ("train", "test")
        },
        spectra=_spectra(raw, last),
        layers=layers,
        first_collapsed=first_collapsed_layer(final, float(run["recipe"]["measuring"]["epsilon"])),
        warnings=[
            f"{row['split']} {row['layer']}: {warning}"
            for row in raw
            if row["step"] == last
            for warning in row.get("warnings", [])
        ],
    )


def _final_reference(folder: RunFolder, layer: str) -> pd.DataFrame:
    by_step: dict[int, dict[str, float]] = {}
    for row in folder.read_final_reference():
        if row.layer == layer:
            values = {name.removesuffix("_final"): value or 0.0 for name, value in row.metrics.items()}
            by_step.setdefault(row.step, {"step": row.step}).update(values)
    return pd.DataFrame([by_step[step] for step in sorted(by_step)])


def cosine_matrix(class_means: torch.Tensor) -> pd.DataFrame:
    """Cosines between class means centred at their mean (C x C); NaN where a mean has no direction."""
    centred = class_means - class_means.mean(0)
    unit = centred / torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return pd.DataFrame((unit @ unit.T).clamp(-1, 1).numpy())


def _spectra(raw: list[dict[str, Any]], last: int) -> pd.DataFrame:
    names = {0: "initialisation", last: "end"}
    out = [
        (names[row["step"]], row["split"], row["layer"], name, index, value)
        for row in raw
        if row["step"] in names
        for name, values in row.get("spectra", {}).items()
        for index, value in enumerate(values, start=1)
    ]
    return pd.DataFrame(out, columns=["when", "split", "layer", "name", "index", "value"])
