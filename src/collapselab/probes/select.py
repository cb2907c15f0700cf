"""Select the modules to probe: weight layers, or those that the caller names."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable

from torch import nn
from torch.nn.modules.conv import _ConvNd

from collapselab.checks import near_matches
from collapselab.errors import InputError

# None stands for every weight layer. Names and globs are matched with the names of `named_modules`.
Layers = str | Iterable[str] | Callable[[str, nn.Module], bool] | None


def is_weight_layer(module: object) -> bool:
    """Return whether a module is a linear or convolution layer, or GPT-2's transposed linear layer (`transformers`)."""
    return isinstance(module, nn.Linear | _ConvNd) or is_transposed_linear(module)


def is_transposed_linear(module: object) -> bool:
    """Return whether a module is `transformers.pytorch_utils.Conv1D`: a linear layer whose weight is stored (in, out).

    It is recognised by its attributes, so that `transformers` need not be installed.
    """
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def is_adapted_layer(module: nn.Module) -> bool:
    """Return whether a module adds something to a weight layer, as LoRA does: it is one layer with one weight.

    The adapters of `peft`, and those written like them, hold the layer as `base_layer`.
    """
    return is_weight_layer(getattr(module, "base_layer", None))


def all_weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the weight layers of `model` by name; of an adapted layer the whole and not its parts."""
    layers: dict[str, nn.Module] = {}
    adapted: list[str] = []
    for name, module in model.named_modules():
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
    modules = {name: module for name, module in model.named_modules() if name}
    if callable(layers):
        chosen = {name: module for name, module in modules.items() if layers(name, module)}
        if not chosen:
            raise InputError(
                f"layers: the predicate holds for none of the {len(modules)} modules; give another"
            )
        return chosen, set()
    all_weights = all_weight_layers(model)
    patterns = layers.split(",") if isinstance(layers, str) else list(layers)
    wanted: set[str] = set()
    named: set[str] = set()
    for pattern in (text.strip() for text in patterns):
        if pattern in modules:
            wanted.add(pattern)
            named.add(pattern)
            continue
        matches = fnmatch.filter(modules, pattern)
        weights = [name for name in matches if name in all_weights]
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


def named_layer(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """Return the module that a call such as `fc` or `fc#2` is of, by its name.

    Raises:
        InputError: there is none.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    base = name.split("#")[0]
    if base not in modules:
        raise InputError(f"classifier={name!r}: no such module; {near_matches(base, modules)}")
    return {base: modules[base]}
