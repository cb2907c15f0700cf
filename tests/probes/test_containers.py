"""Batches in containers of every kind reach the model as they are, and modules are read whatever they are called with."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils.checkpoint
from by_hand import assert_equals_oracle
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes import Profile, profile
from collapselab.probes.containers import moved

LABELS = uneven(21, 24, 15)
INPUTS = draw(5, labels=LABELS)
PAIRS = batches(INPUTS, LABELS, 16)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 7), nn.Linear(7, 3)

    def scores(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(inputs).tanh())


class Net(Layers):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(inputs).tanh())


class ByName(Layers):
    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return self.scores(x * scale)


class Whole(Layers):
    """Takes the batch, and insists on its type."""

    kind: type = object

    def forward(self, batch: Any) -> Tensor:
        assert type(batch) is self.kind
        return self.scores(batch["x"] if isinstance(batch, MutableMapping) else batch.x)


def whole(kind: type) -> nn.Module:
    model = seeded(Whole)
    model.kind = kind
    return model


def check(found: Profile) -> None:
    """The numbers of `Net` on the inputs."""
    model = seeded(Net)
    assert [layer.name for layer in found.layers] == ["hidden", "head"]
    assert_equals_oracle(found["hidden"], INPUTS, LABELS)
    assert_equals_oracle(found["head"], model.hidden(INPUTS).tanh(), LABELS)
    assert found["head"].train["ncc_agreement"] is not None


# ---------------------------------------------------------------- batches


class LabelFirst(NamedTuple):
    target: Tensor
    x: Tensor


class Scaled(NamedTuple):
    scale: Tensor
    labels: Tensor
    x: Tensor


class OtherNames(NamedTuple):
    images: Tensor
    sizes: Tensor
    y: Tensor


class OnlyInputs(NamedTuple):
    x: Tensor
    ids: Tensor


@dataclasses.dataclass(frozen=True)
class Record:
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class NamedRecord:
    x: Tensor
    name: str
    labels: Tensor


class Graphs:
    """A batch of graphs as `torch_geometric` has it: moved in place, read by attribute."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.batch = x, y, torch.arange(len(x))

    def to(self, device: torch.device) -> Graphs:
        self.x, self.y = self.x.to(device), self.y.to(device)
        return self


class Store(MutableMapping[str, Any]):
    """A mapping with an inner dictionary that a shallow copy would share."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries[key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


Make = Callable[[Tensor, Tensor], Any]
FORMS: dict[str, tuple[Make, Callable[[], nn.Module]]] = {
    "named tuple, labels first": (lambda x, y: LabelFirst(y, x), lambda: seeded(Net)),
    "named tuple, by name": (lambda x, y: Scaled(torch.ones(len(x), 1), y, x), lambda: seeded(ByName)),
    "named tuple as the input": (lambda x, y: (OnlyInputs(x, y), y), lambda: whole(OnlyInputs)),
    "frozen dataclass, by name": (Record, lambda: seeded(ByName)),
    "frozen dataclass, whole": (Record, lambda: whole(Record)),
    "dataclass with more than the model takes": (lambda x, y: NamedRecord(x, "a", y), lambda: whole(NamedRecord)),
    "graphs": (Graphs, lambda: whole(Graphs)),
    "graphs with labels beside them": (lambda x, y: (Graphs(x, y), y), lambda: whole(Graphs)),
    "UserDict by keyword": (lambda x, y: collections.UserDict(x=x, y=y), lambda: seeded(ByName)),
    "UserDict whole": (lambda x, y: collections.UserDict(x=x, y=y), lambda: whole(collections.UserDict)),
    "OrderedDict whole": (lambda x, y: collections.OrderedDict(x=x, label=y), lambda: whole(collections.OrderedDict)),
    "a mapping of one's own by keyword": (lambda x, y: Store({"x": x, "y": y}), lambda: seeded(ByName)),
    "a mapping of one's own, whole": (lambda x, y: Store({"x": x, "y": y}), lambda: whole(Store)),
    "a mapping with labels beside it": (lambda x, y: [{"x": x}, y], lambda: seeded(ByName)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_container_reaches_the_model_as_it_is(form: str) -> None:
    make, build = FORMS[form]
    train = [make(x, y) for x, y in PAIRS]
    check(profile(build(), train))
    check(profile(build(), train))  # reading leaves the batches as they were


def test_names_that_the_model_does_not_have_are_positions() -> None:
    class Two(Layers):
        def forward(self, maps: Tensor, scale: Tensor) -> Tensor:
            return self.scores(maps * scale)

    check(profile(seeded(Two), [OtherNames(x, torch.ones(len(x), 1), y) for x, y in PAIRS]))


def test_an_encoding_of_transformers_stays_one() -> None:
    encoding = pytest.importorskip("transformers").BatchEncoding

    class Encoded(Layers):
        def forward(self, batch: Any) -> Tensor:
            assert type(batch) is encoding
            assert batch.n_sequences == 1
            return self.scores(batch.x)

    train = [(encoding({"x": x}, n_sequences=1), y) for x, y in PAIRS]
    check(profile(seeded(Encoded), train))
    check(profile(seeded(ByName), [encoding({"x": x, "labels": y}) for x, y in PAIRS]))


def test_moving_changes_no_container_of_the_user() -> None:
    x, y = PAIRS[0]
    meta = torch.device("meta")
    values: list[Any] = [
        Graphs(x, y), Record(x, y), collections.UserDict(x=x), collections.OrderedDict(x=x), {"x": [x]}, Store({"x": x}),
    ]  # fmt: skip
    for value in values:
        other = moved(value, meta)
        inner = other["x"] if hasattr(other, "keys") else other.x
        assert (inner[0] if isinstance(inner, list) else inner).is_meta, type(value)
        inner = value["x"] if hasattr(value, "keys") else value.x
        assert not (inner[0] if isinstance(inner, list) else inner).is_meta, type(value)


def test_what_cannot_be_moved_is_passed_on() -> None:
    class Route:
        def to(self) -> str:
            return "elsewhere"

    route = Route()
    assert moved([route, "text", 3, None], torch.device("cpu")) == [route, "text", 3, None]


# ---------------------------------------------------------------- how modules are called


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 7)

    def forward(self, given: Any = None, *, keyword: Tensor | None = None) -> Tensor:
        while not isinstance(given, Tensor | None):
            given = next(iter(given.values())) if isinstance(given, dict) else given[0]
        return self.inner(keyword if given is None else given)


class Caller(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.block, self.head = how, Block(), nn.Linear(7, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        block = self.block
        hidden = {
            "keyword": lambda: block(keyword=inputs),
            "tuple": lambda: block((inputs, inputs + 1)),
            "nested list": lambda: block([[inputs], 3]),
            "mapping": lambda: block({"first": inputs, "second": None}),
            "after None": lambda: block(None, keyword=inputs),
        }[self.how]()
        return self.head(hidden)


@pytest.mark.parametrize("how", ["keyword", "tuple", "nested list", "mapping", "after None"])
def test_a_module_reads_the_first_tensor_that_it_is_given(how: str) -> None:
    model = seeded(Caller, how)
    found = profile(model, PAIRS, layers=["block", "head"])
    assert_equals_oracle(found["block"], INPUTS, LABELS)
    assert_equals_oracle(found["head"], model.block.inner(INPUTS), LABELS)


def test_a_module_without_a_tensor_is_left_out() -> None:
    class Prompted(Net):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = Prompt()

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs + self.prompt())

    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.ones(5))

        def forward(self) -> Tensor:
            return self.value

    model = seeded(Prompted)
    found = profile(model, PAIRS, layers=lambda name, _: name in ("prompt", "hidden"))
    assert_equals_oracle(found["hidden"], INPUTS + 1, LABELS)
    assert found.warnings[0] == "layers: prompt is left out: it reads no tensor"
    with pytest.raises(InputError, match="layers: prompt cannot be measured: it reads no tensor"):
        profile(model, PAIRS, layers="prompt")


def test_a_hook_of_the_user_that_changes_the_input_comes_first() -> None:
    model = seeded(Net)
    model.hidden.register_forward_pre_hook(lambda _, args: (2 * args[0] + 1,))
    model.head.register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0].square(),), kwargs), with_kwargs=True
    )
    model.hidden.register_forward_hook(lambda _, args, output: output - 3)
    found = profile(model, PAIRS)
    features = (
        (nn.functional.linear(2 * INPUTS + 1, model.hidden.weight, model.hidden.bias) - 3).tanh().square()
    )
    assert_equals_oracle(found["hidden"], 2 * INPUTS + 1, LABELS)
    assert_equals_oracle(found["head"], features, LABELS)


def test_layers_that_run_in_threads() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(Net() for _ in range(4))

        def forward(self, inputs: Tensor) -> Tensor:
            with ThreadPoolExecutor(4) as threads:
                return torch.stack(list(threads.map(lambda member: member(inputs), self.members))).mean(0)

    model = seeded(Ensemble)
    for _ in range(5):
        found = profile(model, PAIRS)
        for index, member in enumerate(model.members):
            assert_equals_oracle(found[f"members.{index}.hidden"], INPUTS, LABELS)
            assert_equals_oracle(found[f"members.{index}.head"], member.hidden(INPUTS).tanh(), LABELS)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointed_layers_are_read_once(reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, inputs: Tensor) -> Tensor:
            body = lambda x: self.hidden(x).tanh()  # noqa: E731
            return self.head(torch.utils.checkpoint.checkpoint(body, inputs, use_reentrant=reentrant))

    check(profile(seeded(Checkpointed), PAIRS))


def test_checkpoint_wrappers_change_no_name() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = seeded(Net)
    model.hidden = checkpoint_wrapper(model.hidden)
    check(profile(model, PAIRS))
    assert [layer.name for layer in profile(model, PAIRS, layers="hid*").layers] == ["hidden"]


def test_data_parallel_is_its_module() -> None:
    found = profile(nn.DataParallel(seeded(Net)), PAIRS)
    check(found)
    assert found.model == "Net"


def test_an_early_exit_is_left_out_or_refused() -> None:
    class Early(Net):
        def __init__(self, exits: bool) -> None:
            super().__init__()
            self.exits, self.late = exits, nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            scores = super().forward(inputs)
            return scores if self.exits or bool(inputs[0, 0] == INPUTS[16, 0]) else self.late(scores)

    found = profile(seeded(Early, True), PAIRS)
    check(found)
    assert any("late never ran" in text for text in found.warnings)
    with pytest.raises(InputError, match="train, batch 1: late did not run, as it did in the first batch"):
        profile(seeded(Early, False), PAIRS)


# ---------------------------------------------------------------- models that are no Python any more


def test_a_traced_graph_is_measured_and_an_exported_program_refused() -> None:
    check(profile(torch.fx.symbolic_trace(seeded(Net)), PAIRS))
    exported = torch.export.export(seeded(Net), (INPUTS[:16],)).module()
    with pytest.raises(InputError, match=r"the model is a torch.export program"):
        profile(exported, PAIRS)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_model_is_refused_and_a_scripted_part_left_out() -> None:
    scripted: Any = torch.jit.script(seeded(Net))
    traced: Any = torch.jit.trace(seeded(Net), PAIRS[0][0])
    for model in (scripted, traced):
        with pytest.raises(InputError, match=r"a torch.jit module: its layers run outside Python"):
            profile(model, PAIRS)
    model = seeded(nn.Sequential, scripted, nn.Linear(3, 3))
    found = profile(model, PAIRS)
    assert_equals_oracle(found["1"], seeded(Net)(INPUTS), LABELS)
    assert any("0 is a torch.jit module" in text and "left out" in text for text in found.warnings)
    for name in ("0", "0.hidden"):
        with pytest.raises(InputError, match=r"layers: 0 is a torch.jit module"):
            profile(model, PAIRS, layers=name)
