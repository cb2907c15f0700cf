"""Open networks by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from collapselab.errors import InputError, one_line
from collapselab.models.checkpoints import load_state, misshapen, read_checkpoint
from collapselab.models.convnet import ConvNet
from collapselab.models.limits import OWN, check_options
from collapselab.models.mlp import MLP
from collapselab.models.pretrained import (
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    check_weights_wanted,
    folder_image_size,
    from_config,
    is_transformers,
    open_pretrained,
    saved_folder,
    split_tag,
    timm,
    torchvision,
)
from collapselab.models.states import State, fitted
from collapselab.models.user_file import build, find_builder, is_user_file
from collapselab.models.vgg import VGG11
from collapselab.names import near_matches
from collapselab.randomness import seeded

_FORMS = (
    "mlp, convnet, vgg11, torchvision/NAME, timm/NAME, transformers/ID, a folder that save_pretrained wrote, "
    "FILE.py:FUNCTION"
)
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
    pretrained: bool = False,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network with random weights, those of a file, or published ones. Only the latter are downloaded.

    Args:
        name: `mlp`, `convnet`, `vgg11`, `torchvision/resnet18`, `timm/deit_tiny_patch16_224`, `transformers/ID` (an id
            of the Hugging Face hub), a folder that `save_pretrained` of transformers or timm wrote, whose weights are
            loaded, or `path/to/file.py:function`, called with those of `num_classes` and `input_shape` that it accepts.
            A tag (`timm/resnet18.a1_in1k`) names published weights.
        num_classes: number of outputs; if the classifier in the checkpoint has another number, that is used.
        input_shape: shape of one sample.
        checkpoint, checkpoint_key: file of weights, and their place in it: see `load_checkpoint`.
        pretrained: whether to load the published weights, with their own number of outputs.
        seed: seed for the initial weights, which depend on nothing else; the caller's generators are left unchanged.
        options: further arguments of the network by name, such as `width` and `depth` of `mlp`.

    Raises:
        InputError: unknown name or option, inputs that do not suit the network, errors in the user's function,
            a checkpoint that does not fit; published weights that are named but not wanted, or cannot be fetched.
        ImportError: an extra that is not installed.
    """
    if checkpoint_key is not None and checkpoint is None:
        raise InputError(
            f"checkpoint_key={checkpoint_key!r}: is a place in a file of weights; give checkpoint= too"
        )
    if checkpoint is None and (pretrained or saved_folder(name) is not None):
        _check_known(name)
        return open_pretrained(name, dict(options or {}))
    if pretrained:
        raise InputError(f"{name}: pretrained= and checkpoint={checkpoint} are both given; give one of them")
    if checkpoint is None:
        check_weights_wanted(name)
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


def required_image_size(name: str, options: Mapping[str, Any] | None = None) -> tuple[int, int] | None:
    """Return the only image size (height, width) that the network takes; None if it takes several.

    Args:
        name: of the network.
        options: that it is built with; `img_size` of timm is the size that its position embeddings are made for.

    Raises:
        InputError: unknown name, or an `img_size` that is not one.
        ImportError: an extra that is not installed.
    """
    _check_known(name)
    if (folder := saved_folder(name)) is not None:
        return folder_image_size(folder)
    if name.startswith(TIMM):
        if "img_size" in (options or {}):
            return _two_sizes(name, dict(options or {})["img_size"])
        config = timm().get_pretrained_cfg(_architecture(name))
        if config is not None and config.fixed_input_size:
            return config.input_size[1], config.input_size[2]
    if name.startswith((TORCHVISION + "vit_", TORCHVISION + "maxvit")):
        return _VIT_SIZE, _VIT_SIZE
    return None


def _two_sizes(name: str, size: object) -> tuple[int, int]:
    sizes = [size, size] if type(size) is int else size
    if (
        not isinstance(sizes, Sequence)
        or len(sizes) != 2
        or not all(type(one) is int and one > 0 for one in sizes)
    ):
        raise InputError(
            f"{name}: img_size={size!r} is not an image size; give one number, or height and width"
        )
    return sizes[0], sizes[1]


def required_channels(name: str) -> int | None:
    """Return the number of channels that the network needs; None if it takes any number."""
    _check_known(name)
    if is_transformers(name):
        return None
    return 3 if name.startswith((TORCHVISION, TIMM)) or saved_folder(name) is not None else None


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
    if is_transformers(name):
        return lambda _num_classes: from_config(name)
    if (folder := saved_folder(name)) is not None:
        return lambda num_classes: timm().create_model(f"local-dir:{folder}", num_classes=num_classes)
    if name == "mlp":
        return partial(MLP, math.prod(input_shape), **({"width": _MLP_WIDTH, "depth": _MLP_DEPTH} | options))
    if len(input_shape) != 3:
        raise InputError(
            f"{name}: takes images, but inputs have shape {input_shape}; give images, or another model"
        )
    size = (input_shape[1], input_shape[2])
    if name in _CONVOLUTIONAL:
        return partial(_CONVOLUTIONAL[name], input_shape[0], size, **options)
    required = required_image_size(name, options)
    if required not in (None, size):
        raise InputError(
            f"{name}: takes images of {required[0]} x {required[1]} but these have {size[0]} x {size[1]}; open the data with this image size"
        )
    if name.startswith(TIMM):
        return lambda num_classes: _from_timm(_architecture(name), num_classes, input_shape[0], options)
    if input_shape[0] != 3:
        raise InputError(
            f"{name}: takes images of 3 channels but these have {input_shape[0]}; open the data with 3"
        )
    return lambda num_classes: _from_torchvision(_architecture(split_tag(name)[0]), num_classes, options)


def _from_torchvision(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    if name in _AUXILIARY:
        options = {"aux_logits": False, "init_weights": True} | options
    return torchvision().get_model(name, weights=None, num_classes=num_classes, **options)


def _from_timm(name: str, num_classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    create = partial(timm().create_model, name, pretrained=False, num_classes=num_classes, **options)
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
    if name in OWN or is_user_file(name) or is_transformers(name) or saved_folder(name) is not None:
        return
    if name.startswith(TORCHVISION):
        # Models that classify images, not those for detection, segmentation or video.
        known = torchvision().list_models(module=torchvision())
    elif name.startswith(TIMM):
        known = timm().list_models()
        if timm().is_model(_architecture(name)):
            return
    else:
        hint = near_matches(name, [*OWN, TORCHVISION + "resnet18", TIMM + "resnet18", TRANSFORMERS + "ID"])
        hint = f"{hint} Known" if hint.startswith("did you mean") else "known"
        raise InputError(f"unknown model {name!r}; {hint}: {_FORMS}")
    if _architecture(split_tag(name)[0]) not in known:
        library = name.partition("/")[0]
        hint = near_matches(_architecture(split_tag(name)[0]), known)
        hint = hint if hint.startswith("did you mean") else f"see {library}'s list of models"
        raise InputError(f"unknown model {name!r} of {library}; {hint}")


def _architecture(name: str) -> str:
    return name.partition("/")[2]


_TITLES = {
    "resnet18": "ResNet-18", "resnet50": "ResNet-50", "densenet201": "DenseNet-201", "vgg11_bn": "VGG-11 (BN)", "mlp": "MLP",
    "convnet": "plain network", "resnet18-narrow": "narrow ResNet-18", "vgg11_bn-narrow": "narrow VGG-11 (BN)",
    "densenet-small": "small DenseNet",
}  # fmt: skip


def untrained(name: str, seed: int) -> str:
    """Return how a network with random weights is called."""
    return f"{name}, untrained (seed {seed})"


def model_title(name: str) -> str:
    """Return a network's name as papers write it; unknown ones without underscores."""
    return _TITLES.get(name, name.replace("_", " "))
