"""`rank`: order, networks, forms of the result, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import collapselab
from collapselab import InputError, Ranking
from collapselab.data.stratified import stratified_rows
from collapselab.ranking.page import write_ranking
from collapselab.transfer import linear_probe, mean_log_odds
from collapselab.transfer.scores import BY_NAME, logme, ncti, ncti_parts

SPREADS = {"none": 0.0, "some": 0.4, "much": 1.0, "more": 2.0}
FAST = ["logme", "ncc_accuracy", "normalized_within"]


def features(spread: float, n: int = 120, p: int = 6, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    means = np.random.default_rng(7).normal(size=(3, p))
    return rng.normal(size=(n, p)) + spread * means[labels], labels


def sources(**options: Any) -> dict[str, Any]:
    return {name: features(spread, **options) for name, spread in SPREADS.items()}


@pytest.fixture(scope="module")
def measured() -> Ranking:
    given = {name: (features(spread), features(spread, seed=1)) for name, spread in SPREADS.items()}
    return collapselab.rank(given, probe=True)


# ---------------------------------------------------------------- order and values


def test_models_are_ordered_by_the_leading_score(measured: Ranking) -> None:
    assert measured.order == ("more", "much", "some", "none")
    assert measured.best == "more"
    assert [row.rank for row in measured.rows] == [1, 2, 3, 4]
    for row in measured.rows:
        assert row.scores["logme"] == logme(*features(SPREADS[row.model]))
        assert (row.num_samples, row.dim, row.num_classes) == (120, 6, 3)


def test_a_score_that_falls_orders_the_other_way_round() -> None:
    found = collapselab.rank(sources(), by="normalized_within", scores=FAST, stability=False)
    assert found.order == ("more", "much", "some", "none")
    values = [row.scores["normalized_within"] for row in found.rows]
    assert values == sorted(values, key=lambda value: value or 0)


def test_ncti_compares_the_models(measured: Ranking) -> None:
    expected = ncti({name: ncti_parts(*features(spread)) for name, spread in SPREADS.items()})
    assert {row.model: row.scores["ncti"] for row in measured.rows} == pytest.approx(expected)
    assert collapselab.rank(sources(), by="ncti", stability=False).best == max(
        expected, key=lambda name: expected[name]
    )


def test_accuracies_are_those_of_a_linear_probe_on_test_features(measured: Ranking) -> None:
    for row in measured.rows:
        spread = SPREADS[row.model]
        probe = linear_probe(features(spread), features(spread, seed=1), num_penalties=13)
        assert row.accuracy == probe.accuracy
        assert row.num_test == 120
        assert measured.mean_log_odds[row.model] == mean_log_odds([probe.accuracy], num_samples=120)


def test_correlation_and_regret_are_of_scores_and_accuracies(measured: Ranking) -> None:
    accuracies = [row.accuracy or 0.0 for row in measured.rows]
    for name, trust in measured.scores.items():
        values = np.array([row.scores[name] for row in measured.rows], dtype=float)
        if trust.direction == "neither":
            assert trust.correlation is None
            continue
        values = values if trust.direction == "larger" else -values
        assert trust.correlation == pytest.approx(spearmanr(values, accuracies)[0])
        assert trust.regret == pytest.approx(max(accuracies) - accuracies[int(values.argmax())])


def test_stability_compares_two_halves_of_every_class() -> None:
    found = collapselab.rank(sources(), scores=FAST)
    assert found.scores["logme"].stability == 1
    # Without any signal, halves order the models at random: over several draws on average not at all.
    noise = [
        collapselab.rank({str(i): features(0.0, seed=10 * k + i) for i in range(8)}, scores=["logme"])
        for k in range(8)
    ]
    found_stabilities = [one.scores["logme"].stability or 0.0 for one in noise]
    # The mean of 8 correlations of 8 models has a standard deviation of 1 / sqrt(7 * 8) = 0.13.
    assert abs(float(np.mean(found_stabilities))) < 0.5
    assert collapselab.rank(sources(), scores=FAST, stability=False).scores["logme"].stability is None


def test_without_test_features_a_fifth_is_held_out() -> None:
    found = collapselab.rank(sources(), scores=["logme"], probe=True)
    assert {row.num_test for row in found.rows} == {24}
    assert any("a fifth of the samples" in text for text in found.warnings)


def test_two_models_are_too_few_for_correlations() -> None:
    given = {name: features(SPREADS[name]) for name in ("none", "much")}
    found = collapselab.rank(given, scores=["logme"], probe=True)
    assert found.scores["logme"].correlation is None
    assert found.scores["logme"].stability is None
    assert found.scores["logme"].regret is not None
    assert "too few" in found.advice[0]


def test_equal_models_have_equal_ranks() -> None:
    same = features(1.0)
    found = collapselab.rank({"a": same, "b": same, "c": features(0.0)}, scores=["logme"], stability=False)
    assert [row.rank for row in found.rows] == [1, 1, 3]


def test_an_undefined_score_ranks_last_and_is_reported() -> None:
    constant = np.full((120, 6), 0.5), features(0.0)[1]
    found = collapselab.rank({"constant": constant, **sources()}, by="h_score", scores=["h_score"])
    assert found.order[-1] == "constant"
    assert found.rows[-1].scores["h_score"] is None
    assert "constant, h_score: H-score: the features do not vary" in " ".join(found.warnings)


@pytest.mark.parametrize(
    ("names", "by", "words"),
    [
        (sources(), "leep", r"by=leep: no model has a value of it on feature files \(it needs"),
        ({"a": features(1.0)}, "ncti", r"by=ncti: .* \(it compares two models or more\)"),
        (sources(n=12, p=20), "vci_adjusted", r"by=vci_adjusted: .*; order by another score"),
    ],
)
def test_a_leading_score_without_values_is_refused(names: dict[str, Any], by: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        collapselab.rank(names, by=by, scores=[by])


def test_parts_of_ncti_are_scores_of_their_own() -> None:
    found = collapselab.rank(sources(), scores=["ncti_seli"], stability=False)
    assert set(found.scores) == {"logme", "ncti_seli"}
    found = collapselab.rank(sources(), scores=["ncti_seli", "ncti_ncc", "ncti_vc"], stability=False)
    assert "ncti" not in found.scores


def test_a_limit_draws_the_same_samples_of_every_model() -> None:
    found = collapselab.rank(sources(), scores=["logme"], limit=60, stability=False)
    labels = features(1.0)[1]
    rows = stratified_rows(labels, 60, 0, "")
    assert np.bincount(labels[rows]).tolist() == [20, 20, 20]
    assert {row.model: row.scores["logme"] for row in found.rows} == {
        name: logme(*(part[rows] for part in features(spread))) for name, spread in SPREADS.items()
    }


def test_labels_of_any_size_and_single_samples() -> None:
    rows, labels = features(1.0)
    ids = np.array([3, 2**40, 2**62])
    found = collapselab.rank({"a": (rows, ids[labels]), "b": (rows + 1, ids[labels])}, scores=["logme"])
    assert found.rows[0].num_classes == 3
    alone = {"a": (rows[:5], np.arange(5)), "b": (rows[5:10], np.arange(5))}
    assert collapselab.rank(alone, scores=["logme"]).scores["logme"].stability is None
    with pytest.raises(InputError, match="a: every class has one sample, but a probe needs a class of 3"):
        collapselab.rank(alone, scores=["logme"], probe=True)
    tested = {name: (pair, pair) for name, pair in alone.items()}
    with pytest.raises(InputError, match="a: every class has one sample, but a probe needs a class of 2"):
        collapselab.rank(tested, scores=["logme"], probe=True)
    two = {name: (part[:6], np.arange(6) % 3) for name, part in (("a", rows), ("b", rows + 1))}
    with pytest.raises(
        InputError, match=r"a: every class has at most two samples, .*; give more samples, or do not"
    ):
        collapselab.rank(two, scores=["logme"], probe=True)
    three = {name: (part[:9], np.arange(9) % 3) for name, part in (("a", rows), ("b", rows + 1))}
    assert collapselab.rank(three, scores=["logme"], probe=True).rows[0].num_test == 3


def test_test_samples_of_classes_that_train_lacks_are_left_out() -> None:
    train, (rows, labels) = features(1.0), features(1.0, seed=1)
    labels = np.where(np.arange(120) < 10, 9, labels)
    found = collapselab.rank({"a": (train, (rows, labels))}, scores=["logme"], probe=True, stability=False)
    assert found.rows[0].num_test == 110
    assert any("classes that train lacks" in text for text in found.warnings)


# ---------------------------------------------------------------- networks


class Small(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden, self.classifier = nn.Linear(64, 12), nn.Linear(12, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.hidden(inputs).relu())


def test_features_of_a_network_are_what_its_classifier_reads() -> None:
    digits = collapselab.data.load_digits()
    model = Small(0)
    found = collapselab.rank({"a": model, "b": Small(1)}, "digits", scores=["logme", "leep"], stability=False)
    with torch.no_grad():
        read = model.hidden(digits.train.inputs).relu()
        probabilities = model(digits.train.inputs).softmax(dim=1)
    row = next(row for row in found.rows if row.model == "a")
    # Batches of another size round float32 differently.
    assert row.scores["logme"] == pytest.approx(logme(read, digits.train.labels), rel=1e-4)
    leep = BY_NAME["leep"].function(
        collapselab.transfer.scores.ScoreInputs(read, digits.train.labels, probabilities)
    )
    assert row.scores["leep"] == pytest.approx(leep, rel=1e-4)
    assert found.datasets == ("digits",)


def test_another_layer_can_be_chosen() -> None:
    models = {"a": Small(0), "b": Small(1)}
    found = collapselab.rank(models, "digits", scores=["logme"], layer="hidden", stability=False, limit=300)
    assert {row.dim for row in found.rows} == {64}
    assert found.rows[0].scores == found.rows[1].scores  # both read the pixels
    with pytest.raises(InputError, match="unknown layer of a 'hiden'; did you mean 'hidden'"):
        collapselab.rank(models, "digits", layer="hiden")


class HeadFirst(nn.Module):
    def __init__(self, *, is_doubled: bool = False) -> None:
        super().__init__()
        self.classifier, self.hidden = nn.Linear(12, 10), nn.Linear(64, 12)
        self.is_doubled = is_doubled

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        read = self.hidden(inputs).relu()
        scores = self.classifier(read)
        return (scores + self.classifier(read.square())) / 2 if self.is_doubled else scores.log_softmax(dim=1)


def test_the_classifier_makes_the_class_scores_wherever_it_is_registered() -> None:
    found = collapselab.rank({"a": HeadFirst()}, "digits", scores=["logme"], stability=False, limit=100)
    assert found.rows[0].dim == 12
    assert found.warnings == ()


def test_a_classifier_that_is_not_found_is_said() -> None:
    model = HeadFirst(is_doubled=True)
    found = collapselab.rank({"a": model}, "digits", scores=["logme"], stability=False, limit=100)
    assert found.rows[0].dim == 64
    assert "a, no layer alone makes its class scores; features are what hidden reads" in found.warnings[0]


def test_features_of_a_layer_that_was_guessed_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(Small(0).state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(
        "collapselab.ranking.candidates.open_model", lambda *_, **__: HeadFirst(is_doubled=True)
    )
    options = {"scores": ["logme"], "stability": False, "limit": 100, "cache": tmp_path / "cache"}
    for _ in range(2):
        found = collapselab.rank([f"mlp={tmp_path / 'w.pt'}"], "digits", **options)
        assert any("no layer alone" in text for text in found.warnings)


def test_networks_are_left_as_they_are() -> None:
    model = Small(0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collapselab.rank({"a": model, "b": Small(1)}, "digits", scores=["logme"], limit=100, stability=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- forms of the result


def test_json_frames_and_the_notebook(measured: Ranking) -> None:
    values = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert values["best"] == "more"
    assert len(values["rows"]) == 4
    frame = measured.to_frame()
    assert frame["logme"].tolist() == [row.scores["logme"] for row in measured.rows]
    assert set(measured.trust_frame()["score"]) == set(measured.scores)
    named = collapselab.rank({"<b>": features(0.5), "c": features(0.2)}, scores=["logme"], stability=False)
    assert "&lt;b&gt;" in named._repr_html_()
    assert "<b>" not in named._repr_html_()


def test_a_page_is_written_with_and_without_accuracies(measured: Ranking, tmp_path: Path) -> None:
    unmeasured = collapselab.rank(sources(), scores=FAST)
    for result, text in (
        (measured, "Best by a linear probe: more"),
        (unmeasured, "Transfer was not measured"),
    ):
        lines = write_ranking(tmp_path, result)
        assert lines == [f"Page: {tmp_path / 'report.html'}", f"Numbers: {tmp_path / 'ranking.json'}"]
        assert text in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert json.loads((tmp_path / "ranking.json").read_text(encoding="utf-8"))["order"] == list(
            result.order
        )
    two = collapselab.rank({name: features(SPREADS[name]) for name in ("none", "much")}, scores=["logme"])
    write_ranking(tmp_path, two)
    assert "there are no rank correlations" in (tmp_path / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {}, "there is nothing to rank"),
        ([], {}, "there is nothing to rank"),
        ({"a": 3}, {}, "a: a int cannot be ranked"),
        (
            {"a": features(1.0)},
            {"on": "digits"},
            "a: holds features of a data set already; leave out on=digits",
        ),
        ({"a": Small(0)}, {}, "a is a network; give the data to rank it on with on="),
        ({"a": Small(0), "b": features(1.0)}, {"on": "digits"}, "b holds features and a is a network"),
        ({"a": Small(0)}, {"on": ["digits", "digits"]}, "a data set is given twice"),
        ({"a": Small(0)}, {"on": "digit"}, "unknown data set 'digit'"),
        ({"a": features(1.0), "b": features(1.0, n=90)}, {}, "b: its labels differ from those of a"),
        ({"a": features(1.0)}, {"by": "between_trace"}, "by=between_trace: predicts nothing"),
        ({"a": features(1.0)}, {"by": "logmee"}, "unknown score 'logmee'; did you mean 'logme'"),
        ({"a": features(1.0)}, {"scores": ["x1"]}, "unknown score 'x1'"),
        (
            {"a": features(1.0)},
            {"layer": "fc"},
            "layer=fc: is for networks, and a holds features; leave it out",
        ),
        ({"a": features(1.0)}, {"image_size": 5}, "image_size=5: is for networks"),
        ({"a": features(1.0)}, {"standardize": "pixel"}, "standardize=pixel: is for networks"),
        ({"a": features(1.0)}, {"pretrained": True}, "pretrained= is for networks by name without a file"),
        ({"a": features(1.0)}, {"preprocess": True}, "preprocess= is for networks by name"),
        ({"a": Small(0)}, {"on": "digits", "pretrained": True}, "pretrained= is for networks by name"),
        ({"a": Small(0)}, {"on": "digits", "preprocess": True}, "preprocess= is for networks by name"),
        ({"a": features(1.0)}, {"limit": 1}, "give at least 2 samples"),
        ({"a": features(1.0)}, {"batch_size": 0}, "batch_size=0: give at least 1"),
        ({"a": features(1.0)}, {"device": "cuba"}, "device=cuba: cannot be used"),
        ({"a": (np.zeros((4, 2)) * np.nan, [0, 1, 0, 1])}, {}, "a: 8 feature values are NaN"),
        ({"a": (np.zeros((4, 2)), [0, 0, 0, 0])}, {}, "a: all samples are of one class"),
    ],
)
def test_wrong_input_is_refused(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        collapselab.rank(given, **options)
