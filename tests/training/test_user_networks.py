"""Networks of users' files in training: they resume exactly whatever they hold, and their mistakes are one line."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from collapselab import InputError
from collapselab.models import load_checkpoint, open_model
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.plain import digest
from collapselab.training.state import HostState, NetworkState

HEAD = """
import random
from collections import Counter, deque
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)
        self.begin()
    def begin(self): ...
    def forward(self, x):
        return self.last(self.change(self.first(x).relu()))
    def change(self, h):
        return h

def build():
    return Net()
"""
# What a network does with its hidden features in training; each makes the next step depend on something unusual.
HOLDERS = {
    "numpy_random": """
        class Net(Base):
            def change(self, h):
                return h * float(np.random.standard_normal()) if self.training else h
    """,
    "torch_generator": """
        class Net(Base):
            def begin(self):
                self.generator = torch.Generator().manual_seed(3)
            def change(self, h):
                return h * torch.rand(h.shape, generator=self.generator) if self.training else h
    """,
    "numpy_generators_in_a_dict": """
        class Net(Base):
            def begin(self):
                self.rngs = {"new": np.random.default_rng(1), "old": np.random.RandomState(2), "own": random.Random(3)}
            def change(self, h):
                if not self.training:
                    return h
                rngs = self.rngs
                return h * float(rngs["new"].random() + rngs["old"].rand() + rngs["own"].random())
    """,
    "generator_of_the_file": """
        RNG = np.random.Generator(np.random.MT19937(5))
        CALLS = 0
        class Net(Base):
            def change(self, h):
                global CALLS
                if self.training:
                    CALLS += 1
                    return h * (float(RNG.random()) + 1 / CALLS)
                return h
    """,
    "counter": """
        class Net(Base):
            def begin(self):
                self.calls, self.history, self.seen = 0, deque(maxlen=3), Counter()
            def change(self, h):
                if self.training:
                    self.calls += 1
                    self.history.append(float(h.detach().mean()))
                    self.seen[self.calls % 3] += 1
                    return h * (1 + 1 / self.calls) + sum(self.history) + self.seen[0]
                return h
    """,
    "buffer_outside_the_state_dict": """
        class Net(Base):
            def begin(self):
                self.register_buffer("mean", torch.zeros(8), persistent=False)
                self.register_buffer("late", None, persistent=False)
            def change(self, h):
                if self.training:
                    self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
                    self.late = h.detach().std() if self.late is None else self.late * 0.9
                return h - self.mean + (0 if self.late is None else self.late)
    """,
    "tensors_made_in_forward": """
        class Net(Base):
            def begin(self):
                self.bank = []
            def change(self, h):
                if self.training:
                    self.bank = [*self.bank, (h.detach().mean(0), np.float32(len(self.bank)))][-2:]
                    if not hasattr(self, "scale"):
                        self.scale = torch.ones(())
                    self.scale = self.scale * 0.99
                    return h * self.scale + sum(mean for mean, _ in self.bank) + float(self.bank[-1][1])
                return h
    """,
    "hidden_teacher": """
        class Net(Base):
            def begin(self):
                self.teachers = [nn.Linear(8, 8)]
            def change(self, h):
                teacher = self.teachers[0]
                if self.training:
                    with torch.no_grad():
                        teacher.weight.mul_(0.9).add_(0.1 * self.first.weight[:, :8])
                return h + teacher(h).detach()
    """,
    "own_object": """
        class Meter:
            def __init__(self):
                self.total, self.parent = 0.0, self
        class Net(Base):
            def begin(self):
                self.meter = Meter()
            def change(self, h):
                if self.training:
                    self.meter.total += float(h.detach().mean())
                    return h + self.meter.total
                return h
    """,
    "extra_state": """
        class Hidden:
            __slots__ = ("value",)
        class Net(Base):
            def begin(self):
                self.hidden = Hidden()
                self.hidden.value = 1.0
            def get_extra_state(self):
                return {"value": (self.hidden.value, np.float64(2)), "seen": {1, 2}}
            def set_extra_state(self, state):
                assert state["seen"] == {1, 2}
                self.hidden.value, two = state["value"]
            def change(self, h):
                if self.training:
                    self.hidden.value *= 1.05
                return h * self.hidden.value
    """,
    "frozen_after_some_steps": """
        class Net(Base):
            def begin(self):
                self.calls, self.norm = 0, nn.BatchNorm1d(8)
            def change(self, h):
                self.calls += self.training
                if self.calls == 5:
                    self.first.weight.requires_grad_(False)
                    self.norm.eval()
                return self.norm(h)
    """,
    "weight_norm_and_dropout": """
        class Net(Base):
            def begin(self):
                self.mid = nn.utils.weight_norm(nn.Linear(8, 8))
                self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
            def change(self, h):
                return F.dropout(self.spectral(self.mid(h)), 0.2, self.training)
    """,
    "recurrent": """
        class Net(Base):
            def begin(self):
                self.rnn = nn.GRU(8, 8, batch_first=True)
            def change(self, h):
                return self.rnn(h[:, None])[0][:, 0]
    """,
    "lazy": """
        class Net(Base):
            def begin(self):
                self.mid = nn.LazyLinear(8)
            def change(self, h):
                return self.mid(h)
    """,
    "tied": """
        class Net(Base):
            def begin(self):
                self.mid, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
                self.again.weight = self.mid.weight
                self.alias = self.mid
            def change(self, h):
                return self.again(self.mid(h).relu()) + self.alias(h)
    """,
    "views_of_one_storage": """
        class Net(Base):
            def begin(self):
                flat = torch.randn(80) * 0.1
                self.a, self.b = nn.Parameter(flat[:64].view(8, 8)), nn.Parameter(flat[64:72])
                self.register_buffer("whole", flat)
                self.register_buffer("wide", torch.ones(1).expand(8))
            def change(self, h):
                return h @ self.a + self.b + self.whole[:8] * self.wide
    """,
}
ONCE = ("normalized_within",)


def user_recipe(tmp_path: Path, code: str, **changes: Any) -> Recipe:
    """A run of the network `Net` of a file with this code."""
    file = tmp_path / "net.py"
    file.write_text(HEAD + textwrap.dedent(code))
    from tests.conftest import tiny

    values = {
        "model": ModelSpec(name=f"{file}:build"),
        "steps": 12,
        "measuring": Measuring(count=2, metrics=ONCE, spectra=False, weak_test_variance=False),
        "checkpoints": Checkpoints(at="last", save_every=0),
    }
    return tiny(**(values | changes))


def trained(recipe: Recipe, folder: RunFolder, stops: tuple[Stopper, ...] = ()) -> dict[str, Tensor]:
    """Weights at the end of a run that is stopped as often as there are `stops`."""
    for stopper in stops:
        with pytest.raises(RunInterrupted):
            run_recipe(recipe, folder, stopper=stopper)
    run_recipe(recipe, folder)
    return folder.read_weights(recipe.steps)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_stopped_run_goes_on_bit_for_bit(
    holder: str, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    recipe = user_recipe(tmp_path, HOLDERS[holder])
    whole = trained(recipe, RunFolder(tmp_path / "whole"))
    # After 6 steps; a counter also after 2 more.
    stops = (stop_at(7), stop_at(3)) if holder == "counter" else (stop_at(7),)
    stopped = trained(recipe, RunFolder(tmp_path / "stopped"), stops)
    assert_same(whole, stopped)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("holder", ["numpy_random", "torch_generator", "hidden_teacher"])
def test_measuring_often_changes_nothing(holder: str, tmp_path: Path) -> None:
    few = user_recipe(tmp_path, HOLDERS[holder])
    many = few.model_copy(update={"measuring": few.measuring.model_copy(update={"at": tuple(range(13))})})
    assert_same(trained(few, RunFolder(tmp_path / "few")), trained(many, RunFolder(tmp_path / "many")))


# The type checks of these tests draw from Python's own generator, so a network that does needs a process without them.
PYTHON_RANDOM = """
class Net(Base):
    def change(self, h):
        return h * random.random() + random.gauss(0, 1) if self.training else h
"""
RUNS = """
import sys
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.plain import digest
from collapselab.training.state import HostState, NetworkState

class After(Stopper):
    left = 4
    @property
    def reason(self):
        self.left -= 1
        return None if self.left else "out of time"

whole, stopped, often = (RunFolder(sys.argv[2] + name) for name in ("/whole", "/stopped", "/often"))
recipe = Recipe.model_validate_json(sys.argv[1])
run_recipe(recipe, whole)
try:
    run_recipe(recipe, stopped, stopper=After())
except RunInterrupted:
    run_recipe(recipe, stopped)
run_recipe(recipe.with_changes({"measuring.at": list(range(13))}), often)
weights = [{name: value.tolist() for name, value in folder.read_weights(12).items()} for folder in (whole, stopped, often)]
assert weights[0] == weights[1] == weights[2]
"""


def test_a_network_that_draws_from_python_resumes_exactly(tmp_path: Path) -> None:
    recipe = user_recipe(tmp_path, PYTHON_RANDOM)
    command = [sys.executable, "-c", RUNS, recipe.model_dump_json(), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)


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
        r"a tuple \(\(60, 10\), \(60, 10\)\), none of which is clearly class scores",
    ),
    "no grad": ("", "return h", r"do not depend on parameters"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_model_is_one_line(mistake: str, tmp_path: Path) -> None:
    begin, change, message = MISTAKES[mistake]
    code = f"class Net(Base):\n    def begin(self):\n        {begin or 'pass'}\n    def change(self, h):\n        {change or 'return h'}\n"
    if mistake == "two outputs":
        code += "    def forward(self, x):\n        return super().forward(x), super().forward(x)\n"
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


# What a network does in evaluation mode too.
ALWAYS = {
    "counter": """
        class Net(Base):
            def begin(self):
                self.calls = 0
            def change(self, h):
                self.calls += 1
                return h * (1 + 1 / self.calls)
    """,
    "generator": """
        class Net(Base):
            def begin(self):
                self.rng = np.random.default_rng(7)
            def change(self, h):
                return h * float(self.rng.random())
    """,
    "buffer": """
        class Net(Base):
            def begin(self):
                self.register_buffer("mean", torch.zeros(8), persistent=False)
            def change(self, h):
                self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
                return h - self.mean
    """,
    "torch": """
        class Net(Base):
            def change(self, h):
                return F.dropout(h, 0.3, True)
    """,
}


@pytest.mark.filterwarnings("ignore:.*changes its own state in evaluation mode")
@pytest.mark.parametrize("holder", ALWAYS)
def test_measuring_often_changes_nothing_in_networks_that_always_change(holder: str, tmp_path: Path) -> None:
    few = user_recipe(tmp_path, ALWAYS[holder])
    many = few.model_copy(update={"measuring": few.measuring.model_copy(update={"at": tuple(range(13))})})
    assert_same(trained(few, RunFolder(tmp_path / "few")), trained(many, RunFolder(tmp_path / "many")))
