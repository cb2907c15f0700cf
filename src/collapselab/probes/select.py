"""Select the modules to probe: weight layers, or those that the caller names."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from collapselab.checks import near_matches
from collapselab.errors import InputError, encodable, one_line

# None stands for every weight layer. Names and globs are matched with the names of `named_modules`.
Layers = str | nn.Module | Iterable[str | nn.Module] | Callable[[str, nn.Module], bool] | None

_FORMS = "give names, globs or modules of the network, or a predicate of name and module"


def is_weight_layer(module: nn.Module) -> bool:
    """Return whether a module is a linear or convolution layer, or GPT-2's transposed linear layer (`transformers`)."""
    return isinstance(module, nn.Linear | _ConvNd) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Return whether a module is `transformers.pytorch_utils.Conv1D`: a linear layer whose weight is stored (in, out).

    It is recognised by its attributes, so that `transformers` need not be installed.
    """
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the weight layers of `model` by name, in the order in which they are registered.

    A module that is registered twice is listed once.

    Raises:
        InputError: the model has none.
    """
    layers = {name: module for name, module in model.named_modules() if is_weight_layer(module)}
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear or convolution layer; name the modules to measure with layers="
        )
    return layers


def choose_layers(model: nn.Module, layers: Any = None) -> tuple[dict[str, nn.Module], set[str]]:
    """Return the modules to probe by name, and which of these names were given exactly.

    Args:
        model: the network.
        layers: None for every weight layer; names and globs (`layer4.*`), comma-separated or in a list; modules of
            the network, alone or in a list; or a predicate of name and module. A glob selects the weight layers that
            it matches, or every module that it matches if there is no weight layer among them.

    Raises:
        InputError: a name or glob that matches nothing, with near matches; a module that is not in the network;
            anything else.
    """
    chosen, named = _chosen(model, layers)
    # Names become columns, keys and pages, which cannot hold what is not Unicode.
    return {encodable(name): module for name, module in chosen.items()}, {encodable(name) for name in named}


def _chosen(model: nn.Module, layers: Any) -> tuple[dict[str, nn.Module], set[str]]:
    if layers is None:
        return weight_layers(model), set()
    modules = {name: module for name, module in model.named_modules() if name}
    if callable(layers) and not isinstance(layers, nn.Module):
        chosen = _that_hold(layers, modules)
        if not chosen:
            raise InputError(
                f"layers: the predicate holds for none of the {len(modules)} modules; give another"
            )
        return chosen, set()
    wanted: set[str] = set()
    named: set[str] = set()
    for pattern in _patterns(model, layers, modules):
        if pattern in modules:
            wanted.add(pattern)
            named.add(pattern)
            continue
        matches = fnmatch.filter(modules, pattern)
        weights = [name for name in matches if is_weight_layer(modules[name])]
        if not matches:
            raise InputError(_no_match(pattern, modules))
        wanted.update(weights or matches)
    return {name: module for name, module in modules.items() if name in wanted}, named


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
    name = next((name for name, module in modules.items() if module is wanted), None)
    if name is None:
        raise InputError(
            f"layers: a module {kind} is not in {type(model).__name__}; give modules of this network"
        )
    return name


def _no_match(pattern: str, modules: dict[str, nn.Module]) -> str:
    hint = near_matches(pattern, modules)
    if hint.startswith("known:"):
        weights = [name for name, module in modules.items() if is_weight_layer(module)] or list(modules)
        hint = f"known: {', '.join(weights[:8])}{', …' if len(weights) > 8 else ''}"
    return f"layers: no module matches {pattern!r}; {hint}"
