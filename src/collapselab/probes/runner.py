"""Run batches for the plan of a network: what its modules read, what it returns, and where this comes from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.errors import InputError
from collapselab.probes.axes import Looks
from collapselab.probes.batches import Batch
from collapselab.probes.capture import Taps
from collapselab.probes.classifier import Made
from collapselab.probes.following import Follower, Following
from collapselab.probes.forward import run_model, uncompiled
from collapselab.probes.geometry import Record
from collapselab.probes.inputs import Path
from collapselab.probes.journey import Journey
from collapselab.probes.scores import ScoresOption, outputs_of
from collapselab.probes.select import all_weight_layers
from collapselab.probes.tensors import UnreadableError, ordinary

# Values of a layer's output that are kept while a network is planned.
_MAX_KEPT_VALUES = 2**20


# What runs in this context is seen by no dispatch mode.
_unfollowed = torch._C._DisableTorchDispatch


class Identity:
    """Equal for two tensors that are the same memory with no change in between.

    It does not keep the memory alive, and yet it differs from that of any later tensor at the same address.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        version = 0 if tensor.is_inference() else tensor._version
        self._view = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self._storage.cdata, self._view


@dataclass
class Call:
    """What one call of a module read and returned."""

    module_name: str
    identity: Identity
    channel_axis: int
    dtype: torch.dtype
    made: Made = field(default_factory=lambda: Made(0, None))


class Runner:
    """Runs batches, and keeps everything about the first.

    Attributes:
        calls: of the first forward pass, by name, in order.
        tensors: what it returned.
        journey: where these come from; None if it could not be followed.
        unreadable: by name of a call, what it read instead of numbers.
    """

    def __init__(
        self, model: nn.Module, modules: dict[str, nn.Module], scores: ScoresOption, follower: Follower
    ) -> None:
        self._model, self._modules, self._follower = model, modules, follower
        # The classifier is found among all weight layers, even where it is not to be measured.
        self._weight_layers = all_weight_layers(model)
        self._given = scores if callable(scores) else None
        self.calls: dict[str, Call] = {}
        self.tensors: dict[Path, Tensor] = {}
        self.journey: Journey | None = None
        self.unreadable: dict[str, str] = {}
        self._has_run = False
        self._signs: dict[torch.device, Tensor] = {}

    def __call__(self, batch: Batch, lengths: tuple[int, ...]) -> Record:
        if self._has_run:
            return self._record(batch, lengths, is_first=False)
        record = self._first(batch, lengths)
        self._has_run = True
        return record

    def _first(self, batch: Batch, lengths: tuple[int, ...]) -> Record:
        self.calls.clear()
        self.journey = Journey()  # what an earlier batch left, which could not run, is forgotten
        try:
            with Following(self._follower, self.journey):
                return self._record(batch, lengths, is_first=True)
        except InputError:  # the model cannot be followed, or cannot run at all
            self.calls.clear()
            self.journey = None
            return self._record(batch, lengths, is_first=True)

    def _record(self, batch: Batch, lengths: tuple[int, ...], *, is_first: bool) -> Record:
        calls, outputs = Looks(lengths, self._signs), Looks(lengths, self._signs)

        def receive(name: str, module: nn.Module, features: Tensor) -> None:
            if is_first:
                with _unfollowed():
                    calls.look(name, features)
                self._enter(name, module, features)
            else:
                calls.look(name, features)

        returned = self._leave if is_first else None
        with uncompiled(), Taps(self._modules | self._weight_layers, receive, returned) as taps:
            output = run_model(self._model, batch, taps, may_repeat=is_first)
        tensors = outputs_of(output, self._given)
        if is_first:
            self.tensors, self.unreadable = tensors, dict(taps.unreadable)
        with _unfollowed():
            for path, tensor in tensors.items():
                outputs.look(path, tensor)
            return Record(calls.seen(), outputs.seen())

    def _enter(self, name: str, module: nn.Module, features: Tensor) -> None:
        axis, module_name = self._follower.enter(name, module, features), name.split("#")[0]
        self.calls[name] = Call(module_name, Identity(features), axis, features.dtype)
        if self.journey is not None and module_name in self._weight_layers:
            self.journey.read(name, features)

    def _leave(self, name: str, _module: nn.Module, output: Any) -> None:
        self._follower.leave(name, output)
        call = self.calls.get(name)
        if call is None or not isinstance(output, Tensor):
            return
        if type(output) is not Tensor:  # the class scores are an ordinary tensor, too
            with suppress(UnreadableError):
                output = ordinary(output)
        axis = call.channel_axis if output.ndim >= -call.channel_axis else -1
        width = output.shape[axis] if output.ndim else 1
        # As long as it costs nothing; later operations may change it in place.
        is_kept = type(output) is Tensor and output.ndim == 2 and output.numel() <= _MAX_KEPT_VALUES
        call.made = Made(width, output.clone() if is_kept else None)
        if self.journey is not None and call.module_name in self._weight_layers:
            self.journey.made(name, output)
