"""Networks by name: those of the papers, those of torchvision and timm, and the user's own."""

from collapselab.models.checkpoints import load_checkpoint
from collapselab.models.convnet import ConvNet
from collapselab.models.mlp import MLP
from collapselab.models.opening import model_title, open_model, required_channels, required_image_size

__all__ = [
    "MLP",
    "ConvNet",
    "load_checkpoint",
    "model_title",
    "open_model",
    "required_channels",
    "required_image_size",
]
