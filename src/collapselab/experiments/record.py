"""What is on record of an experiment as a whole: what was asked for, where it ran, how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapselab.errors import InputError
from collapselab.experiments.grid import Grid
from collapselab.storage import is_temporary, now, replace_text

RECORD, LOCK, TIMINGS = "experiment.json", "experiment.lock", "timings.json"


def read_record(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What experiment.json says, or None before the first start.

    Args:
        out: the experiment's folder, which need not exist.
        asked: the `experiment` and `scale` that the folder must hold.

    Raises:
        InputError: it holds something else.
    """
    path = out / RECORD
    if not path.exists():
        # An experiment that was killed before its record was whole has only these.
        own = {"runs", "extras", LOCK}
        if out.is_dir() and any(
            inside.name not in own and not is_temporary(inside) for inside in out.iterdir()
        ):
            raise InputError(f"{out}: not empty and not an experiment's; choose another --out")
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict):
        raise InputError(f"{path}: not an experiment's; choose another --out")
    if any(held.get(name) != asked[name] for name in ("experiment", "scale")):
        raise InputError(
            f"{out}: holds {held.get('experiment')} at scale {held.get('scale')}; choose another --out"
        )
    return held


class Record:
    """experiment.json.

    Args:
        out: the experiment's folder.
        asked: for what: experiment, scale, seeds, command, changes, only, reduced.

    Attributes:
        content: of the file.

    Raises:
        InputError: the folder holds something else.
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        self._path = out / RECORD
        held = read_record(out, asked)
        self.content: dict[str, Any] = {**asked, "status": "running"}
        self._held = held if held is not None and held.get("status") == "finished" else None
        if self._held is None:
            replace_text(self._path, json.dumps(self.content, indent=2) + "\n")

    def finish(self, grid: Grid, *, anything_new: bool) -> None:
        """Add what the runs say of themselves.

        Args:
            grid: the runs.
            anything_new: whether one of them was not finished before. Else, asked for the same again, the record stays
                what it was: when it was finished, by which command.
        """
        same = ("seeds", "changes", "only", "reduced")
        if (
            self._held is not None
            and not anything_new
            and all(self._held.get(name) == self.content[name] for name in same)
        ):
            self.content = self._held
            return
        runs = [grid.folder(job.name, seed).read_run() or {} for job, seed in grid.all()]
        hours = {
            name: round(sum(run["seconds"][name] for run in runs) / 3600, 3)
            for name in ("training", "measuring")
        }
        # In the order of the runs; where these were on several machines, the last one stands for them.
        slots = [slot for run in runs for slot in run["slots"]]
        self.content |= {
            "status": "finished",
            "finished": now(),
            "runs": len(runs),
            "ended": _counts([run["ended"] for run in runs]),
            "hours": hours,
            "commits": sorted({slot["commit"] for slot in slots if slot["commit"]}),
            "hardware": slots[-1]["hardware"],
            "versions": slots[-1]["versions"],
            "data": _fingerprints(runs),
            "recipes": {job.name: _short(job.recipe.model_dump(mode="json")) for job, _ in grid.all()},
        }
        replace_text(self._path, json.dumps(self.content, indent=2) + "\n")


def how_made(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """How the numbers came to be, as name and text, out of `Record.content`."""
    out: list[tuple[str, Any]] = [("command", record["command"])] if record["command"] else []
    out += [("seeds", ", ".join(map(str, record["seeds"]))), ("runs", record["runs"])]
    if record["changes"]:
        out.append(("set", ", ".join(f"{name} = {value}" for name, value in record["changes"].items())))
    out += [
        ("hours training", record["hours"]["training"]),
        ("hours measuring", record["hours"]["measuring"]),
    ]
    out.append(("runs that ended by", record["ended"]))
    out += [("commits", ", ".join(record["commits"]) or "unknown"), ("finished", record["finished"])]
    for place in ("versions", "hardware"):
        out += [
            (name.replace("_", " "), "none" if value is None else value)
            for name, value in record[place].items()
        ]
    for name, recipe in record["recipes"].items():
        out.append((f"recipe of {name}", recipe))
    return out


def _fingerprints(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Of all samples that were taken, by the name of their data set."""
    out: dict[str, list[str]] = {}
    for run in runs:
        of_name = out.setdefault(run["data"]["name"], [])
        if run["data"]["fingerprint"] not in of_name:
            of_name.append(run["data"]["fingerprint"])
    return out


def _counts(values: list[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def _short(recipe: dict[str, Any]) -> str:
    """A recipe in one line: what differs from the defaults."""
    from collapselab.training import Recipe

    return ", ".join(
        f"{path} {value}" for path, value in _differences(recipe, Recipe().model_dump(mode="json"))
    )


def _differences(values: Any, defaults: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(values, dict) and isinstance(defaults, dict) and values:
        return [
            pair
            for name, value in values.items()
            for pair in _differences(value, defaults.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if values == defaults else [(path, values)]
