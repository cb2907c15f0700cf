"""An index page for the experiments in a folder: titles, verdicts and links."""

from __future__ import annotations

from pathlib import Path

from collapselab.records.experiment import ExperimentRecord, read_experiment
from collapselab.records.verdicts import read_verdicts
from collapselab.records.wording import summary
from collapselab.report.pages.rendering import Card, Page, write_page
from collapselab.text import counted


def write_index_page(folder: Path) -> Path | None:
    """Write `index.html` over all experiments one level below a folder.

    Returns:
        The path of the page, or None if there is no experiment.

    Raises:
        InputError: a record or its verdicts are damaged.
        OSError: it cannot be written.
    """
    found = [(path.parent, read_experiment(path.parent)) for path in sorted(folder.glob("*/experiment.json"))]
    cards = [_card(inside, record) for inside, record in found if record is not None]
    if not cards:
        return None
    title = f"Experiments in {folder.resolve().name}"
    page = Page(title, f"{counted(len(cards), 'experiment')}.", cards=cards, cards_title="Experiments")
    write_page(folder / "index.html", page)
    return folder / "index.html"


def _card(folder: Path, record: ExperimentRecord) -> Card:
    verdicts = folder / "verdicts.json"
    judged = summary(read_verdicts(verdicts)) if verdicts.exists() else "Not judged yet."
    size = f"{counted(len(record.seeds), 'seed')}, {counted(record.runs, 'run')}, {record.status}"
    source = ", ".join(filter(None, [record.paper, record.where]))
    page = next(
        name for name in ("report.html", "verdicts.txt", "experiment.json") if (folder / name).exists()
    )
    details = [f"Scale {record.scale}, {size}.", judged]
    return Card("", record.experiment, record.title, details, source, link=f"{folder.name}/{page}")
