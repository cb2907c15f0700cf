"""Every experiment at its smallest scale, whole, without data and without network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from cli_runner import Outcome, assert_refused, run
from collapselab.choices import Scale
from collapselab.experiments.recipes import Job
from collapselab.papers.hui2022.arms import LITERAL
from collapselab.registry import experiments, find_experiment

pytestmark = pytest.mark.slow
IDS = list(experiments())
# Done whole by tests that begin with a part of them.
IN_PARTS = ("hui2022/fig5", "hui2022/fig6")
OPTIONS = ("--threads", 1, "--seeds", 1)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("COLLAPSELAB_DATA", raising=False)


def _assert_whole(name: str, out: Path, done: Outcome) -> None:
    """Every file is there and says the same; asked for again, nothing is run."""
    assert done.code == 0, done.err
    experiment = find_experiment(name)
    figures = sorted(path.stem for path in out.glob("*.pdf"))
    assert name.partition("/")[2] in figures
    for figure in figures:
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert [verdict["id"] for verdict in verdicts] == [claim.id for claim in experiment.claims]
    assert all(verdict["verdict"] in ("holds", "fails", "inconclusive") for verdict in verdicts)
    assert (out / "verdicts.txt").read_text() in done.out
    rows = pd.read_csv(out / "rows.csv")
    assert len(rows) > 3
    assert set(rows["seed"]) == {0}
    record = json.loads((out / "experiment.json").read_text())
    assert record["status"] == "finished"
    assert record["changes"] == {"num_threads": 1}
    page = (out / "report.html").read_text()
    assert experiment.presets["smoke"].reduced in page
    for claim in experiment.claims:
        assert claim.statement.partition(" [")[0].replace("'", "&#39;") in page
    again = run("reproduce", name, "--out", out, *OPTIONS)
    assert "nothing was run again" in again.out
    assert (out / "report.html").read_text() == page
    assert json.loads((out / "experiment.json").read_text()) == record


@pytest.mark.parametrize("name", [name for name in IDS if name not in IN_PARTS])
def test_an_experiment_is_done_whole(name: str, tmp_path: Path, no_network: None) -> None:
    _assert_whole(name, tmp_path / "out", run("reproduce", name, "--out", tmp_path / "out", *OPTIONS))


def test_the_list_has_every_experiment_at_every_scale() -> None:
    listed = run("reproduce", "list")
    assert listed.code == 0
    for name in IDS:
        assert name in listed.out
    assert listed.out.count("  paper ") == len(IDS)
    assert "hui2022/fig1" in listed.out


@pytest.mark.parametrize("name", IDS)
def test_every_preset_says_what_is_reduced_and_has_runs_of_their_own(name: str) -> None:
    experiment = find_experiment(name)
    assert set(experiment.presets) == set(get_args(Scale))
    for preset in experiment.presets.values():
        assert len(preset.reduced) > 20
        jobs = preset.jobs(3)
        assert len({job.name for job in jobs}) == len(jobs)
        assert {job.recipe.seed for job in jobs} == {3}
        assert all({*job.labels} == {*jobs[0].labels} or "kind" in job.labels for job in jobs)
    assert {job.recipe.data.name for job in experiment.presets["smoke"].jobs(0)} == {"digits"}


def literal(name: str) -> list[Job]:
    """The runs at the scale of the paper that add nothing to what it says."""
    return [job for job in find_experiment(name).presets["paper"].jobs(0) if job.labels["arm"] == LITERAL]


def test_the_papers_numbers() -> None:
    """What sec. 3.2, 4.2 and 5.1 say, at the scale of the paper."""
    (fig3,) = literal("hui2022/fig1")
    assert (fig3.recipe.model.name, fig3.recipe.steps, fig3.recipe.batch_size) == (
        "torchvision/resnet18",
        80_000,
        128,
    )
    assert (fig3.recipe.optimizer.learning_rate, fig3.recipe.optimizer.momentum) == (0.1, 0.9)
    assert fig3.recipe.data.standardize == "pixel"
    fig2 = literal("hui2022/fig2")
    assert len(fig2) == 15
    rates = {job.labels["model"]: job.recipe.optimizer.learning_rate for job in fig2}
    assert rates == {"resnet18": 0.1, "densenet201": 0.01, "vgg11_bn": 0.01, "resnet50": 0.1}
    svhn = next(job for job in fig2 if job.labels["dataset"] == "svhn")
    assert (svhn.recipe.data.train.per_class, svhn.recipe.data.test.per_class) == (4600, 1500)
    fig4 = literal("hui2022/fig4")
    assert [job.labels["num_train"] for job in fig4][:5] == [12_500, 25_000, 30_000, 40_000, 50_000]
    assert {job.recipe.stop_below_loss for job in fig4} == {1e-6}
    fig5 = literal("hui2022/fig5")
    assert {job.recipe.steps for job in fig5} == {100_000}
    tuning = {job.labels["learning_rate"] for job in fig5 if job.labels["kind"] == "fine_tuning"}
    assert (min(tuning), max(tuning)) == (0.0005, 0.25)
    cifar = next(job for job in fig5 if job.name == "cifar10-pretraining").recipe.data
    assert (cifar.train.count, cifar.test.count) == (20_000, 4000)
    cifar_tuned = next(job for job in fig5 if job.name.startswith("cifar10-from-")).recipe.data
    assert (cifar_tuned.train.count, cifar_tuned.test.count) == (10_000, 2000)
    assert (cifar_tuned.train.skip, cifar_tuned.test.skip) == (cifar.train.count, cifar.test.count)
    assert [len(group) for group in cifar.groups or ()] == [4, 4]
    assert sum(cifar.groups or (), ()) == sum(cifar_tuned.groups or (), ())
    digits, tuned = (
        next(job for job in fig5 if job.name.startswith(name)).recipe
        for name in ("mnist-pretraining", "mnist-from-")
    )
    assert (digits.data.train.count, digits.data.test.count) == (1000, 200)
    assert (tuned.data.train.count, tuned.data.test.count) == (500, 100)
    assert (tuned.data.train.skip, tuned.data.test.skip) == (1000, 200)
    assert digits.data.groups == ((1, 3, 5, 7, 9), (0, 2, 4, 6, 8))
    assert (digits.optimizer.learning_rate, digits.batch_size) == (0.001, 128)
    (fig6,) = literal("hui2022/fig6")
    assert fig6.recipe.model.options == {"width": 1024, "depth": 3, "batch_norm": False}
    assert (fig6.recipe.steps, fig6.recipe.optimizer.learning_rate) == (80_000, 0.001)
    assert (fig6.recipe.data.train.count, fig6.recipe.data.test.count) == (1000, 200)


def test_fine_tuning_shares_no_sample_with_pre_training(tmp_path: Path) -> None:
    from collapselab.training.building import load_data

    jobs = find_experiment("hui2022/fig5").presets["smoke"].jobs(0)
    first, second = (load_data(job.recipe) for job in (jobs[0], jobs[1]))
    for split in ("train", "test"):
        a, b = ({tuple(row) for row in getattr(data, split).inputs.tolist()} for data in (first, second))
        assert not a & b


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["hui2022/fig7"], ["unknown experiment 'hui2022/fig7'", "hui2022/fig6"]),
        (["papers"], ["unknown experiment 'papers'", "reproduce list"]),
        (["hui2022/fig6", "--seeds", "0"], ["--seeds"]),
        (["hui2022/fig6", "--scale", "huge"], ["--scale"]),
        (
            ["hui2022/fig5", "--scale", "paper", "--data", "somewhere"],
            ["--data somewhere", "give NAME=PATH"],
        ),
        (["hui2022/fig6", "--scale", "cpu", "--data", "mnist=nowhere"], ["nowhere"]),
        (["hui2022/fig6", "--data", "mnits=."], ["mnits", "mnist"]),
        (
            ["hui2022/fig6", "--data", "mnist=."],
            ["--data mnist=.", "scale smoke uses only digits", "--scale"],
        ),
        (["hui2022/fig6", "--scale", "cpu", "--data", "cifar10=."], ["--data cifar10=.", "uses only mnist"]),
        (["hui2022/fig4", "--set", "data.train={method: first, count: 50}"], ["stands for num_train"]),
        (["hui2022/fig5", "--set", "optimizer={learning_rate: 0.5}"], ["stands for"]),
        (["hui2022/fig6", "--only", "cifar*"], ["--only cifar*", "digits-mlp"]),
        (["hui2022/fig6", "--stop-after", "1 fortnight"], ["--stop-after 1 fortnight", "positive duration"]),
        (["hui2022/sec2", "--only", "network"], ["needs all of its runs", "--only"]),
    ],
)
def test_mistakes_are_said_in_one_line(
    arguments: list[str], fragments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run("reproduce", *arguments), *fragments)
    assert list(tmp_path.iterdir()) == []


def test_out_of_time_ends_cleanly_and_goes_on(tmp_path: Path, no_network: None) -> None:
    command = ("reproduce", "hui2022/fig6", "--out", tmp_path / "out", *OPTIONS)
    stopped = run(*command, "--stop-after", "0.001s")
    assert stopped.code == 0
    assert "out of time; run the same command again to resume" in stopped.err
    _assert_whole("hui2022/fig6", tmp_path / "out", run(*command))


def test_fine_tuning_brings_the_pre_training_it_starts_from(tmp_path: Path, no_network: None) -> None:
    out = tmp_path / "out"
    command = ("reproduce", "hui2022/fig5", "--out", out, *OPTIONS)
    assert run(*command, "--only", "*-pretraining").code == 0
    assert set(pd.read_csv(out / "rows.csv")["kind"]) == {"pretraining"}
    some = run(*command, "--only", "*-from-20-*")
    assert some.code == 0, some.err
    rows = pd.read_csv(out / "rows.csv")
    assert set(rows[rows["kind"] != "pretraining"]["pretrain_step"]) == {20}
    # Runs that are added are probed too: what was computed from fewer is not taken for all.
    _assert_whole("hui2022/fig5", out, run(*command))
    rows = pd.read_csv(out / "rows.csv")
    for kind in ("fine_tuning", "linear_probe", "against_first"):
        assert set(rows[rows["kind"] == kind]["pretrain_step"]) == {20, 60, 200}
    place = ["arm", "pretrain_step"]
    best = rows[rows["kind"] == "fine_tuning"].groupby(place)["accuracy"].max()
    other = {"linear_probe": best, "against_first": best.groupby("arm").transform("first")}
    for kind, reference in other.items():
        compared = rows[rows["kind"] == kind].set_index(place).sort_index()
        lost = (compared["lost"] - compared["gained"]) / compared["num_test"]
        assert (reference - compared["accuracy"]).to_numpy() == pytest.approx(lost.to_numpy(), abs=1e-12)
    tuned = rows[rows["kind"] == "against_first"].set_index(place)["accuracy"].sort_index()
    assert tuned.to_numpy() == pytest.approx(best.to_numpy(), abs=1e-12)


def test_several_processes_are_sent_to_the_command_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_refused(
        run("reproduce", "hui2022/fig6", "--out", tmp_path / "out"), "one process", "collapselab run"
    )
