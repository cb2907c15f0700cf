"""Select the modules to probe: weight layers, or those that the caller names."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from collapselab.checks import near_matches
from collapselab.errors import InputError

# None stands for every weight layer. Names and globs are matched with the names of `named_modules`.
Layers = str | Iterable[str] | Callable[[str, nn.Module], bool] | None


# Wrappers that insert a name: of `torch.compile`, of activation checkpoints, of FSDP.
_WRAPPED = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Raises:
        InputError: a `torch.jit` module, whose layers do not run in Python; a `torch.export` program, which has none.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
        model, "_orig_mod"
    ):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # pyright: ignore[reportAssignmentType] nn.Module gives any attribute
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is a torch.jit module: its layers run outside Python, where no hook is called; give the module "
            "that it was made from"
        )
    if isinstance(model, torch.fx.GraphModule) and "eval" in vars(model):  # where torch.export forbids it
        raise InputError(
            "the model is a torch.export program, without layers; give the module that it was made from"
        )
    return model


def model_name(model: nn.Module) -> str:
    """Return the class of a model as its author named it, also inside FSDP."""
    wrapped = getattr(model, "_fsdp_wrapped_module", model)
    return type(wrapped).__name__.removeprefix("FSDP")  # `fully_shard` makes a class of its own


def named_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return all modules by name, without what wrappers insert into names; of a wrapper, what it wraps."""
    return {plain_name(name): module for name, module in model.named_modules()}


def plain_name(name: str) -> str:
    """Return the name of a module without what wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPED)


def scripted_parts(model: nn.Module) -> list[str]:
    """Return the names of `torch.jit` modules inside the model, the outermost only."""
    names = [
        name for name, module in named_parts(model).items() if isinstance(module, torch.jit.ScriptModule)
    ]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def is_weight_layer(module: nn.Module) -> bool:
    """Return whether a module is a linear or convolution layer, or GPT-2's transposed linear layer (`transformers`)."""
    return isinstance(module, nn.Linear | _ConvNd) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Return whether a module is `transformers.pytorch_utils.Conv1D`: a linear layer whose weight is stored (in, out).

    It is recognised by its attributes, so that `transformers` need not be installed.
    """
    return model_name(module) == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the weight layers of `model` by name, in the order in which they are registered.

    A module that is registered twice is listed once.

    Raises:
        InputError: the model has none.
    """
    layers = {name: module for name, module in named_parts(model).items() if is_weight_layer(module)}
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear or convolution layer; name the modules to measure with layers="
        )
    return layers


def choose_layers(model: nn.Module, layers: Layers = None) -> tuple[dict[str, nn.Module], set[str]]:
    """Return the modules to probe by name, and which of these names were given exactly.

    Args:
        model: the network.
        layers: None for every weight layer; names and globs (`layer4.*`), comma-separated or in a list; or a
            predicate of name and module. A glob selects the weight layers that it matches, or every module that it
            matches if there is no weight layer among them.

    Raises:
        InputError: a name or glob that matches nothing, with near matches.
    """
    if layers is None:
        return weight_layers(model), set()
    modules = {
        name: module
        for name, module in named_parts(model).items()
        if name and not isinstance(module, torch.jit.ScriptModule)
    }
    if callable(layers):
        chosen = {name: module for name, module in modules.items() if layers(name, module)}
        if not chosen:
            raise InputError(
                f"layers: the predicate holds for none of the {len(modules)} modules; give another"
            )
        return chosen, set()
    patterns = layers.split(",") if isinstance(layers, str) else list(layers)
    wanted: set[str] = set()
    named: set[str] = set()
    for pattern in (plain_name(text.strip()) for text in patterns):
        if pattern in modules:
            wanted.add(pattern)
            named.add(pattern)
            continue
        matches = fnmatch.filter(modules, pattern)
        weights = [name for name in matches if is_weight_layer(modules[name])]
        scripted = next(
            (part for part in scripted_parts(model) if f"{pattern}.".startswith(f"{part}.")), None
        )
        if scripted is not None:
            raise InputError(
                f"layers: {scripted} is a torch.jit module: its layers run outside Python, where no hook is called; give "
                "a model with the module that it was made from"
            )
        if not matches:
            raise InputError(_no_match(pattern, modules))
        wanted.update(weights or matches)
    return {name: module for name, module in modules.items() if name in wanted}, named


def _no_match(pattern: str, modules: dict[str, nn.Module]) -> str:
    hint = near_matches(pattern, modules)
    if hint.startswith("known:"):
        weights = [name for name, module in modules.items() if is_weight_layer(module)] or list(modules)
        hint = f"known: {', '.join(weights[:8])}{', …' if len(weights) > 8 else ''}"
    return f"layers: no module matches {pattern!r}; {hint}"
