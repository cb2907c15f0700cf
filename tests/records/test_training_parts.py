"""Learning rates against torch's own schedulers, and fields of training that recipes gained later."""

from typing import Any

import pytest
import torch
import yaml
from torch.optim import lr_scheduler

from collapselab import InputError
from collapselab.records.recipe import Recipe
from collapselab.records.training_parts import Schedule

STEPS, WARM_UP, PEAK, START = 40, 8, 0.4, 0.1


def _rates_of_torch(after: Any, warm_up: int) -> list[float]:
    """Learning rates of LinearLR followed by another scheduler, as torchvision's reference training chains them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = after(optimizer)
    if warm_up:
        rising = lr_scheduler.LinearLR(optimizer, start_factor=START / PEAK, total_iters=warm_up)
        scheduler = lr_scheduler.SequentialLR(optimizer, [rising, scheduler], [warm_up])
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warm_up", [0, WARM_UP])
@pytest.mark.parametrize(
    ("fields", "after"),
    [
        (
            {"name": "cosine"},
            lambda optimizer, rest: lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest),
        ),
        (
            {"name": "steps", "every": 3, "factor": 0.975},
            lambda optimizer, _: lr_scheduler.StepLR(optimizer, 3, gamma=0.975),
        ),
        ({"name": "constant"}, lambda optimizer, _: lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    ],
)
def test_learning_rates_are_those_of_torchs_schedulers(
    fields: dict[str, Any], after: Any, warm_up: int
) -> None:
    schedule = Schedule(**fields, warm_up=warm_up, warm_up_from=START if warm_up else 0.0)
    ours = [schedule.learning_rate(PEAK, step, STEPS) for step in range(STEPS)]
    theirs = _rates_of_torch(lambda optimizer: after(optimizer, STEPS - warm_up), warm_up)
    # torch multiplies step by step, in float64.
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours[0] == (START if warm_up else PEAK)


def test_milestones_as_steps_and_as_shares_count_from_the_first_step() -> None:
    schedule = Schedule(name="steps", milestones=(5,), shares=(0.5, 0.75), warm_up=2)
    rates = [schedule.learning_rate(1.0, step, 20) for step in (0, 1, 2, 4, 5, 9, 10, 14, 15, 19)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule.shares": [0.5]}, "shares and every need name steps"),
        ({"schedule.name": "steps", "schedule.shares": [1.5]}, "less than 1"),
        ({"schedule.warm_up_from": 0.1}, "warm_up_from needs warm_up"),
        ({"schedule.warm_up": 41}, "schedule.warm_up 41: there are 40 steps"),
        ({"label_smoothing": 1.0}, "label_smoothing: got 1.0"),
        ({"label_smoothing": 0.1, "loss": "mse"}, "need loss cross_entropy"),
        ({"augmentation.mixup": 0.2, "loss": "mse"}, "need loss cross_entropy"),
        ({"augmentation.cutmix": 1.0, "within_class_cosine": 0.1}, "set mixup and cutmix to 0"),
        ({"augmentation.crop": 0}, "augmentation.crop: got 0"),
        ({"augmentation.flip": 1.5}, "augmentation.flip: got 1.5"),
        ({"augmentation.auto_augment": "mnist"}, "augmentation.auto_augment: got 'mnist'"),
        ({"augmentation.rotate": 3}, "unknown recipe field"),
        ({"optimizer.decayed": "norms"}, "optimizer.decayed: got 'norms'"),
    ],
)
def test_values_that_do_not_fit_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe(steps=40).with_changes(changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


LATER = {
    "label_smoothing": 0.1,
    "within_class_cosine": 0.5,
    "augmentation.crop": 4,
    "schedule.warm_up": 3,
    "optimizer.decayed": "weights",
}


@pytest.mark.parametrize("path", LATER)
def test_later_fields_leave_earlier_recipes_as_they_were(path: str) -> None:
    recipe, place = Recipe(), path.split(".")
    values, shown = recipe.model_dump(mode="json"), yaml.safe_load(recipe.to_yaml())
    for name in place[:-1]:
        values, shown = values.get(name, {}), shown[name]
    assert place[-1] not in values
    default = shown[place[-1]]
    changed = recipe.with_changes({path: LATER[path]})
    assert Recipe.parse(changed.model_dump(mode="json"), "here") == changed != recipe
    assert f"{path} {LATER[path]}" in changed.in_one_line()
    assert changed.with_changes({path: default}).model_dump_json() == recipe.model_dump_json()
