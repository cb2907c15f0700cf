"""Select the modules to probe: weight layers, or those that the caller names."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim.swa_utils import AveragedModel

from collapselab.errors import InputError, encodable, one_line
from collapselab.names import near_matches
from collapselab.text import listed

# None stands for every weight layer. Names and globs are matched with the names of `named_modules`.
Layers = str | nn.Module | Iterable[str | nn.Module] | Callable[[str, nn.Module], bool] | None

_FORMS = "give names, globs or modules of the network, or a predicate of name and module"


# What wrappers insert into names: `torch.compile`, activation checkpoints, FSDP, Fabric.
# The value of `layers` for the layer that computes the class scores, or the deepest one.
LAST = "last"
_WRAPPED = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"}
# Wrappers that hold a network as `module`, which could be a user's own name elsewhere.
_HOLDERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, `DataParallel`, `DistributedDataParallel` and averaged models.

    Raises:
        InputError: a `torch.jit` module, whose layers do not run in Python; a `torch.export` program, which has none.
    """
    while isinstance(model, _HOLDERS) or hasattr(model, "_orig_mod"):
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


def model_name(model: object) -> str:
    """Return the class of a model as its author named it, also inside FSDP."""
    wrapped = getattr(model, "_fsdp_wrapped_module", model)
    return type(wrapped).__name__.removeprefix("FSDP")  # `fully_shard` makes a class of its own


def named_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return all modules by name, without what wrappers insert into names; of a wrapper, what it wraps."""
    modules = dict(model.named_modules())
    holders = {name for name, module in modules.items() if isinstance(module, _HOLDERS)}
    return {plain_name(_without_holders(name, holders)): module for name, module in modules.items()}


def _without_holders(name: str, holders: set[str]) -> str:
    parts = name.split(".")
    return ".".join(
        part for at, part in enumerate(parts) if not (part == "module" and ".".join(parts[:at]) in holders)
    )


def plain_name(name: str) -> str:
    """Return the name of a module without what wrappers insert, as columns, keys and pages can hold it: in Unicode."""
    return encodable(".".join(part for part in name.split(".") if part not in _WRAPPED))


def scripted_parts(model: nn.Module) -> list[str]:
    """Return the names of `torch.jit` modules inside the model, the outermost only."""
    names = [
        name for name, module in named_parts(model).items() if isinstance(module, torch.jit.ScriptModule)
    ]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def is_weight_layer(module: object) -> bool:
    """Return whether a module is a linear or convolution layer, or GPT-2's transposed linear layer (`transformers`)."""
    return isinstance(module, nn.Linear | _ConvNd) or is_transposed_linear(module)


def is_transposed_linear(module: object) -> bool:
    """Return whether a module is `transformers.pytorch_utils.Conv1D`: a linear layer whose weight is stored (in, out).

    It is recognised by its attributes, so that `transformers` need not be installed.
    """
    return model_name(module) == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def weight_layer_in(module: nn.Module) -> nn.Module | None:
    """Return the linear or convolution layer that a module is, or that it wraps as an adapter does (`base_layer`)."""
    while not is_weight_layer(module):
        inner = getattr(module, "base_layer", None)
        if not isinstance(inner, nn.Module):
            return None
        module = inner
    return module


def is_adapted_layer(module: nn.Module) -> bool:
    """Return whether a module adds something to a weight layer, as LoRA does: it is one layer with one weight.

    The adapters of `peft`, and those written like them, hold the layer, or another adapter, as `base_layer`.
    """
    return weight_layer_in(module) not in (None, module)


def all_weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the weight layers of `model` by name; of an adapted layer the whole and not its parts."""
    layers: dict[str, nn.Module] = {}
    adapted: list[str] = []
    for name, module in named_parts(model).items():
        if any(name.startswith(prefix) for prefix in adapted):
            continue
        if is_adapted_layer(module):
            adapted.append(f"{name}." if name else "")
            layers[name] = module
        elif is_weight_layer(module):
            layers[name] = module
    return layers


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the weight layers of `model` by name, in the order in which they are registered.

    A module that is registered twice is listed once. A layer with an adapter (LoRA) is listed as a whole.

    Raises:
        InputError: the model has none.
    """
    layers = all_weight_layers(model)
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear or convolution layer; name the modules to measure with layers="
        )
    return layers


def choose_layers(model: nn.Module, layers: Any = None) -> tuple[dict[str, nn.Module], set[str]]:
    """Return the modules to probe by name, and which of these names were given exactly.

    Args:
        model: the network.
        layers: None for every weight layer; `last`, to choose from all of them later; names and globs (`layer4.*`), comma-separated or in a list; modules of
            the network, alone or in a list; or a predicate of name and module. A glob selects the weight layers that
            it matches, or every module that it matches if there is no weight layer among them. What a name or
            glob after `!` matches is left out, with all inside; where there are no other names, of all weight layers.

    Raises:
        InputError: a name or glob that matches nothing, with near matches; a module that is not in the network;
            anything else.
    """
    if layers is None or (isinstance(layers, str) and layers == LAST and LAST not in named_parts(model)):
        return weight_layers(model), set()
    modules = {
        name: module
        for name, module in named_parts(model).items()
        if name and not isinstance(module, torch.jit.ScriptModule)
    }
    if callable(layers) and not isinstance(layers, nn.Module):
        chosen = _that_hold(layers, modules)
        if not chosen:
            raise InputError(
                f"layers: the predicate holds for none of the {len(modules)} modules; give another"
            )
        return chosen, set()
    patterns = [plain_name(pattern) for pattern in _patterns(model, layers, modules)]
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    wanted = set[str]().union(*(_matching(model, pattern, modules) for pattern in included))
    if excluded and not included:
        wanted = set(weight_layers(model))
    for pattern in excluded:
        left_out = tuple(f"{name}." for name in _matching(model, pattern, modules))
        wanted = {name for name in wanted if not f"{name}.".startswith(left_out)}
    if excluded and not wanted:
        raise InputError(f"layers={layers!r} leaves out all modules; leave out fewer")
    chosen = {name: module for name, module in modules.items() if name in wanted}
    return chosen, wanted.intersection(included)


def _matching(model: nn.Module, pattern: str, modules: dict[str, nn.Module]) -> set[str]:
    """Return the names of the modules that a name or glob selects.

    Raises:
        InputError: there are none.
    """
    if pattern in modules:
        return {pattern}
    matches = set(fnmatch.filter(modules, pattern))
    scripted = next((part for part in scripted_parts(model) if f"{pattern}.".startswith(f"{part}.")), None)
    if scripted is not None:
        raise InputError(
            f"layers: {scripted} is a torch.jit module: its layers run outside Python, where no hook is called; give "
            "a model with the module that it was made from"
        )
    if not matches:
        raise InputError(_no_match(pattern, modules))
    return matches & all_weight_layers(model).keys() or matches


def _that_hold(predicate: Callable[..., Any], modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    try:
        return {name: module for name, module in modules.items() if predicate(name, module)}
    except Exception as error:
        raise InputError(
            f"layers: the predicate raised {type(error).__name__} ({one_line(error)}); give a function of name and module "
            "that returns True or False"
        ) from error


def _patterns(model: nn.Module, layers: Any, modules: dict[str, nn.Module]) -> list[str]:
    """Return names and globs; modules are replaced by their names."""
    if isinstance(layers, str):
        return [text.strip() for text in layers.split(",")]
    given = [layers] if isinstance(layers, nn.Module) else layers
    if not isinstance(given, Iterable) or getattr(given, "ndim", None) == 0:
        raise InputError(f"layers={layers!r}: {_FORMS}")
    patterns: list[str] = []
    for one in given:
        if isinstance(one, nn.ModuleList):  # it never runs itself
            patterns += _patterns(model, list(one), modules)
        elif isinstance(one, nn.Module):
            patterns.append(_name_of(one, model, modules))
        elif isinstance(one, str):
            patterns.append(one.strip())
        else:
            raise InputError(f"layers: {one!r} in the list is a {type(one).__name__}; {_FORMS}")
    return patterns


def _name_of(wanted: nn.Module, model: nn.Module, modules: dict[str, nn.Module]) -> str:
    kind = type(wanted).__name__
    if wanted is model:
        raise InputError(
            f"layers: {kind} is the network itself; give some of its modules, or None for all layers"
        )
    inner = unwrapped(wanted)
    name = next((name for name, module in modules.items() if module is inner), None)
    if name is None:
        raise InputError(
            f"layers: a module {kind} is not in {type(model).__name__}; give modules of this network"
        )
    return name


def _no_match(pattern: str, modules: dict[str, nn.Module]) -> str:
    hint = near_matches(pattern, modules)
    if hint.startswith("known:"):
        weights = [name for name, module in modules.items() if is_weight_layer(module)] or list(modules)
        hint = f"known: {listed(weights, 8)}"
    return f"layers={pattern!r} matches no module; {hint}"


def named_layer(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """Return the module that a call such as `fc` or `fc#2` is of, by its name.

    Raises:
        InputError: there is none.
    """
    modules = {part: module for part, module in named_parts(model).items() if part}
    base = plain_name(name.split("#")[0])
    if base not in modules:
        raise InputError(f"classifier={name!r}: no such module; {near_matches(base, modules)}")
    return {base: modules[base]}
