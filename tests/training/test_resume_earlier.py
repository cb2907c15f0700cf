"""A run that an earlier version began, whose files have no digests, goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from collapselab.digests import unseal_content
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe


def _without_digests(path: Path) -> None:
    """Write the files of a run as schema 2 had them."""
    for file in (path / "run.json", path / "measurements.jsonl"):
        whole = file.suffix == ".json"
        objects = [
            json.loads(text) for text in ([file.read_text()] if whole else file.read_text().splitlines())
        ]
        for values in objects:
            del values["digest"]
            values.pop("run", None)
            values["schema"] = 2
        file.write_text("".join(json.dumps(values) + "\n" for values in objects))
    for file in path.rglob("*.safetensors"):
        save_file(load_file(file), file)
    trainer = path / "checkpoints" / "trainer.pt"
    trainer.write_bytes(bytes(unseal_content(trainer.read_bytes())[0]))


def test_a_run_of_an_earlier_version_goes_on(
    tiny_recipe: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    begun, whole = RunFolder(tmp_path / "begun"), RunFolder(tmp_path / "whole")
    run_recipe(tiny_recipe, whole)
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, begun, stopper=stop_at(7))
    _without_digests(begun.path)
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, begun, stopper=stop_at(7))
    run_recipe(tiny_recipe, begun)
    for name in ("measurements.jsonl", "final_reference.jsonl"):
        assert (begun.path / name).read_bytes() == (whole.path / name).read_bytes()
