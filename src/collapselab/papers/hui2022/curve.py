"""A metric over the measured steps of one run, and how fast it falls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from collapselab.errors import InputError

_MIN_POINTS = 3


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric over the measured steps of one run, with references at the last of them.

    Attributes:
        steps: increasing, 0 or more.
        values: NaN where undefined or not measured.

    Raises:
        InputError: no steps, steps out of order, another number of values, values that are no variances.
    """

    steps: Int[np.ndarray, " s"]
    values: Float[np.ndarray, " t"]

    def __post_init__(self) -> None:
        if len(self.steps) == 0 or len(self.steps) != len(self.values):
            raise InputError(
                f"curve: {len(self.steps)} steps and {len(self.values)} values; give one value per step"
            )
        if self.steps[0] < 0 or bool((np.diff(self.steps) <= 0).any()):
            raise InputError(
                "curve: steps do not increase from 0 or more; give the steps of one run, in order"
            )
        wrong = np.isinf(self.values) | (self.values < 0)
        if bool(wrong.any()):
            first = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"curve: the value at step {self.steps[first]} is {self.values[first]:g}; variances are finite and not negative"
            )

    def slope(self, share: float) -> float | None:
        """Least-squares slope of log value over log step, in the last `share` of the log-spaced steps before T.

        Returns:
            The exponent of a power law; None with fewer than three positive values there.
        """
        inside = self._late(share) & (self.values > 0)
        if int(inside.sum()) < _MIN_POINTS:
            return None
        return float(np.polyfit(np.log(self.steps[inside]), np.log(self.values[inside]), 1)[0])

    def has_turned(self, share: float) -> bool:
        """Whether the value at T lies above one in the last `share` of the log-spaced steps before it.

        The value at T is biased low, see `definitions`: that it is not lower still says that the curve has been lower.
        """
        return bool((self.values[self._late(share)] < self.values[-1]).any())

    def _late(self, share: float) -> npt.NDArray[np.bool_]:
        """Which steps are in the last `share` of the log-spaced ones, T itself left out."""
        later = self.steps[self.steps > 0]
        if len(later) == 0:
            return np.zeros(len(self.steps), dtype=np.bool_)
        first, last = np.log(later[0]), np.log(later[-1])
        with np.errstate(divide="ignore"):  # of step 0, which is never inside
            log_steps = np.log(self.steps)
        # Rounding of the logarithms must not push out a step that lies on the border.
        return (log_steps >= last - share * (last - first) - 1e-9) & (self.steps < self.steps[-1])
