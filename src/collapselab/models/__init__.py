"""The papers' networks."""

from collapselab.models.mlp import MLP

__all__ = ["MLP"]
