"""Open networks by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from collapselab.checks import near_matches
from collapselab.errors import InputError, one_line
from collapselab.models.checkpoints import load_state, misshapen, read_checkpoint
from collapselab.models.convnet import ConvNet
from collapselab.models.limits import OWN, check_options
from collapselab.models.mlp import MLP
from collapselab.models.states import State, fitted
from collapselab.models.user_file import build, find_builder, is_user_file
from collapselab.models.vgg import VGG11
from collapselab.randomness import seeded

_TORCHVISION, _TIMM = "torchvision/", "timm/"
_FORMS = "mlp, convnet, vgg11, torchvision/NAME, timm/NAME, FILE.py:FUNCTION"
_MLP_WIDTH, _MLP_DEPTH = 1024, 10  # Rangamani et al. 2023, appendix A
_VIT_SIZE = 224
_CONVOLUTIONAL = {"convnet": ConvNet, "vgg11": VGG11}
# In training they return several outputs by default.
_AUXILIARY = ("googlenet", "inception_v3")

_Builder = Callable[[int], nn.Module]


def open_model(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    checkpoint: Path | None = None,
    checkpoint_key: str | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network with random weights or those of a file. Nothing is ever downloaded.

    Args:
        name: `mlp`, `convnet`, `vgg11`, `torchvision/resnet18`, `timm/deit_tiny_patch16_224`, or
            `path/to/file.py:function`, called with those of `num_classes` and `input_shape` that it accepts.
        num_classes: number of outputs; if the classifier in the checkpoint has another number, that is used.
        input_shape: shape of one sample.
        checkpoint, checkpoint_key: file of weights, and their place in it: see `load_checkpoint`.
        seed: seed for the initial weights, which depend on nothing else; the caller's generators are left unchanged.
        options: further arguments of the network by name, such as `width` and `depth` of `mlp`.

    Raises:
        InputError: unknown name or option, inputs that do not suit the network, errors in the user's function,
            a checkpoint that does not fit.
        ImportError: an extra that is not installed.
    """
    if checkpoint_key is not None and checkpoint is None:
        raise InputError(
            f"checkpoint_key={checkpoint_key!r}: is a place in a file of weights; give checkpoint= too"
        )
    states = None if checkpoint is None else read_checkpoint(checkpoint, checkpoint_key)
    with seeded(seed):
        builder = _refusing_options(name, _builder(name, input_shape, dict(options or {})), options)
    with seeded(seed):
        model = builder(num_classes)
    if checkpoint is None or states is None:
        return model
    state = fitted(model, states, checkpoint)
    outputs = _other_outputs(model, state, num_classes)
    if outputs is not None:
        with seeded(seed):
            model = builder(outputs)
    load_state(model, state, checkpoint)
    return model


def required_image_size(name: str) -> tuple[int, int] | None:
    """Return the only image size (height, width) that the network takes; None if it takes several.

    Raises:
        InputError: unknown name.
        ImportError: an extra that is not installed.
    """
    _check_known(name)
    if name.startswith(_TIMM):
        config = _timm().get_pretrained_cfg(_architecture(name))
        if config is not None and config.fixed_input_size:
            return config.input_size[1], config.input_size[2]
    if name.startswith((_TORCHVISION + "vit_", _TORCHVISION + "maxvit")):
        return _VIT_SIZE, _VIT_SIZE
    return None


def required_channels(name: str) -> int | None:
    """Return the number of channels that the network needs; None if it takes any number."""
    _check_known(name)
    return 3 if name.startswith((_TORCHVISION, _TIMM)) else None


def _refusing_options(name: str, builder: _Builder, options: Mapping[str, Any] | None) -> _Builder:
    """Return the builder with its errors reported as errors of the options that it was given."""
    if not options or is_user_file(name):
        return builder
    check_options(name, options)

    def built(num_classes: int) -> nn.Module:
        try:
            return builder(num_classes)
        except Exception as error:  # of any kind: the options reach code of libraries
            if isinstance(error, InputError | MemoryError):
                raise
            given = ", ".join(f"{option}={value!r}" for option, value in options.items())
            raise InputError(
                f"{name}: cannot be built with {given} ({one_line(error)}); correct the options"
            ) from error

    return built


def _builder(name: str, input_shape: tuple[int, ...], options: dict[str, Any]) -> _Builder:
    """Return a function that builds the network from its number of outputs."""
    _check_known(name)
    if is_user_file(name):
        function = partial(find_builder(name), **options)
        return lambda num_classes: build(name, function, num_classes, input_shape)
    if name == "mlp":
        return partial(MLP, math.prod(input_shape), **({"width": _MLP_WIDTH, "depth": _MLP_DEPTH} | options))
    if len(input_shape) != 3:
        raise InputError(
            f"{name}: takes images, but inputs have shape {input_shape}; give images, or another model"
        )
    size = (input_shape[1], input_shape[2])
    if name in _CONVOLUTIONAL:
        return partial(_CONVOLUTIONAL[name], input_shape[0], size, **options)
    required = required_image_size(name)
    if required not in (None, size):
        raise InputError(
            f"{name}: takes images of {required[0]} x {required[1]} but these have {size[0]} x {size[1]}; open the data with this image size"
        )
    if name.startswith(_TIMM):
        return lambda num_classes: _from_timm(_architecture(name), num_classes, input_shape[0], options)
    if input_shape[0] != 3:
        raise InputError(
            f"{name}: takes images of 3 channels but these have {input_shape[0]}; open the data with 3"
        )
    return lambda num_classes: _from_torchvision(_architecture(name), num_classes, options)


def _from_torchvision(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    if name in _AUXILIARY:
        options = {"aux_logits": False, "init_weights": True} | options
    return _torchvision().get_model(name, weights=None, num_classes=num_classes, **options)


def _from_timm(name: str, num_classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    create = partial(_timm().create_model, name, pretrained=False, num_classes=num_classes, **options)
    try:
        return create(in_chans=channels)
    except TypeError as error:
        if "in_chans" not in str(error):
            raise
        return create()


def _other_outputs(model: nn.Module, state: State, num_classes: int) -> int | None:
    """Return the number of outputs of the checkpoint's classifier, if nothing else differs from the model."""
    wanted = model.state_dict()
    different = misshapen(model, state)
    outputs = {tuple(state[name].shape)[:1] for name in different}
    only_outputs = all(
        tuple(wanted[name].shape)[:1] == (num_classes,) and state[name].shape[1:] == wanted[name].shape[1:]
        for name in different
    )
    found = outputs.pop() if len(outputs) == 1 and only_outputs else ()
    return found[0] if found else None


def _check_known(name: str) -> None:
    if name in OWN or is_user_file(name):
        return
    if name.startswith(_TORCHVISION):
        # Models that classify images, not those for detection, segmentation or video.
        known = _torchvision().list_models(module=_torchvision())
    elif name.startswith(_TIMM):
        known = _timm().list_models()
        if _timm().is_model(_architecture(name)):
            return
    else:
        hint = near_matches(name, [*OWN, _TORCHVISION + "resnet18", _TIMM + "resnet18"])
        hint = f"{hint} Known" if hint.startswith("did you mean") else "known"
        raise InputError(f"unknown model {name!r}; {hint}: {_FORMS}")
    if _architecture(name) not in known:
        library = name.partition("/")[0]
        hint = near_matches(_architecture(name), known)
        hint = hint if hint.startswith("did you mean") else f"see {library}'s list of models"
        raise InputError(f"unknown model {name!r} of {library}; {hint}")


def _architecture(name: str) -> str:
    return name.partition("/")[2]


def _torchvision() -> ModuleType:
    try:
        import torchvision.models
    except ImportError as error:
        raise ImportError(
            "models of torchvision need torchvision: pip install 'collapselab[papers]'"
        ) from error
    return torchvision.models


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError("models of timm need timm: pip install 'collapselab[papers]'") from error
    return timm


_TITLES = {
    "resnet18": "ResNet-18", "resnet50": "ResNet-50", "densenet201": "DenseNet-201", "vgg11_bn": "VGG-11 (BN)", "mlp": "MLP",
    "convnet": "plain network", "resnet18-narrow": "narrow ResNet-18", "vgg11_bn-narrow": "narrow VGG-11 (BN)",
    "densenet-small": "small DenseNet",
}  # fmt: skip


def model_title(name: str) -> str:
    """Return a network's name as papers write it; unknown ones without underscores."""
    return _TITLES.get(name, name.replace("_", " "))
