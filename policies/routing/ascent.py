"""Finds prices at which what is taken of each resource fits what there is: projected subgradient ascent, in float
mills.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# The usual constants of Adam (Kingma & Ba 2015), but quicker to forget: the rounds are few.
_MOMENTUM, _VARIANCE, _NO_EXCESS = 0.7, 0.9, 1e-3
# The last step, as a share of the first.
_LAST_STEP = 0.05


class Ascent:
    """Prices (one per resource, any shape) that begin at zero and are never below it.

    ``first_step`` (the same shape): by how many mills a price may move in the first round; in the last of ``rounds``
    it is a twentieth of that. Each resource adapts its step to how steadily its excess points one way.
    """

    def __init__(self, first_step: Floats, rounds: int) -> None:
        self.prices: Floats = np.zeros_like(first_step)
        self._step = first_step
        self._shrink = _LAST_STEP ** (1 / rounds)
        self._mean: Floats = np.zeros_like(first_step)
        self._square: Floats = np.zeros_like(first_step)

    def rise(self, excess: Floats) -> None:
        """One round: ``excess`` is what was taken at the present prices beyond what there is, below zero if there is
        more.
        """
        excess = np.where((self.prices <= 0) & (excess < 0), 0, excess)
        self._mean = _MOMENTUM * self._mean + (1 - _MOMENTUM) * excess
        self._square = _VARIANCE * self._square + (1 - _VARIANCE) * excess**2
        moved = self.prices + self._step * self._mean / (np.sqrt(self._square) + _NO_EXCESS)
        self.prices = np.maximum(moved, 0)
        self._step = self._step * self._shrink
