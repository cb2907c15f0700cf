"""A seeded attack with names that nobody should use: each ends in a right number or in one printable line.

COLLAPSELAB_ATTACK multiplies the number of attempts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import (
    INPUTS,
    LABELS,
    TIMES,
    assert_line,
    assert_shown,
    is_file_name,
    model_named,
    names,
    refusal,
)
from PIL import Image
from torch import nn

import collapselab
from cli_runner import run
from collapselab.cli.output import as_text
from collapselab.data import open_data_set


def is_module_name(name: str) -> bool:
    return name != "" and "." not in name and not hasattr(nn.ModuleDict, name)


def test_names_of_layers_and_models_are_shown_escaped(tmp_path: Path) -> None:
    from collapselab.records.profile import StoredProfile, read_profile, write_profile
    from collapselab.report.pages.profile import write_profile_page

    for number in range(TIMES):
        found = list(dict.fromkeys(names(24, 10 + number, is_module_name)))
        result = collapselab.profile(
            model_named(found),
            [(INPUTS, LABELS)],
            name="".join(found[:3]),
            metrics=["normalized_within", "vci", "equiangularity", "alignment"],
        )
        assert [layer.name for layer in result.layers][:-1] == [
            "layers." + name.encode("utf-8", "backslashreplace").decode() for name in found
        ]
        for form in ("table", "csv"):
            assert_shown(as_text(result, form))
        assert_shown(re.sub(r"\x1b\[[\d;]*m", "", as_text(result, "table", to_terminal=True)))
        text = as_text(result, "json")
        text.encode("ascii")
        again = json.loads(text)
        assert [layer["name"] for layer in again["layers"]] == [layer.name for layer in result.layers]
        json.dumps(again, ensure_ascii=False).encode("utf-8")
        assert_shown(result._repr_html_())
        write_profile(tmp_path, StoredProfile(result, None))
        assert read_profile(tmp_path).profile.to_dict() == result.to_dict()
        write_profile_page(tmp_path, result, None, None)
        assert_page(tmp_path / "report.html")


def assert_page(path: Path) -> None:
    """The page is valid UTF-8, and outside of its scripts nothing is shown raw or becomes an element."""
    page = path.read_text(encoding="utf-8", errors="strict")
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    drawn = json.dumps(json.loads(figures[1]), ensure_ascii=False)
    assert_shown(drawn)
    rest = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert_shown(rest)
    assert "<img src=x" not in rest
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", rest)


def test_names_of_classes_are_shown_escaped(tmp_path: Path) -> None:
    classes = list(dict.fromkeys(names(12 * TIMES, 2, is_file_name)))
    for name in classes:
        folder = tmp_path / "set" / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name) % 256).save(folder / "0.png")
    data = open_data_set(tmp_path / "set")
    shown = [name for name in data.class_names or () if not name.startswith((".", "__"))]
    assert shown
    for name in shown:
        assert_shown(name)
    assert refusal(lambda: data.labels("\x1b[31mtest")) is not None


COMMANDS: dict[str, Callable[[str], tuple[object, ...]]] = {
    "measure": lambda name: ("measure", f"{name}.npz"),
    "measure a folder": lambda name: ("measure", name),
    "metrics": lambda name: ("measure", "x.npz", "--metrics", f"_{name}_"),
    "output": lambda name: ("measure", "x.npz", "--output", f"/nowhere/{name}/x"),
    "model": lambda name: ("profile", f"_{name}", "--dataset", "digits"),
    "model file": lambda name: ("profile", f"{name}.py:build", "--dataset", "digits"),
    "data": lambda name: ("profile", "mlp", "--dataset", f"_{name}"),
    "copy": lambda name: ("profile", "mlp", "--dataset", "mnist", "--data", f"{name}=/nowhere"),
    "path of a copy": lambda name: (
        "profile",
        "mlp",
        "--dataset",
        "mnist",
        "--data",
        f"mnist=/nowhere{name}",
    ),
    "layers": lambda name: ("profile", "mlp", "--dataset", "digits", "--limit", "20", "--layers", f"_{name}"),
    "reduce": lambda name: ("profile", "mlp", "--dataset", "digits", "--reduce", f"_{name}"),
    "checkpoint": lambda name: (
        "profile",
        "mlp",
        "--dataset",
        "digits",
        "--checkpoint",
        f"/nowhere/{name}.pt",
    ),
    "against": lambda name: (
        "profile",
        "mlp",
        "--dataset",
        "digits",
        "--out",
        "o",
        "--against",
        f"/nowhere/{name}",
    ),
    "recipe": lambda name: ("run", f"/nowhere/{name}.yaml"),
    "run": lambda name: ("run", f"_{name}"),
    "set": lambda name: ("run", "digits", "--set", name),
    "experiment": lambda name: ("reproduce", f"_{name}"),
    "judge": lambda name: ("judge", f"/nowhere/{name}"),
    "unknown option": lambda name: ("measure", f"--{name}"),
    "command": lambda name: (f"_{name}",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_names_on_the_command_line_are_refused_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names(4 * TIMES, sum(map(ord, command)), lambda name: "\0" not in name):
        outcome = run(*COMMANDS[command](name))
        case = (command, ascii(name), outcome)
        assert outcome.code == 2, case
        assert outcome.out == "", case
        assert outcome.err.startswith("error: "), case
        assert outcome.err.endswith("\n"), case
        assert_line(outcome.err[:-1])


def test_names_in_a_recipe_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.chdir(tmp_path)
    fields = ("model", "data", "loss", "optimizer", "steps")
    for number, name in enumerate(names(10 * TIMES, 5)):
        nested = {"name": f"_{name}"} if fields[number % 5] in ("model", "data", "optimizer") else f"_{name}"
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({fields[number % 5]: nested}), encoding="utf-8")
        outcome = run("run", path, "--out", tmp_path / "run")
        assert (outcome.code, outcome.out) == (2, ""), (ascii(name), outcome)
        assert_line(outcome.err[:-1])


def test_a_folder_of_a_hostile_name_is_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays: dict[str, Any] = {"features": INPUTS.numpy(), "labels": LABELS.numpy()}
    for name in names(6 * TIMES, 6, is_file_name):
        folder = tmp_path / f"_{name}"
        folder.mkdir(exist_ok=True)
        np.savez(folder / "a.npz", **arrays)
        outcome = run("measure", folder, "--metrics", "vci", "--output", folder / "out.txt")
        assert outcome.code == 0, (ascii(name), outcome)
        assert_shown(outcome.err)
        np.savez(folder / "a.npz", **{**arrays, "labels": -LABELS.numpy()})
        outcome = run("measure", folder)
        assert outcome.code == 2, (ascii(name), outcome)
        assert_line(outcome.err[:-1])
