"""The inner loop of the dynamic program over sets of lines, on numpy and, where numba is installed, compiled."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Division = Callable[[Ints, int], list[Ints]]


def division(compiled: bool | None) -> Division:
    """The search for the cheapest division of every set of lines into shipments.

    It takes the price of each set as one shipment (2^n, that of the empty set 0) and the most shipments, and gives
    layers: the ``k``-th holds the cheapest division of each set into at most ``k``; it ends with the layer that no
    further shipment makes cheaper. ``compiled``: see ``policies.routing.dp.solve``; ``True`` without numba is an error.
    """
    kernel = None if compiled is False else _compiled()
    if kernel is None:
        if compiled:
            raise ModuleNotFoundError("numba is not installed: install orderwright[fast]")
        return _divisions
    return lambda prices, most: _layers(prices, most, kernel)


def warm_up() -> None:
    """Compile, or load what was compiled before, so that the first order does not wait for it."""
    division(None)(np.zeros(4, dtype=np.int64), 2)


def _divisions(prices: Ints, most: int) -> list[Ints]:
    parts, rests, starts = _pairs(prices.size.bit_length() - 1)
    first = prices[parts]

    def next_layer(_: Ints, before: Ints) -> Ints:
        after = np.empty_like(before)
        after[0] = 0
        after[1:] = np.minimum.reduceat(first + before[rests], starts)
        return after

    return _layers(prices, most, next_layer)


def _layers(prices: Ints, most: int, next_layer: Callable[[Ints, Ints], Ints]) -> list[Ints]:
    nothing = np.full_like(prices, prices.max())
    nothing[0] = 0
    layers = [nothing]
    if most > 0:
        layers.append(prices)
    while 1 < len(layers) <= most:
        after = next_layer(prices, layers[-1])
        if np.array_equal(after, layers[-1]):
            break
        layers.append(after)
    return layers


@lru_cache
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """All ways to take a part with its first line out of each set but the empty one.

    Gives the parts, the rests, both (3^n - 1) / 2 long and in order of the sets, and where each set's ways begin.
    """
    parts = np.zeros(1, dtype=np.intp)
    sets = np.zeros(1, dtype=np.intp)
    for line in range(count):
        bit = 1 << line
        parts = np.concatenate((parts, parts | bit, parts))
        sets = np.concatenate((sets, sets | bit, sets | bit))
    kept = (parts & sets & -sets) != 0
    parts, sets = parts[kept], sets[kept]
    order = np.argsort(sets, kind="stable")
    parts, sets = parts[order], sets[order]
    return parts, sets ^ parts, np.flatnonzero(np.diff(sets, prepend=0))


@lru_cache
def _compiled() -> Any | None:
    try:
        from numba import njit  # noqa: PLC0415 - only there with the extra "fast", and slow to import
    except ImportError:
        return None
    return njit("int64[::1](int64[::1], int64[::1])", cache=True)(_next_layer)


def _next_layer(prices: Ints, before: Ints) -> Ints:
    after = np.zeros_like(before)
    for whole in range(1, before.size):
        others = whole & (whole - 1)
        rest = others
        best = prices[whole ^ rest] + before[rest]
        while rest:
            rest = (rest - 1) & others
            best = min(best, prices[whole ^ rest] + before[rest])
        after[whole] = best
    return after
