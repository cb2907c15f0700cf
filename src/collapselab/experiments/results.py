"""Write verdicts, figures and a page from the rows of an experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from collapselab.digests import digest
from collapselab.experiments.claims import judge_claims
from collapselab.experiments.experiment import Experiment
from collapselab.records.experiment import ExperimentRecord, write_experiment
from collapselab.records.outcome import Outcome
from collapselab.records.verdicts import write_verdicts
from collapselab.storage import replace_bytes, replace_text


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
        WriteError: a file cannot be written.
    """
    from collapselab.report.pages.experiment import write_experiment_page
    from collapselab.report.paper import save_figures
    from collapselab.report.wording import verdicts_text

    judgements = tuple(judge_claims(experiment.claims, rows, experiment.paper, experiment.where))
    outcome = Outcome(folder, record, rows, judgements)
    charts = [chart for make in experiment.charts for chart in make(rows)]
    table = rows.to_csv(index=False, lineterminator="\n").encode()
    replace_bytes(folder / "rows.csv", table)
    write_verdicts(folder / "verdicts.json", judgements)
    replace_text(folder / "verdicts.txt", verdicts_text(judgements, record.scale))
    save_figures(charts, folder)
    write_experiment_page(outcome, charts)
    write_experiment(folder, record.model_copy(update={"rows_digest": digest(table)}))
    return outcome
