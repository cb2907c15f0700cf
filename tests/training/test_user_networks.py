"""Networks of users' files in training: they resume exactly whatever they hold, and their mistakes are one line."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from tiny_runs import tiny

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
