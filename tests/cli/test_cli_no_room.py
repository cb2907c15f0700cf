"""A full disk under every command that writes: one line, and the same command goes on when there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_runner import assert_refused, largest_file, run, save

RECIPE = """
model: {name: mlp, options: {width: 4, depth: 1}}
data: {train: {method: first, count: 40}, test: {method: first, count: 40}}
steps: 6
batch_size: 16
num_threads: 1
measuring: {count: 2, metrics: [train_variance], weak_test_variance: false, spectra: false}
"""


@pytest.mark.parametrize("size", [0, 40])
def test_measure_keeps_the_old_output(tmp_path: Path, size: int) -> None:
    path, output = save(tmp_path / "train.npz"), tmp_path / "out.json"
    output.write_text("old")
    arguments = ("measure", path, "--format", "json", "--output", output)
    with largest_file(size):
        assert_refused(run(*arguments), f"--output {output}: cannot be written (File too large); make room")
    assert output.read_text() == "old"
    assert run(*arguments).code == 0


@pytest.mark.parametrize("size", [10, 10_000])
def test_run_goes_on(tmp_path: Path, size: int) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    with largest_file(size):
        assert_refused(run("run", recipe, "--out", out), out, "make room, then run it again")
    outcome = run("run", recipe, "--out", out)
    assert outcome.code == 0
    assert "6 steps: all steps done" in outcome.out


def test_profile_says_that_there_is_no_room(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with largest_file(100):
        outcome = run(
            "profile", "mlp", "--dataset", "digits", "--limit", "50", "--layers", "layers.5", "--out", out
        )
    assert_refused(outcome, f"--out {out}", "cannot be written (File too large); make room")
    assert not list(out.iterdir())
