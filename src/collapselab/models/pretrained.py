"""Networks with the weights that their authors published, from timm, torchvision, transformers or a local folder."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import nn

from collapselab.errors import InputError, InputNote, one_line
from collapselab.names import near_matches
from collapselab.text import listed

TORCHVISION, TIMM, TRANSFORMERS = "torchvision/", "timm/", "transformers/"
_CONFIG = "config.json"
_PATIENCE_SECONDS = 5
_CLASSIFIERS = re.compile(r"\w+For(Image|Sequence)Classification(WithTeacher)?")


# ---------------------------------------------------------------- names


def saved_folder(name: str) -> Path | None:
    """Return the folder of a network that `save_pretrained` of transformers or timm wrote, if the name is one."""
    path = Path(name.removeprefix(TRANSFORMERS))
    try:
        values = json.loads((path / _CONFIG).read_bytes()) if (path / _CONFIG).is_file() else None
    except (OSError, ValueError):
        return None
    is_network = isinstance(values, dict) and not {"model_type", "architecture", "architectures"}.isdisjoint(
        values
    )
    return path if is_network else None


def is_transformers(name: str) -> bool:
    """Whether `transformers` builds the network."""
    folder = saved_folder(name)
    return name.startswith(TRANSFORMERS) if folder is None else "architecture" not in read_config(folder)


def split_tag(name: str) -> tuple[str, str]:
    """Return a network's name without the tag of its weights, and the tag; empty without one.

    Example:
        >>> split_tag("timm/resnet18.a1_in1k")
        ('timm/resnet18', 'a1_in1k')
    """
    if saved_folder(name) is not None or not name.startswith((TIMM, TORCHVISION)):
        return name, ""
    plain, _, tag = name.partition(".")
    return plain, tag


def check_weights_wanted(name: str) -> None:
    """Refuse a name that stands for published weights where none are to be loaded.

    Raises:
        InputError: with both ways to load them.
    """
    plain, tag = split_tag(name)
    if tag:
        raise InputError(
            f"{name}: {tag} names pretrained weights, and none are loaded; give pretrained= to fetch them, or "
            f"checkpoint=FILE; {plain} has random weights"
        )
    if name.startswith(TRANSFORMERS) and saved_folder(name) is None:
        raise InputError(
            f"{name}: names pretrained weights, and none are loaded; give pretrained= to fetch them, or the folder of a "
            "copy that save_pretrained wrote"
        )


# ---------------------------------------------------------------- networks


def open_pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """Return a network with its published weights: from a local folder or an earlier download, else fetched once.

    Args:
        name: `timm/NAME` or `timm/NAME.TAG`, `torchvision/NAME` or `torchvision/NAME.WEIGHTS`, `transformers/ID`, or the
            folder of a network that `save_pretrained` wrote.
        options: further arguments of the network.

    Raises:
        InputError: no such weights, or they are not here and cannot be fetched.
        ImportError: an extra that is not installed.
    """
    folder = saved_folder(name)
    if is_transformers(name):
        return _from_transformers(name, folder, options)
    if folder is not None:
        return opened(name, lambda: timm().create_model(f"local-dir:{folder}", pretrained=True, **options))
    if name.startswith(TIMM):
        _check_timm_tag(name)
        return opened(name, lambda: timm().create_model(name.removeprefix(TIMM), pretrained=True, **options))
    if name.startswith(TORCHVISION):
        weights = torchvision_weights(name)
        _check_fetchable(name, weights.url)
        plain = split_tag(name)[0].removeprefix(TORCHVISION)
        return opened(
            name, lambda: torchvision().get_model(plain, weights=weights, **options), asks_hub=False
        )
    raise InputError(
        f"{name}: has no pretrained weights; leave out pretrained=, or give checkpoint=FILE (there are some for timm/NAME, "
        "torchvision/NAME and transformers/ID)"
    )


def torchvision_weights(name: str) -> Any:
    """Return the entry of torchvision's table of weights: the one that the name ends in, or the default.

    Raises:
        InputError: no such weights.
    """
    plain, tag = split_tag(name)
    known = torchvision().get_model_weights(plain.removeprefix(TORCHVISION))
    if tag and tag not in known.__members__:
        raise InputError(f"{name}: no weights {tag!r} of {plain}; {near_matches(tag, known.__members__)}")
    return known[tag] if tag else known.DEFAULT


def _check_timm_tag(name: str) -> None:
    plain, tag = (part.removeprefix(TIMM) for part in split_tag(name))
    tags = [
        entry.partition(".")[2]
        for entry in timm().list_pretrained(f"{plain}*")
        if entry.partition(".")[0] == plain
    ]
    if not tags:
        raise InputError(
            f"{name}: timm has no pretrained weights of it; leave out pretrained=, or give checkpoint=FILE"
        )
    if tag and tag not in tags:
        raise InputError(f"{name}: no weights {tag!r} of {plain}; {near_matches(tag, tags)}")


def _from_transformers(name: str, folder: Path | None, options: dict[str, Any]) -> nn.Module:
    if options:
        raise InputError(f"{name}: takes no options ({', '.join(options)}); they are in its {_CONFIG}")
    source = name.removeprefix(TRANSFORMERS) if folder is None else str(folder)
    asks_hub = folder is None
    library = transformers()
    config = opened(name, lambda: library.AutoConfig.from_pretrained(source), asks_hub)
    classes = [one for one in config.architectures or () if _CLASSIFIERS.fullmatch(one)]
    kind = getattr(library, classes[0], None) if classes else library.AutoModel
    if kind is None:
        raise InputError(f"{name}: {classes[0]} is no network of the installed transformers; update it")
    model, info = opened(
        name, lambda: kind.from_pretrained(source, config=config, output_loading_info=True), asks_hub
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{name}: has no weights for {listed(missing, 3)}, which would be random; give a network that was saved "
            "after it was trained on these classes"
        )
    if not classes:
        warnings.warn(f"{name}: has no classifier; measured without class scores", InputNote, stacklevel=4)
    return model


def from_config(name: str) -> nn.Module:
    """Return a network of `transformers` with random weights, for weights of a checkpoint.

    Raises:
        InputError: no such network, or its configuration cannot be fetched.
    """
    folder = saved_folder(name)
    source = name.removeprefix(TRANSFORMERS) if folder is None else str(folder)
    library = transformers()
    config = opened(name, lambda: library.AutoConfig.from_pretrained(source), folder is None)
    classes = [one for one in config.architectures or () if _CLASSIFIERS.fullmatch(one)]
    return getattr(library, classes[0])(config) if classes else library.AutoModel.from_config(config)


def folder_image_size(folder: Path) -> tuple[int, int] | None:
    """Return the only image size (height, width) that a saved network takes; None if it is not said."""
    config = read_config(folder)
    data = config.get("pretrained_cfg", {})
    if data.get("fixed_input_size"):
        return data["input_size"][1], data["input_size"][2]
    size = config.get("image_size")
    return (size, size) if isinstance(size, int) else None


# ---------------------------------------------------------------- fetching


def opened(name: str, build: Any, asks_hub: bool = True) -> Any:
    """Return what `build` returns; its failures are reported in one line."""
    unreachable = _unreachable() if asks_hub and saved_folder(name) is None else None
    try:
        with _quiet(), _offline(unreachable is not None):
            return build()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # libraries, hub and files have more kinds than can be listed
        reason = one_line(error) or type(error).__name__
        if saved_folder(name) is not None:
            raise InputError(
                f"{name}: saved by save_pretrained, but cannot be loaded ({reason}); save it again"
            ) from error
        if unreachable is not None or isinstance(error, OSError):
            raise _not_here(name, unreachable or reason) from error
        raise InputError(f"{name}: pretrained weights cannot be loaded ({reason}); check the name") from error


def _not_here(name: str, reason: str) -> InputError:
    return InputError(
        f"{name}: pretrained weights are not here, and cannot be fetched ({reason}); connect to the network to fetch them "
        "once, or give checkpoint=FILE"
    )


def _check_fetchable(name: str, url: str) -> None:
    """Refuse a file that is neither in torch's cache nor can be fetched, before torch prints that it is fetching it."""
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
        return
    try:
        urlopen(Request(url, method="HEAD"), timeout=_PATIENCE_SECONDS).close()
    except OSError as error:
        raise _not_here(name, one_line(getattr(error, "reason", error))) from error


def _unreachable() -> str | None:
    """Return why the hub cannot be reached, None if it answers; asked once, since its library retries for long."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "offline mode is on"
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_SECONDS)
    except Exception as error:
        return one_line(error) or type(error).__name__
    return None


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """While open, use only earlier downloads."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' warnings and logs: what matters is said in one line."""
    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for library in ("transformers", "timm", "huggingface_hub"):
            log = logging.getLogger(library)
            undo.callback(log.setLevel, log.level)
            log.setLevel(logging.CRITICAL)
        if "transformers" in sys.modules:
            bars = sys.modules["transformers"].utils.logging
            if bars.is_progress_bar_enabled():
                undo.callback(bars.enable_progress_bar)
                bars.disable_progress_bar()
        yield


def read_config(folder: Path) -> dict[str, Any]:
    """Return what `save_pretrained` wrote about a network."""
    return json.loads((folder / _CONFIG).read_bytes())


# ---------------------------------------------------------------- libraries


def torchvision() -> ModuleType:
    """Return torchvision's models."""
    try:
        import torchvision.models
    except ImportError as error:
        raise ImportError(
            "models of torchvision need torchvision: pip install 'collapselab[models]'"
        ) from error
    return torchvision.models


def library_version(name: str) -> str:
    """Return the version of the library that builds a network; empty for networks of this package."""
    if name.startswith(TORCHVISION):
        import torchvision

        return torchvision.__version__
    if name.startswith(TIMM):
        return timm().__version__
    return transformers().__version__ if is_transformers(name) else ""


def timm() -> ModuleType:
    """Return timm."""
    try:
        import timm
    except ImportError as error:
        raise ImportError("models of timm need timm: pip install 'collapselab[models]'") from error
    return timm


def transformers() -> ModuleType:
    """Return transformers."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("models of transformers need transformers: pip install transformers") from error
    return transformers
