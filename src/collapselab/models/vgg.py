"""VGG-11 with batch norm (Simonyan and Zisserman 2015), for small images and of any width."""

from __future__ import annotations

import itertools

from jaxtyping import Float
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.models.limits import check_options, check_parameters

# Channels of the convolutions of each stage, in multiples of the width; each stage halves the image.
_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
_STRIDE = 2 ** len(_STAGES)


class VGG11(nn.Module):
    """Eight 3 x 3 convolutions in five stages, each with batch norm and ReLU; then a perceptron with dropout.

    Every stage ends with 2 x 2 max pooling. The classifier has two hidden layers, each with ReLU and dropout. With the
    default sizes, this is torchvision's `vgg11_bn`, except that features are not resampled to 7 x 7 pixels, convolutions
    have no bias, and initial weights are PyTorch's defaults.

    Weight layers are those of `features`, then `classifier.0`, `classifier.3` and `classifier.6`.

    Args:
        channels: channels of the images.
        image_size: (height, width) of the images, at least 32 x 32.
        num_classes: number of outputs.
        width: channels of the first stage; the last two stages have eight times as many.
        units: units of each hidden layer of the classifier.
        dropout: probability with which hidden units of the classifier are zeroed in training.

    Raises:
        InputError: images that are too small, a size or probability out of range, or more weights than memory.
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        *,
        width: int = 64,
        units: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_options("vgg11", {"width": width, "units": units, "dropout": dropout})
        rows, columns = (size // _STRIDE for size in image_size)
        if not rows or not columns:
            raise InputError(
                f"vgg11: images of {image_size[0]} x {image_size[1]} are too small; give {_STRIDE} x {_STRIDE} or more"
            )
        sizes = [channels, *(width * factor for factor in itertools.chain(*_STAGES))]
        flat = sizes[-1] * rows * columns
        convolutions = sum(9 * a * b for a, b in itertools.pairwise(sizes))
        check_parameters("vgg11", convolutions + units * (flat + units + num_classes))
        self.features = nn.Sequential(*_features(channels, width))
        self.classifier = nn.Sequential(
            *_hidden(flat, units, dropout), *_hidden(units, units, dropout), nn.Linear(units, num_classes)
        )

    def forward(self, inputs: Float[Tensor, "n ch h w"]) -> Float[Tensor, "n c"]:
        return self.classifier(self.features(inputs).flatten(1))


def _features(channels: int, width: int) -> list[nn.Module]:
    parts: list[nn.Module] = []
    for stage in _STAGES:
        for factor in stage:
            # Batch norm would cancel a bias before it.
            convolution = nn.Conv2d(channels, width * factor, 3, padding=1, bias=False)
            channels = width * factor
            parts += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
        parts.append(nn.MaxPool2d(2))
    return parts


def _hidden(inputs: int, units: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(dropout)]
