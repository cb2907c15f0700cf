"""Measuring inside other people's training: a hand-written loop, Lightning, the Trainer of `transformers`.

`collapselab.integrations.lightning` and `collapselab.integrations.transformers` need these libraries and are imported
by name; everything that measures, writes and logs is in `Monitor`.
"""

from collapselab.integrations.monitor import Monitor

__all__ = ["Monitor"]
