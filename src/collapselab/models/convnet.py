"""The deep convolutional network of Rangamani et al. 2023, appendix A."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.models.limits import check_options, check_parameters

_STEM_STRIDE = 4  # two 2 x 2 convolutions with stride 2


class ConvNet(nn.Module):
    """A stem that quarters the image, `depth` equal convolutional layers, then a linear classifier.

    The stem is a 2 x 2 convolution with stride 2, batch norm, a second such convolution, batch norm, ReLU. Each
    layer after it is a 3 x 3 convolution with stride 1 and padding 1, batch norm, ReLU. Features are flattened
    for the classifier, not pooled: the paper names no pooling.

    Weight layers are `stem.0` and `stem.2`, `layers.0` … `layers.{depth - 1}`, and `classifier`.

    Args:
        channels: channels of the images.
        image_size: (height, width) of the images, at least 4 x 4.
        num_classes: number of outputs.
        width: channels of every layer.
        depth: number of convolutional layers after the stem.

    Raises:
        InputError: images too small for the stem, a size out of range, or more weights than memory.
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        *,
        width: int = 128,
        depth: int = 20,
    ) -> None:
        super().__init__()
        check_options("convnet", {"width": width, "depth": depth})
        height, width_left = (size // _STEM_STRIDE for size in image_size)
        if not height or not width_left:
            raise InputError(
                f"convnet: images of {image_size[0]} x {image_size[1]} are too small; give 4 x 4 or more"
            )
        outputs = height * width_left * num_classes
        check_parameters("convnet", width * (width * (9 * depth + 4) + 4 * channels + outputs))
        # Batch norm would cancel a bias before it.
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 2, stride=2, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 2, stride=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        self.classifier = nn.Linear(width * height * width_left, num_classes)

    def forward(self, inputs: Float[Tensor, "n ch h w"]) -> Float[Tensor, "n c"]:
        features = self.stem(inputs)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = norm(layer(features)).relu()
        return self.classifier(features.flatten(1))
