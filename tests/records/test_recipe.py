"""Recipes: when they measure, how the learning rate falls, what they refuse, YAML there and back."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from collapselab import InputError
from collapselab.records.recipe import Checkpoints, Measuring, Optimizer, Schedule
from collapselab.text import flat
from collapselab.training import Recipe


def test_measured_steps_are_log_spaced_from_zero_to_the_last() -> None:
    steps = Recipe(steps=4000, measuring=Measuring(count=24)).measured_steps()
    assert steps[0] == 0
    assert steps[-1] == 4000
    assert steps == sorted(set(steps))
    ratios = [b / a for a, b in itertools.pairwise(steps[10:])]
    # 24 points over log(4000): neighbours differ by the factor 4000^(1/23), up to rounding to whole steps.
    assert max(ratios) / min(ratios) < 1.1
    assert ratios[-1] == pytest.approx(4000 ** (1 / 23), rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_short_runs_measure_no_step_twice(steps: int) -> None:
    measured = Recipe(steps=steps).measured_steps()
    assert len(measured) == len(set(measured))
    assert measured[-1] == steps


def test_steps_that_are_asked_for_and_those_of_kept_weights_are_measured() -> None:
    recipe = Recipe(steps=100, measuring=Measuring(count=2, at=(7,)), checkpoints=Checkpoints(at=(9, 100)))
    assert recipe.measured_steps() == [0, 1, 7, 9, 100]
    assert [step for step in recipe.measured_steps() if recipe.keeps_weights(step, is_last=step == 100)] == [
        9,
        100,
    ]


@pytest.mark.parametrize(("at", "kept"), [("measured", [0, 1, 100]), ("last", [100]), ((), [])])
def test_which_weights_are_kept(at: Any, kept: list[int]) -> None:
    recipe = Recipe(steps=100, measuring=Measuring(count=2), checkpoints=Checkpoints(at=at))
    assert [s for s in recipe.measured_steps() if recipe.keeps_weights(s, is_last=s == 100)] == kept


def test_learning_rate_falls_as_a_cosine() -> None:
    recipe = Recipe(steps=100, optimizer=Optimizer(learning_rate=0.4))
    assert recipe.learning_rate_at(0) == 0.4
    assert recipe.learning_rate_at(50) == pytest.approx(0.2)
    assert recipe.learning_rate_at(100) == pytest.approx(0.0, abs=1e-15)


def test_learning_rate_falls_at_milestones_or_not_at_all() -> None:
    steps = Schedule(name="steps", milestones=(10, 20), factor=0.1)
    rates = [steps.learning_rate(1.0, step, 30) for step in (0, 9, 10, 19, 20, 29)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert Schedule(name="constant").learning_rate(0.3, 29, 30) == 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"optimizer": {"momentum": 1.0}},
        {"measuring": {"epsilon": 0.0}},
        {"optimizer": {"learning_rate": -1.0}},
        {"layers": 3},
        {"steps": 10, "measuring": {"at": [11]}},
        {"steps": 10, "checkpoints": {"at": [11]}},
        {"data": {"train": {"method": "first"}}},
        {"data": {"train": {"method": "all", "count": 3}}},
        {"data": {"train": {"method": "balanced", "count": 10, "per_class": 1}}},
        {"data": {"train": {"method": "random", "per_class": 1}}},
    ],
)
def test_values_out_of_range_and_unknown_names_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)


@given(
    st.builds(
        Recipe,
        steps=st.integers(1, 10**6),
        temperature=st.floats(1e-3, 1e3),
        seed=st.integers(0, 10**6),
        loss=st.sampled_from(["cross_entropy", "mse"]),
        optimizer=st.builds(Optimizer, learning_rate=st.floats(1e-9, 10)),
    )
)
def test_yaml_there_and_back_changes_nothing(recipe: Recipe) -> None:
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml()), "here") == recipe
    assert Recipe.parse(yaml.safe_load(recipe.documented_yaml()), "here") == recipe


def test_every_field_is_documented_in_the_yaml_that_is_shown() -> None:
    lines = Recipe().documented_yaml().splitlines()
    assert len(lines) > 40
    for line in lines:
        name, comment = line.split(":", 1)[0].strip(), line.partition("  # ")[2]
        assert len(comment) > 5, name


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: 7\nmodel: {name: mlp, options: {width: 3, depth: 1}}\n")
    recipe = Recipe.read(path)
    assert recipe.steps == 7
    assert recipe.model.options["width"] == 3
    assert recipe.batch_size == Recipe().batch_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", "recipe.yaml, line 1, column 9: not YAML (while parsing a flow node: "),
        (
            "steps: 3\nmodel: options: {depth: 5}",
            "recipe.yaml, line 2, column 15: not YAML (mapping values are not ",
        ),
        ("steps: 3\nseed: 1\nsteps: 4", "recipe.yaml, line 3, column 1: not YAML (steps occurs twice)"),
        ("optimizer: {momentum: high}", "optimizer.momentum: got 'high'; input should be a valid number"),
        ("batch_size: 1", "batch_size: got 1; input should be greater than or equal to 2"),
        ("stepz: 3", "stepz"),
        ("steps: many", "steps"),
        ("- 1", "recipe"),
        ("optimizer: {learning_rate: 0}", "optimizer.learning_rate"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.read(tmp_path / "none.yaml")


def test_values_are_changed_by_their_path() -> None:
    recipe = Recipe().with_changes(
        {
            "steps": 5,
            "optimizer.learning_rate": 0.5,
            "model.options.width": 9,
            "data.train": {"method": "first", "count": 3},
        }
    )
    assert (recipe.steps, recipe.optimizer.learning_rate, recipe.model.options) == (5, 0.5, {"width": 9})
    assert recipe.data.train.count == 3


@pytest.mark.parametrize("path", ["stepz", "optimizer.rate", "steps.more", ""])
def test_an_unknown_path_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="unknown recipe field"):
        Recipe().with_changes({path: 1})


# -------------------------------------------------------------------- numbers and texts out of range

NINES = "9" * 5000
LAUGHS = "a: &a [1, 2]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
HOSTILE = {
    "thousands of digits": (f"steps: {NINES}", "thousands of digits"),
    "a seed beyond torch": (f"seed: {2**63}", "seed"),
    "a seed below zero": ("seed: -1", "seed"),
    "1e30 steps": ("steps: 1e30", "steps"),
    "a billion measurements": ("measuring: {count: 1000000000}", "measuring.count"),
    "depth": ("model: {options: {depth: 2000000}}", "depth 2000000: give a whole number from 0 to 10,000"),
    "width of a library": ("model: {name: timm/vit_tiny_patch16_224, options: {depth: 2000000}}", "depth 2000000"),
    "dropout": ("model: {options: {dropout: 3}}", "dropout 3: give a number from 0 to below 1"),
    "dropout nan": ("model: {options: {dropout: .nan}}", "model.options.dropout"),
    "width of 400 digits": (f"model: {{options: {{width: {NINES[:400]}}}}}", "model.options.width"),
    "width in a list": ("model: {options: {width: [3]}}", "width [3]: give a whole number"),
    "channels of a library": ("model: {name: timm/resnet18, options: {channels: [16, 2000000]}}", "channels 2000000"),
    "lists in lists": ("model: {options: {width: [[3]]}}", "model.options.width"),
    "infinite": ("optimizer: {learning_rate: .inf}", "finite"),
    "not a number": ("optimizer: {weight_decay: .nan}", "finite"),
    "a temperature that divides to infinity": ("temperature: 1e-300", "temperature"),
    "an image of a billion pixels": ("data: {image_size: [1000000000, 1000000000]}", "data.image_size"),
    "samples": ("data: {train: {method: first, count: 1000000000000000000000}}", "data.train.count"),
    "threads": ("num_threads: 100000000", "num_threads"),
    "aliases of aliases": (LAUGHS, "more than 30,000 values"),
    "an alias of itself": ("a: &a [*a]", "more than 30,000 values"),
    "brackets": ("a: " + "[" * 5000, "levels deep"),
    "braces": ("{a: " * 3000, "levels deep"),
    "a long text": ("x" * 400_000, "400,000 characters"),
    "an object": ("steps: !!python/object/apply:os.getpid []", "not YAML"),
    "a wrong tag": ("steps: !!float abc", "does not fit its tag"),
    "an empty tag": ("steps: !!int ''", "does not fit its tag"),
    "a wrong time": ("steps: !!timestamp noon", "does not fit its tag"),
    "a date": ("seed: 2026-11-27", "seed"),
    "no such date": ("seed: 2026-13-45", "seed"),
    "a key twice": ("steps: 3\nsteps: 4", "steps occurs twice"),
    "a null byte": ('model: {name: "a\\0b.py:f"}', "control characters"),
    "half a character": ('model: {name: "\\ud800"}', "model.name"),
    "two documents": ("steps: 3\n---\nsteps: 4", "not YAML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_out_of_range_is_one_line_at_once(kind: str, tmp_path: Path) -> None:
    text, message = HOSTILE[kind]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_bytes_that_are_not_text_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.read(path)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("optimizer: {learning_rate: 1e-3}", "optimizer.learning_rate", 1e-3),
        ("steps: 1e3", "steps", 1000),
        ("model: {options: {dropout: 5e-1}}", "model.options.dropout", 0.5),
        ("model: {name: 2026-11-27}", "model.name", "2026-11-27"),
        ("seed: 1764254628123456", "seed", 1764254628123456),
        ("x: &x {steps: 3}\n", "", None),
    ],
)
def test_numbers_and_dates_are_read_as_people_write_them(
    text: str, path: str, value: Any, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    if value is None:
        with pytest.raises(InputError, match="unknown recipe field"):
            Recipe.read(file)
    else:
        assert dict(flat(Recipe.read(file).model_dump(mode="json")))[path] == value


@pytest.mark.parametrize(
    "changes",
    [{"steps": 10**30}, {"seed": 2**64}, {"model.options.depth": 2e6}, {"temperature": float("inf")}],
)
def test_overrides_have_the_same_bounds(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the changed recipe"):
        Recipe().with_changes(changes)


TRUTHS = {"optimizer.nesterov", "measuring.weak_test_variance", "measuring.spectra"}
FIELDS = {path for path, _ in flat(Recipe().model_dump(mode="json"))} - TRUTHS - {"model.options"}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("field", sorted(FIELDS))
def test_true_and_false_are_no_numbers_in_any_field(field: str, value: bool, tmp_path: Path) -> None:
    """Python counts them as 1 and 0: `steps: true` was one step."""
    *parents, last = field.split(".")
    for written in (value, [value]):
        with pytest.raises(InputError, match=rf"the changed recipe: {field}"):
            Recipe().with_changes({field: written})
        values: dict[str, Any] = {last: written}
        for name in reversed(parents):
            values = {name: values}
        (tmp_path / "recipe.yaml").write_text(json.dumps(values))
        with pytest.raises(InputError, match=rf"{field}: .*(true and false|valid)") as caught:
            Recipe.read(tmp_path / "recipe.yaml")
        assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("field", sorted(TRUTHS))
def test_fields_that_are_true_or_false(field: str) -> None:
    assert dict(flat(Recipe().with_changes({field: False}).model_dump(mode="json")))[field] is False


def test_a_stats_device_that_is_not_set_leaves_recipes_as_they_were() -> None:
    recipe, name = Recipe(), "stats_device"
    assert name not in recipe.model_dump(mode="json")["measuring"]
    assert name in yaml.safe_load(recipe.to_yaml())["measuring"]
    changed = recipe.with_changes({"measuring.stats_device": "cpu"})
    assert changed.model_dump(mode="json")["measuring"][name] == "cpu"
    assert Recipe.parse(changed.model_dump(mode="json"), "here") == changed != recipe
    assert changed.with_changes({"measuring.stats_device": None}) == recipe


def test_a_stop_loss_that_is_the_default_leaves_recipes_as_they_were() -> None:
    recipe, name = Recipe(stop_below_loss=0.1), "stop_loss"
    assert name not in recipe.model_dump(mode="json")
    assert yaml.safe_load(recipe.to_yaml())[name] == "batches"
    changed = recipe.with_changes({name: "evaluation"})
    assert changed.model_dump(mode="json")[name] == "evaluation"
    assert "stop_loss evaluation" in changed.in_one_line()
    assert Recipe.parse(changed.model_dump(mode="json"), "here") == changed != recipe
    assert changed.with_changes({name: "batches"}) == recipe
    with pytest.raises(InputError, match="stop_loss: got 'loss'"):
        recipe.with_changes({name: "loss"})
