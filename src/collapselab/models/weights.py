"""The weights of a network as a checkpoint stores them: each tensor once, whatever memory they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.errors import InputError
from collapselab.user_code import user_code


def weights_to_save(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the state dict: tied ones under their first name, views of shared memory as copies.

    Raises:
        InputError: the network's own `state_dict` fails.
    """
    saved: dict[str, Tensor] = {}
    memories: set[Any] = set()
    aliases = tied_names(_state_dict(model))
    for name, tensor in _state_dict(model).items():
        if name in aliases:
            continue
        memory = StorageWeakRef(tensor.untyped_storage())
        saved[name] = tensor.clone() if memory in memories else tensor
        memories.add(memory)
    return saved


def check_weights(model: nn.Module) -> None:
    """Check before a training that its weights can be saved.

    Raises:
        InputError: a tensor that a `.safetensors` file cannot hold.
    """
    for name, tensor in _state_dict(model).items():
        problem = _problem(tensor)
        if problem is not None:
            raise InputError(
                f"the model's {name} is {problem}, which a checkpoint cannot store; make it a dense tensor, or register it "
                "with persistent=False"
            )


def tied_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of tensors that are the same as an earlier one, each with the earlier name."""
    first: dict[Any, str] = {}
    tied = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.numel():
            place = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
            if first.setdefault(place, name) != name and not tensor.is_meta:
                tied[name] = first[place]
    return tied


def _state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the state dict; extra state of other kinds is no weight."""
    with user_code("state_dict", "correct the model"):
        return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _problem(tensor: Tensor) -> str | None:
    from safetensors.torch import save

    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse" if "sparse" in str(tensor.layout) else "nested"
    try:
        save({"tensor": torch.empty(0, dtype=tensor.dtype)})
    except Exception:  # safetensors raises several kinds for a dtype it does not know
        return f"of {str(tensor.dtype).removeprefix('torch.')} numbers"
    return None
