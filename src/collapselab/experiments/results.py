"""What is made of an experiment's rows: verdicts, figures and a page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from collapselab.experiments.claims.claim import judge_all
from collapselab.experiments.experiment import Experiment
from collapselab.records.experiment import ExperimentRecord, write_experiment
from collapselab.records.judgement import Judgement
from collapselab.records.outcome import Outcome
from collapselab.records.verdicts import judgement_from_schema_1, write_verdicts
from collapselab.storage import replace_text


def write_results(
    experiment: Experiment, record: ExperimentRecord, rows: pd.DataFrame, folder: Path
) -> Outcome:
    """Judge the claims and write rows, verdicts, figures, record and page.

    Args:
        experiment: whose claims are judged and whose charts are drawn.
        record: of the finished experiment.
        rows: the table that all of it is a function of.
        folder: of the experiment.

    Raises:
        OSError: a file cannot be written.
    """
    from collapselab.report.experiment_page import verdicts_text

    verdicts = judge_all(experiment.claims, rows)
    judgements = tuple(Judgement.model_validate(judgement_from_schema_1(verdict)) for verdict in verdicts)
    replace_text(folder / "rows.csv", rows.to_csv(index=False, lineterminator="\n"))
    write_verdicts(folder / "verdicts.json", judgements)
    replace_text(folder / "verdicts.txt", verdicts_text(verdicts, record.scale))
    outcome = Outcome(folder, record, rows, judgements)
    _draw(experiment, outcome, verdicts)
    write_experiment(folder, record)
    return outcome


def _draw(experiment: Experiment, outcome: Outcome, verdicts: list) -> None:
    from collapselab.report.experiment_page import ExperimentPageData, write_experiment_page
    from collapselab.report.paper_style import save_figure

    for name, draw in experiment.figures.items():
        save_figure(draw(outcome.rows), outcome.folder / name)
    record = outcome.record
    write_experiment_page(
        outcome.folder,
        ExperimentPageData(
            title=record.title,
            paper=record.paper,
            where=record.where,
            question=record.question,
            reduced=record.differences,
            scale=record.scale,
            seeds=record.seeds,
            rows=outcome.rows,
            charts=list(experiment.charts(outcome.rows)),
            verdicts=verdicts,
            made=record.how_made(),
            beside=[f"{name}.{form}" for name in experiment.figures for form in ("pdf", "png")]
            + ["rows.csv", "verdicts.json"],
        ),
    )
