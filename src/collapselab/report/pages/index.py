"""An index over the experiments in a folder: what there is, how its claims came out, links to the pages."""

from __future__ import annotations

from pathlib import Path

from collapselab.records.experiment import ExperimentRecord, read_experiment
from collapselab.records.verdicts import read_verdicts
from collapselab.report.pages.rendering import Card, Page, write_page
from collapselab.report.wording import summary
from collapselab.text import counted


def write_index_page(folder: Path) -> Path | None:
    """Write `index.html` over all experiments one level below a folder.

    Returns:
        The path of the page, or None where there is no experiment.

    Raises:
        InputError: a record or its verdicts are damaged.
        OSError: it cannot be written.
    """
    cards = [_card(path.parent) for path in sorted(folder.glob("*/experiment.json"))]
    if not cards:
        return None
    path = folder / "index.html"
    write_page(
        path,
        Page(
            f"Experiments in {folder.resolve().name}",
            counted(len(cards), "experiment") + ".",
            cards=cards,
            cards_title="Experiments",
        ),
    )
    return path


def _card(folder: Path) -> Card:
    record = read_experiment(folder)
    assert isinstance(record, ExperimentRecord)
    path = folder / "verdicts.json"
    judged = summary(read_verdicts(path) if path.exists() else ())
        f"{verdicts.count(name)} {words}" for name, words in _OUTCOMES.items() if name in verdicts
    )
    page = next(
        (name for name in ("report.html", "verdicts.txt") if (folder / name).exists()), "experiment.json"
    )
    what = f"Scale {record.scale}, {counted(len(record.seeds), 'seed')}, {counted(record.runs, 'run')}, {record.status}."
    source = ", ".join(filter(None, [record.paper, record.where]))
    return Card("", record.experiment, record.title, [what, judged], source, link=f"{folder.name}/{page}")
