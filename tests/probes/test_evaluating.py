"""`evaluating`: whatever a forward pass writes is put back, bit by bit and in place."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapselab.probes import storages
from collapselab.probes.evaluating import evaluating

pytestmark = pytest.mark.filterwarnings("ignore:.*changes its own state")


class Holder(nn.Module):
    """Holds tensors in every way a module can."""

    def __init__(self, act: Callable[[Holder], object]) -> None:
        super().__init__()
        self.act = act
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.layer.weight
        strange = torch.tensor([float("nan"), -0.0, float("inf"), 1.0])
        strange.view(torch.int32)[0] += 5  # another NaN than torch's own
        self.register_buffer("strange", strange)
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("part", torch.arange(10.0)[2:8:2], persistent=False)
        self.register_buffer("wide", torch.ones(1, 1).expand(3, 3))
        self.register_buffer("missing", None)
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.bool, torch.uint8):
            self.register_buffer(f"of_{dtype}".replace(".", "_"), torch.ones(3, dtype=dtype))
        self.tensors: list[Any]
        self.plain, self.count, self.name = torch.ones(2), 0, "a"
        self.tensors = [torch.zeros(2), {"x": torch.zeros(2)}]
        self.places: Any = OrderedDict(a=deque([1, 2]), b={3})

    def forward(self, inputs: Tensor) -> Tensor:
        self.act(self)
        return self.norm(self.layer(inputs))


def bits(value: Any) -> Any:
    """What can be compared exactly, down to the signs of zeros."""
    if isinstance(value, Tensor):
        content = value.detach().contiguous().flatten().view(torch.uint8).tolist() if value.numel() else []
        return ("tensor", value.shape, value.stride(), value.dtype, value.requires_grad, content)
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | deque) else value


def everything(model: nn.Module) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "act"}
        groups = {group: dict(vars(module)[group]) for group in ("_parameters", "_buffers")}
        out[name] = bits(own | groups) | {"modules": list(vars(module)["_modules"].items())}
        out[name] |= {"kept": sorted(vars(module)["_non_persistent_buffers_set"])}
    return out


def identities(model: nn.Module) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers()]
    return [(id(tensor), tensor.data_ptr()) for tensor in tensors]


@torch.no_grad()
def _in_place(model: Holder) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.numel() and tensor is not model.get_buffer("wide"):
            tensor.add_(1)
    model.get_buffer("wide")[:, :1].expand(3, 3)[0, 0] = 5


def _through_data(model: Holder) -> None:
    model.layer.weight.data = model.layer.weight.data * 2
    model.norm.weight.data.mul_(3)
    model.get_buffer("strange").data[1] = 0.0  # a zero with another sign


def _resized(model: Holder) -> None:
    empty, part = model.get_buffer("empty"), model.get_buffer("part")
    empty.resize_(6).fill_(2)
    part.set_(torch.zeros(9).untyped_storage(), 0, (9,), (1,))
    model.plain.resize_(50)


def _replaced(model: Holder) -> None:
    model.layer.weight = nn.Parameter(torch.ones(4, 3))
    model.register_buffer("part", torch.ones(1))
    model.missing = torch.ones(1)
    model.norm = nn.BatchNorm1d(4)
    model.added = nn.Linear(2, 2)
    model.register_buffer("new", torch.ones(1), persistent=False)
    model.__dict__["flag"] = True
    if hasattr(model, "plain"):  # in the second pass it is gone
        del model.plain, model.strange


def _attributes(model: Holder) -> None:
    model.count += 1
    model.name = "b"
    model.tensors[0] += 1
    model.tensors[1]["x"] = torch.ones(3)
    model.tensors.append(torch.ones(1))
    model.places["a"].append(3)
    model.places["b"].clear()
    model.places.move_to_end("a")


def _flags(model: Holder) -> None:
    model.layer.weight.requires_grad_(False)
    model.norm.train()
    model.tied.bias.grad = torch.ones(4)


def _gradients(model: Holder) -> None:
    with torch.enable_grad():
        nn.functional.linear(torch.ones(2, 3), model.layer.weight).sum().backward()


@pytest.mark.parametrize(
    "act", [_in_place, _through_data, _resized, _replaced, _attributes, _flags, _gradients]
)
def test_whatever_forward_writes_is_put_back(act: Callable[[Holder], object]) -> None:
    model = Holder(act)
    model.layer.weight.grad = torch.full((4, 3), 2.0)
    model.norm.eval()
    before, places, gradient = everything(model), identities(model), model.layer.weight.grad
    for error in (None, ZeroDivisionError, KeyboardInterrupt):
        try:
            with evaluating(model):
                assert not model.training
                model(torch.ones(2, 3))
                model(torch.ones(2, 3))
                if error is not None:
                    raise error
        except (ZeroDivisionError, KeyboardInterrupt):
            pass
        assert everything(model) == before
        assert identities(model) == places
        assert model.tied.weight is model.layer.weight
        assert model.layer.weight.grad is gradient
        assert gradient.unique().tolist() == [2.0]
        assert model.tied.bias.grad is None


def test_tensors_that_autograd_does_not_count_versions_of() -> None:
    with torch.inference_mode():
        layer, norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
    model = nn.Sequential(layer, norm)
    before = everything(model)
    with evaluating(model), torch.inference_mode():
        layer.weight.fill_(7.0)
        norm.get_buffer("running_mean").add_(1)
    assert everything(model) == before


def test_an_optimiser_keeps_its_parameters() -> None:
    model = Holder(_through_data)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    weight = model.layer.weight.detach().clone()
    with evaluating(model):
        model(torch.ones(2, 3))
    model.layer.weight.grad = torch.ones(4, 3)
    optimizer.step()
    assert torch.equal(model.layer.weight, weight - 1)


def test_wrapped_tensors_are_put_back_part_by_part() -> None:
    two = pytest.importorskip("torch.testing._internal.two_tensor")
    model = nn.Linear(2, 2)
    weight: Any = nn.Parameter(two.TwoTensor(torch.ones(2, 2), torch.zeros(2, 2)))
    model.weight = weight
    with evaluating(model):
        model.weight.add_(1)
        assert weight.a.sum() == 8
    assert (weight.a.sum(), weight.b.sum()) == (4, 0)


def test_without_room_for_a_copy_a_change_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "_free_memory", lambda _: 0)
    model = nn.Linear(2, 2)
    with evaluating(model):
        model(torch.ones(1, 2))
    with (
        pytest.warns(
            UserWarning, match="Linear changed bias while it was measured, which could not be restored"
        ),
        evaluating(model),
    ):
        model.bias.add_(1)


def test_modules_that_do_something_in_eval_and_train_have_it_undone() -> None:
    calls: list[bool] = []

    class Loud(nn.Linear):
        def train(self, mode: bool = True) -> Loud:
            calls.append(mode)
            return super().train(mode)

    model = nn.Sequential(Loud(2, 2), nn.Dropout())
    model[1].eval()
    calls.clear()
    with evaluating(model):
        assert calls == [False]
        seen = list(calls)
    assert seen == [False]
    assert [module.training for module in model.modules()] == [True, True, False]
