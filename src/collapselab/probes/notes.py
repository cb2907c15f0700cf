"""Remember that something was true of a batch, without waiting for an accelerator that knows it."""

from __future__ import annotations

from torch import Tensor

from collapselab.statistics import is_deferred


class Notes:
    """Names of what was true at least once.

    Conditions on the CPU are looked at when they are noted, those on an accelerator by `settle`.

    Attributes:
        known: names so far.
    """

    def __init__(self) -> None:
        self.known: set[str] = set()
        self._waiting: dict[str, Tensor] = {}

    def add(self, name: str, condition: Tensor) -> None:
        """Note a condition, a single truth value."""
        if not is_deferred("auto", condition.device):
            self.known |= {name} if bool(condition) else set()
            return
        earlier = self._waiting.get(name)
        # A model may be spread over devices.
        self._waiting[name] = condition if earlier is None else earlier | condition.to(earlier.device)

    def settle(self) -> None:
        """Look at the conditions that wait."""
        waiting, self._waiting = self._waiting, {}
        self.known |= {name for name, condition in waiting.items() if bool(condition)}
