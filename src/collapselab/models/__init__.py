"""Networks by name: those of the papers, those of torchvision and timm, and the user's own."""

from collapselab.models.checkpoints import load_checkpoint
from collapselab.models.convnet import ConvNet
from collapselab.models.fixed_layers import FixedNetwork, fix_collapsed_layers
from collapselab.models.mlp import MLP
from collapselab.models.opening import (
    model_title,
    open_model,
    required_channels,
    required_image_size,
    untrained,
)
from collapselab.models.user_file import is_user_file
from collapselab.models.vgg import VGG11

__all__ = [
    "MLP",
    "VGG11",
    "ConvNet",
    "FixedNetwork",
    "fix_collapsed_layers",
    "is_user_file",
    "load_checkpoint",
    "model_title",
    "open_model",
    "required_channels",
    "required_image_size",
    "untrained",
]
