"""The registry of scores, and their evaluation with times and warnings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collapselab import METRICS, InputError, measure
from collapselab.transfer.scores import BY_NAME, SCORES, ScoreInputs, evaluate, select
from collapselab.transfer.scores.catalogue import catalogue


def inputs(spread: float = 1.0, n: int = 90, p: int = 6, **options: Any) -> ScoreInputs:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return ScoreInputs(rng.normal(size=(n, p)) + spread * rng.normal(size=(3, p))[labels], labels, **options)


def test_every_nc1_metric_is_a_score_with_its_value() -> None:
    given = inputs()
    names = [metric.name for metric in METRICS if metric.family.startswith("NC1")] + ["ncc_accuracy"]
    found = evaluate(given, names)
    assert {name: one.value for name, one in found.items()} == {
        name: measure(given.features, given.labels, metrics=[name])[name] for name in found
    }
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize("name", [score.name for score in SCORES if score.direction != "neither"])
def test_directions_say_which_values_predict_better_transfer(name: str) -> None:
    if name == "leep":
        far, near = (
            inputs(source_probabilities=np.eye(3)[np.arange(90) % 3] * share + (1 - share) / 3)
            for share in (0.2, 0.9)
        )
    else:
        far, near = inputs(0.5), inputs(3.0)
    values = [evaluate(one, [name])[name].value for one in (far, near)]
    if name in (
        "within_trace",
        "ncti_vc",
    ):  # the first ignores the classes; uniform posteriors too have a small norm
        return
    assert values[0] is not None
    assert values[1] is not None
    assert (values[1] > values[0]) == (BY_NAME[name].direction == "larger")


def test_all_scores_are_evaluated_for_which_there_are_inputs() -> None:
    assert set(evaluate(inputs())) == {score.name for score in SCORES} - {"leep"}
    assert set(evaluate(inputs(source_probabilities=np.full((90, 2), 0.5)))) == {
        score.name for score in SCORES
    }


def test_an_undefined_score_has_no_value_and_says_why() -> None:
    found = evaluate(ScoreInputs(np.full((6, 2), 0.25), [0, 1] * 3), ["h_score", "vci", "transrate", "cdnv"])
    assert {name: one.value for name, one in found.items()} == {
        "h_score": None, "transrate": pytest.approx(0), "vci": None, "cdnv": None,
    }  # fmt: skip
    assert found["h_score"].warnings == (
        "H-score: the features do not vary; give features of samples that differ",
    )
    assert found["vci"].warnings[0].startswith("vci: undefined on these features")
    assert (
        evaluate(inputs(), ["leep"])["leep"].warnings[0].startswith("leep: there are no source probabilities")
    )


def test_warnings_of_metrics_are_kept() -> None:
    found = evaluate(inputs(n=12, p=20), ["vci"])["vci"]
    assert any("the largest possible with 12 samples" in text for text in found.warnings)


def test_names_select_in_the_order_of_the_registry() -> None:
    assert [score.name for score in select(["vci", "logme"])] == ["logme", "vci"]
    assert select(None) == SCORES
    assert [score.name for score in select("leep")] == ["leep"]
    with pytest.raises(InputError, match="unknown score 'logmee'; did you mean 'logme'"):
        evaluate(inputs(), ["logmee"])


def test_names_are_unique_and_every_score_says_its_source_and_cost() -> None:
    assert len(BY_NAME) == len(SCORES)
    assert all(score.source and score.cost and score.formula for score in SCORES)


def test_the_documentation_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "scores.md"
    assert page.read_text(encoding="utf-8") == catalogue(), "run: make docs"


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e120])
def test_features_of_extreme_size_end_in_values_or_reasons(size: float) -> None:
    given = inputs()
    for name, one in evaluate(ScoreInputs(given.features * size, given.labels)).items():
        assert one.value is not None or one.warnings, name
        assert one.value is None or np.isfinite(one.value)
