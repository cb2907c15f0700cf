"""Measuring inside other training code: a hand-written loop, Lightning, the Trainer of `transformers`.

`collapselab.integrations.lightning` and `collapselab.integrations.transformers` need these libraries, so import them
explicitly. `Monitor` does all measuring, writing and logging.
"""

from collapselab.integrations.monitor import Monitor

__all__ = ["Monitor"]
