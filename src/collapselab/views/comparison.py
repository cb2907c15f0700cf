"""Runs or profiles side by side: overlaid curves, last values in one table, and what differs in how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from collapselab.errors import InputError
from collapselab.frames import last_layer, rows_where
from collapselab.metrics import BY_NAME
from collapselab.records.profile import StoredProfile
from collapselab.records.run import Run
from collapselab.report.chart import Chart
from collapselab.report.pages.rendering import Page, Section
from collapselab.text import counted, listed, number
from collapselab.views.charts import NETWORK, PROPERTIES, layer_chart, step_chart

# Differ between any two runs and decide nothing.
_UNIMPORTANT = ("started", "seconds", "seconds training", "seconds measuring", "commit")
_FURTHER = ("cdnv", "equinorm", "etf_distance", "self_duality", "stable_rank")
_HOW = "Each folder has a colour. Train values are solid lines with circles, test values dashed lines with squares."


def comparison_page(opened: Mapping[str, Run | StoredProfile]) -> Page:
    """Return a page that shows runs, or profiles, side by side.

    Args:
        opened: two or more of a kind, by name.

    Raises:
        InputError: runs and profiles together.
    """
    runs = {name: one for name, one in opened.items() if isinstance(one, Run)}
    profiles = {name: one for name, one in opened.items() if isinstance(one, StoredProfile)}
    if runs and profiles:
        raise InputError(
            f"{next(iter(runs))} is a run and {next(iter(profiles))} a profile; compare runs with runs, profiles with profiles"
        )
    if runs:
        return _page(
            "run",
            _differences({name: run.record.how_made() for name, run in runs.items()}),
            {name: _ends(run) for name, run in runs.items()},
            {name: run.first_collapsed for name, run in runs.items()},
            [
                Section("training", "Training", [step_chart(runs)], _HOW),
                Section("more", "More", [_further(step_chart(runs, _measured(runs, _FURTHER)))]),
            ],
        )
    made = {name: one.made.how_made() if one.made else [] for name, one in profiles.items()}
    shown = {name: one.profile for name, one in profiles.items()}
    return _page(
        "profile",
        _differences(made),
        {name: _at_last_layer(profile.to_frame()) for name, profile in shown.items()},
        {name: profile.first_collapsed_layer for name, profile in shown.items()},
        [
            Section("layers", "Layers", [layer_chart(shown)], _HOW),
            Section("more", "More", [_further(layer_chart(shown, ("vci_adjusted", *_FURTHER)))]),
        ],
    )


def _page(
    what: str,
    made: pd.DataFrame,
    ends: Mapping[str, pd.Series],
    first: Mapping[str, str | None],
    sections: Sequence[Section],
) -> Page:
    values = pd.DataFrame(ends)
    names = [
        name
        for name in (*BY_NAME, *NETWORK)
        if (name, "train") in values.index or (name, "test") in values.index
    ]
    tables = []
    for split in ("train", "test"):
        rows = [name for name in names if (name, split) in values.index]
        table = pd.DataFrame([values.loc[(name, split)].rename(name) for name in rows]).reset_index(
            names="metric"
        )
        if len(table):
            tables.append((f"Last layer on {split} data", table))
    collapsed = [name for name, layer in first.items() if layer is not None]
    share = {name: column.get(("normalized_within", "train")) for name, column in values.items()}
    known = {
        str(name): float(value) for name, value in share.items() if value is not None and pd.notna(value)
    }
    told = (
        f"Collapsed from some layer on: {listed(collapsed, 8)}."
        if collapsed
        else "In none of them the last layer has collapsed."
    )
    if len(known) > 1:
        low, high = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
        told += (
            f" The within-class share of the last layer's variance on train data is smallest in {low} ({number(known[low])}) "
            f"and largest in {high} ({number(known[high])})."
        )
    differing = [Section("made", "What differs in how they were made", [], table=made)] if len(made) else []
    return Page(
        f"{counted(len(ends), what)} side by side",
        told,
        facts=[(f"first collapsed layer, {name}", layer or "none") for name, layer in first.items()],
        sections=[*differing, *sections],
        numbers=tables,
    )


def _ends(run: Run) -> pd.Series:
    return _at_last_layer(rows_where(run.rows, step=run.last_step))


def _at_last_layer(rows: pd.DataFrame) -> pd.Series:
    """Return the values of the last layer, indexed by metric and split."""
    last = last_layer(rows)
    columns = [name for name in (*BY_NAME, *NETWORK) if name in last]
    values: dict[tuple[str, str], Any] = {}
    for row in last.to_dict("records"):
        values |= {(name, str(row["split"])): row[name] for name in columns if pd.notna(row[name])}
    return pd.Series(values, dtype="float64")


def _measured(runs: Mapping[str, Run], names: Sequence[str]) -> list[str]:
    return [name for name in names if any(name in run.rows for run in runs.values())] or list(PROPERTIES[:1])


def _further(chart: Chart) -> Chart:
    return Chart("further", "Further metrics", chart.text, chart.panels, share_y=False)


def _differences(made: Mapping[str, Sequence[tuple[str, str]]]) -> pd.DataFrame:
    """Return a row per setting that is not the same everywhere, and a column per folder."""
    settings = {name: dict(facts) for name, facts in made.items()}
    names = list(dict.fromkeys(fact for facts in settings.values() for fact in facts))
    rows = [
        {"setting": fact} | {name: facts.get(fact, "–") for name, facts in settings.items()}
        for fact in names
        if len({facts.get(fact) for facts in settings.values()}) > 1 and fact not in _UNIMPORTANT
    ]
    return pd.DataFrame(rows)
