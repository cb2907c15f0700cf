"""The main job as a user runs it, whole: the claims hold over its own rows, and a page is there."""

from pathlib import Path

import pandas as pd
import pytest

from cli_runner import Outcome, assert_refused, run
from collapselab.findings import digits
from collapselab.findings.digits import digits_recipe
from collapselab.training import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "run"


@pytest.fixture(scope="module")
def printed(out: Path) -> Outcome:
    return run("run", "digits", "--out", out)


@pytest.fixture(scope="module")
def rows(printed: Outcome, out: Path) -> pd.DataFrame:
    assert printed.code == 0, printed.err
    return RunFolder(out).table()


def test_the_seed_points_to_every_claim(rows: pd.DataFrame, out: Path) -> None:
    """One seed decides nothing."""
    judgements = RunFolder(out).read_verdicts()
    assert [one.id for one in judgements] == [
        "train-variance-below-bound",
        "strong-test-variance-above-train-variance",
        "normalized-within-ordered",
        "nearest-centre",
    ]
    assert {(one.verdict, one.agreement) for one in judgements} == {("inconclusive", "1 of 1")}


def test_training_error_is_gone_long_before_the_end(rows: pd.DataFrame) -> None:
    # At the last layer, nearest-centre accuracy on train data is 1 from some step on, well before the last.
    last = rows[(rows["split"] == "train") & (rows["depth"] == rows["depth"].max())]
    perfect = last[last["ncc_accuracy"] == 1]["step"]
    assert perfect.min() < 2000
    assert perfect.max() == 4000


def test_every_layer_and_split_is_measured_at_every_step(rows: pd.DataFrame) -> None:
    assert rows["layer"].nunique() == 6
    assert len(rows) == rows["step"].nunique() * 6 * 2
    assert rows["step"].nunique() >= 15


def test_the_terminal_gets_a_table_verdicts_and_the_page(
    printed: Outcome, rows: pd.DataFrame, out: Path
) -> None:
    for layer in rows["layer"].unique():
        assert layer in printed.out
    assert printed.out.count("MET IN 1 SEED ") == 4
    flowing = " ".join(printed.out.split())
    assert (
        "4 claims: none has a verdict yet. A verdict needs three seeds. So far, all 4 meet their criteria."
        in flowing
    )
    assert f"For a verdict on each claim: collapselab run digits --seeds 3 --out {out}\n" in printed.out
    assert f"Page: {out}/report.html" in printed.out
    # Only paths may be longer than a line.
    assert max(len(line) for line in printed.out.splitlines() if str(out) not in line) <= 100
    assert "\x1b" not in printed.out
    assert printed.err == ""  # no progress bar where nobody looks
    assert (
        600_000 < (out / "report.html").stat().st_size < 1_500_000
    )  # plotly's part, and what can be sent by mail


def test_the_stored_references_agree_with_the_measured_rows(rows: pd.DataFrame, out: Path) -> None:
    final = [row for row in RunFolder(out).read_final_reference() if row.step == 4000 and row.depth == 5]
    stored = {name: value for row in final for name, value in row.metrics.items()}
    last = rows[(rows["step"] == 4000) & (rows["depth"] == 5)].set_index("split")
    assert stored["train_variance_final"] == pytest.approx(last["train_variance"]["train"], rel=1e-12)
    for name in ("strong_test_variance", "weak_test_variance"):
        assert stored[f"{name}_final"] == pytest.approx(last[name]["test"], rel=1e-12)
    assert last["weak_test_variance"]["test"] < last["strong_test_variance"]["test"]


def test_a_finished_run_is_shown_again_without_training(rows: pd.DataFrame, out: Path) -> None:
    before = (out / "measurements.jsonl").stat().st_mtime_ns
    again = run("run", "digits", "--out", out)
    assert again.code == 0
    assert "nothing was run again" in again.out
    assert (out / "measurements.jsonl").stat().st_mtime_ns == before


def test_another_seed_in_the_same_folder_is_refused(rows: pd.DataFrame, out: Path) -> None:
    assert_refused(run("run", "digits", "--out", out, "--seed", 1), out, "seed 0, not 1", "--out")


def test_three_seeds_give_verdicts_that_every_page_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = {"model.options": {"width": 32, "depth": 2}, "steps": 150, "measuring.count": 4}
    short = digits_recipe().with_changes(small)
    monkeypatch.setattr(digits, "digits_recipe", lambda seed: short.with_changes({"seed": seed}))
    out = tmp_path / "run"
    assert run("run", "digits", "--out", out).code == 0
    done = run("run", "digits", "--out", out, "--seeds", 3)
    assert done.code == 0, done.err
    folders = [out, tmp_path / "run-seed-1", tmp_path / "run-seed-2"]
    judged = [RunFolder(folder).read_verdicts() for folder in folders]
    assert judged[0] == judged[1] == judged[2]
    assert all(sorted(one.readings[-1].by_seed) == [0, 1, 2] for one in judged[0])
    assert {one.verdict for one in judged[0]} >= {"holds"}
    assert "MET" not in done.out
    assert "For a verdict" not in done.out
    for folder in folders:
        assert str(folder / "report.html") in done.out
        assert "Holds." in (folder / "report.html").read_text(encoding="utf-8")
    again = run("run", "digits", "--out", out, "--seeds", 3)
    assert "nothing was run again" in again.out


def test_seeds_are_for_the_demo_and_instead_of_one_seed(tmp_path: Path) -> None:
    assert_refused(run("run", tmp_path / "a.yaml", "--seeds", 3), "--seeds 3", "a.yaml", "--seed")
    assert_refused(run("run", "digits", "--seeds", 3, "--seed", 1), "--seeds 3", "only")
