"""The page over several experiments: every claim in one table, then each experiment with its figures.

Figures are linked, not contained: together they are larger than a page should be, and they are stored beside it anyway.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collapselab.errors import InputError
from collapselab.records.judgement import Judgement
from collapselab.records.wording import cautions, outcome, seeds_text, sentences, summary
from collapselab.report.pages.rendering import environment
from collapselab.results.stored import StoredExperiment, StoredNotes, StoredResults
from collapselab.storage import read_bytes, replace_text
from collapselab.text import counted, duration

# In the head of every page written here; a file without it is not replaced.
_MARK = '<meta name="generator" content="collapselab results">'
_OWN = "collapselab"  # what experiments of our own have in place of a paper
_SECONDS = 3600


@dataclass(frozen=True)
class PaperResults:
    """The experiments of one paper, and the notes written about them, if any."""

    title: str
    experiments: Sequence[StoredExperiment]
    notes: Path | None

    @property
    def is_own(self) -> bool:
        return self.experiments[0].record.paper == _OWN

    @property
    def name(self) -> str:
        """What ids of its experiments begin with."""
        return self.experiments[0].record.experiment.partition("/")[0]

    @property
    def judgements(self) -> list[Judgement]:
        return [claim for one in self.experiments for claim in one.judgements]


def write_results_page(path: Path, results: StoredResults, failures: Mapping[str, str] | None = None) -> None:
    """Write the page; links are relative to it. The same results give the same bytes.

    Args:
        path: of the page.
        results: what it shows.
        failures: by experiment, why it could not be run, in one line each.

    Raises:
        InputError: the path holds something else.
        WriteError: it cannot be written.
    """
    if path.is_dir() or (path.exists() and _MARK.encode() not in read_bytes(path)[:4096]):
        raise InputError(f"{path}: exists and is not a page of results; move it away, or write elsewhere")
    replace_text(path, results_page(results, path.parent, failures))


def results_page(
    results: StoredResults, beside: Path = Path(), failures: Mapping[str, str] | None = None
) -> str:
    """Return the page as one HTML text.

    Args:
        results: what it shows.
        beside: the folder that links are relative to.
        failures: see `write_results_page`.
    """
    papers = _by_paper(results)
    names = environment("collapselab.report", "collapselab.results")
    names.globals |= {
        function.__name__: function
        for function in (cautions, counted, facts, met, notes_facts, outcome, sentences, summary)
    }

    def link(target: Path) -> str:
        return Path(os.path.relpath(target, beside)).as_posix()

    return names.get_template("results.html.j2").render(
        mark=_MARK,
        title=f"Results of {counted(len(results.experiments), 'experiment')}",
        facts_of_all=_facts_of_all(results.experiments),
        papers=papers,
        notes=results.notes,
        problems=[*(f"{name}: {why}" for name, why in (failures or {}).items()), *results.problems],
        ids=_anchors(
            [os.path.relpath(one.folder, results.root) for one in (*results.experiments, *results.notes)]
        ),
        place=lambda one: os.path.relpath(one.folder, results.root),
        link=link,
    )


def _by_paper(results: StoredResults) -> list[PaperResults]:
    """Group experiments by paper, in their order."""
    groups: dict[str, list[StoredExperiment]] = {}
    for one in results.experiments:
        groups.setdefault(one.record.paper or one.record.experiment.partition("/")[0], []).append(one)
    titles = {_OWN: "Findings of this project"}
    return [
        PaperResults(titles.get(paper, paper), ones, _common_notes(ones, results.root))
        for paper, ones in groups.items()
    ]


def _common_notes(experiments: Sequence[StoredExperiment], root: Path) -> Path | None:
    """Return the README.md in the folder that contains those of all experiments of a paper, if it is not the root."""
    parents = {one.folder.parent for one in experiments}
    readme = parents.pop() / "README.md"
    return readme if not parents and readme.parent != root and readme.is_file() else None


# ---------------------------------------------------------------- texts


def facts(one: StoredExperiment) -> list[tuple[str, str]]:
    """Return preset, seeds, runs, time, machine and date of an experiment, as names and values."""
    record, hardware = one.record, one.record.hardware or {}
    hours = record.hours.training + record.hours.measuring
    machine = hardware.get("accelerator") or hardware.get("processor") or hardware.get("machine") or "unknown"
    day = (record.finished or "not yet")[:10]
    judged = f" (judged again {record.judged[:10]})" if record.judged and record.judged[:10] != day else ""
    time = f"{duration(hours * _SECONDS)} over all runs" if hours else "under a minute"
    named = [
        ("preset", record.scale),
        ("seeds", f"{len(record.seeds)} ({seeds_text(record.seeds).partition(' ')[2]})"),
        ("runs", f"{record.runs:,}"),
        ("time", time),
        ("machine", machine),
        ("finished", f"{day}{judged}"),
    ]
    return named if one.is_finished else [named[0], ("status", "not finished")]


def met(claim: Judgement) -> str:
    """Say in how many seeds, or settings, the criteria of a claim are met; nothing of a claim that no run tests."""
    met, _, count = claim.agreement.partition(" of ")
    if count == "0":
        return "no valid seed"
    return f"{met} of {counted(int(count), 'seed')}" if count.isdecimal() else claim.agreement


def notes_facts(one: StoredNotes) -> str:
    """Say what a documented folder is."""
    return f"{counted(len(one.figures), 'figure')} with notes; not an experiment, so no claims were judged."


def _facts_of_all(experiments: Sequence[StoredExperiment]) -> list[tuple[str, str]]:
    claims = [claim for one in experiments if one.record.scale != "smoke" for claim in one.judgements]
    hours = sum((one.record.hours.training + one.record.hours.measuring for one in experiments), 0.0)
    verdicts = [outcome(claim) for claim in claims]
    counts = {word: verdicts.count(word) for word in ("holds", "fails", "inconclusive", "not tested")}
    return [
        ("experiments", str(len(experiments))),
        ("claims judged", str(len(claims) - counts["not tested"])),
        *((word, str(count)) for word, count in counts.items()),
        ("no verdict yet", str(len(claims) - sum(counts.values()))),
        ("time of all runs", duration(hours * _SECONDS)),
    ]


def _anchors(names: Sequence[str]) -> dict[str, str]:
    """Return an id for each name, of letters, digits and hyphens, no two alike."""
    ids: dict[str, str] = {}
    for name in names:
        plain = id = re.sub(r"[^a-zA-Z0-9]+", "-", f"at-{name}").strip("-")
        number = 1
        while id in ids.values():
            number += 1
            id = f"{plain}-{number}"
        ids[name] = id
    return ids
