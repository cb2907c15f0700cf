"""Networks with shared weights, and networks that cannot be trained: one line each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_user_networks import HOLDERS, assert_same, trained, user_recipe

from collapselab import InputError
from collapselab.models import load_checkpoint, open_model
from collapselab.training import RunFolder, run_recipe
from collapselab.training.plain import digest
from collapselab.training.state import HostState, NetworkState

# -------------------------------------------------------------------- shared weights


def test_tied_weights_are_saved_once_and_restored_tied(tmp_path: Path) -> None:
    recipe, folder = user_recipe(tmp_path, HOLDERS["tied"]), RunFolder(tmp_path / "run")
    saved = trained(recipe, folder)
    assert {name for name in saved if "mid" in name or "again" in name or "alias" in name} == {
        "mid.weight", "mid.bias", "again.bias",
    }  # fmt: skip
    model = open_model(recipe.model.name, num_classes=10, input_shape=(64,))
    load_checkpoint(model, folder.weights_path(recipe.steps))
    state = model.state_dict()
    for name in ("mid.weight", "again.weight", "alias.weight"):
        assert torch.equal(state[name], saved["mid.weight"])
    assert model.get_parameter("again.weight") is model.get_parameter("mid.weight")


def test_a_checkpoint_without_a_weight_that_is_not_tied_is_refused(tmp_path: Path) -> None:
    recipe, folder = user_recipe(tmp_path, HOLDERS["tied"]), RunFolder(tmp_path / "run")
    trained(recipe, folder)
    loose = HOLDERS["tied"].replace("self.again.weight = self.mid.weight", "")
    model = open_model(user_recipe(tmp_path, loose).model.name, num_classes=10, input_shape=(64,))
    with pytest.raises(InputError, match=r"1 missing \(again.weight\)"):
        load_checkpoint(model, folder.weights_path(recipe.steps))


# -------------------------------------------------------------------- mistakes

# What is wrong, where the run stops, and what the line says.
MISTAKES = {
    "wrong width": (
        "self.last = nn.Linear(9, 10)",
        "",
        r"net\.py, line 16: RuntimeError: .*check that the model takes",
    ),
    "too few outputs": (
        "self.last = nn.Linear(8, 3)",
        "",
        r"a tensor of shape \(60, 3\), but training needs class scores of 10",
    ),
    "one output": ("self.last = nn.Linear(8, 1)", "", r"shape \(60, 1\)"),
    "scalar": ("", "return h.sum()", r"RuntimeError|shape"),
    "raises": ("", "raise ValueError('no\\nluck')", r"net\.py, line 26: ValueError: no luck"),
    "exits": ("", "import sys; sys.exit(0)", r"net\.py, line 26: SystemExit: 0"),
    "exits in training": (
        "",
        "exit() if self.training else 0\n        return h",
        r"net\.py, line 26: SystemExit",
    ),
    "two outputs": (
        "",
        "return h",
        r"a tuple \(\(60, 10\), \(60, 10\)\), none of which is clearly class scores of 10",
    ),
    "no grad": ("", "return h", r"do not depend on parameters"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_model_is_one_line(mistake: str, tmp_path: Path) -> None:
    begin, change, message = MISTAKES[mistake]
    code = f"class Net(Base):\n    def begin(self):\n        {begin or 'pass'}\n    def change(self, h):\n        {change or 'return h'}\n"
    if mistake == "two outputs":
        code += "    def forward(self, x):\n        return super().forward(x), -super().forward(x)\n"
    if mistake == "no grad":
        code += "    def forward(self, x):\n        return super().forward(x).detach()\n"
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=message) as caught:
        run_recipe(user_recipe(tmp_path, code), folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


OUTPUTS = {
    "a dict": "return {'features': h, 'logits': self.last(h)}",
    "a tuple": "return self.last(h), h",
    "beside an auxiliary head": "return {'aux_head': self.last(-h), 'main': self.last(h)}",
    "an object": "from types import SimpleNamespace; return SimpleNamespace(logits=self.last(h))",
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_class_scores_are_found_in_other_outputs(form: str, tmp_path: Path) -> None:
    """The same weights as with the scores alone."""
    plain = trained(user_recipe(tmp_path, "class Net(Base): ...\n"), RunFolder(tmp_path / "plain"))
    code = f"class Net(Base):\n    def forward(self, x):\n        h = self.first(x).relu()\n        {OUTPUTS[form]}\n"
    assert_same(plain, trained(user_recipe(tmp_path, code), RunFolder(tmp_path / "other")))


NOT_TRAINABLE = {
    "no parameters": ("class Net(nn.Flatten): ...", "no parameters that are trained"),
    "frozen": ("class Net(Base):\n    def begin(self): self.requires_grad_(False)", "no parameters that are trained"),
    "sparse buffer": (
        "class Net(Base):\n    def begin(self): self.register_buffer('a', torch.eye(3).to_sparse())",
        "a is sparse, which a checkpoint cannot store",
    ),
    "meta": ("class Net(Base):\n    def begin(self): self.to('meta')", "network on the meta device"),
    "extra state of another kind": (
        "class Net(Base):\n    def get_extra_state(self): return {'f': open}\n    def set_extra_state(self, s): ...",
        "get_extra_state of the network: returns a dict that cannot be stored",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_TRAINABLE)
def test_what_cannot_be_trained_or_saved_is_said_before_the_first_step(kind: str, tmp_path: Path) -> None:
    code, message = NOT_TRAINABLE[kind]
    steps: list[int] = []
    with pytest.raises(InputError, match=message) as caught:
        run_recipe(
            user_recipe(tmp_path, code + "\n"),
            RunFolder(tmp_path / "run"),
            lambda done, *_: steps.append(done),
        )
    assert len(str(caught.value)) <= 300
    assert not any(steps)


NANS = {
    "from the start": "return h * float('nan')",
    "in training": "return h * float('nan') if self.training else h",
    "after some steps": "self.n = self.n + 1 if self.training else self.n; return h / (0 if self.n > 4 else 1)",
}


@pytest.mark.filterwarnings("ignore:.*changes its own state in evaluation mode")
@pytest.mark.parametrize("when", NANS)
def test_training_on_nan_is_diverged(when: str, tmp_path: Path) -> None:
    code = f"class Net(Base):\n    n = 0\n    def change(self, h):\n        {NANS[when]}\n"
    folder = RunFolder(tmp_path / "run")
    record = run_recipe(user_recipe(tmp_path, code), folder)
    assert (record.status, record.ended) == ("finished", "diverged")
    assert {row.step for row in folder.read_rows()} == {"from the start": set(), "in training": {0}}.get(
        when, {0, 1}
    )


ON_HOST = {
    "numpy_random", "torch_generator", "numpy_generators_in_a_dict", "generator_of_the_file", "counter",
    "buffer_outside_the_state_dict", "tensors_made_in_forward", "own_object", "frozen_after_some_steps",
    "weight_norm_and_dropout",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("holder", sorted(ON_HOST | {"recurrent", "tied", "views_of_one_storage"}))
def test_what_a_captured_step_would_leave_out_is_noticed_and_undone(
    holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU such networks are not captured."""
    # The type checks of these tests draw from Python's own generator.
    still = SimpleNamespace(getstate=lambda: (3, (1, 2), None), setstate=lambda _: None)
    monkeypatch.setattr("collapselab.training.state.random", still)
    model = open_model(user_recipe(tmp_path, HOLDERS[holder]).model.name, num_classes=10, input_shape=(64,))
    before, host = digest(NetworkState(model).capture()["attributes"]), HostState(model)
    attributes = {name: dict(vars(part)) for name, part in model.named_modules()}
    outputs = model(torch.ones(5, 64))
    model(torch.ones(5, 64))
    assert host.put_back() == (holder in ON_HOST)
    assert digest(NetworkState(model).capture()["attributes"]) == before
    assert {name: vars(part).keys() for name, part in model.named_modules()} == {
        name: values.keys() for name, values in attributes.items()
    }
    if holder not in ("frozen_after_some_steps", "weight_norm_and_dropout"):  # they change tensors too
        assert torch.equal(model(torch.ones(5, 64)), outputs)
