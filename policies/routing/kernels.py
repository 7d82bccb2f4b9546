"""The inner loops of the dynamic program over sets of lines, on numpy and, where numba is installed, compiled."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# A price carries how many shipments it is of in its lowest bits: of equal prices the fewest shipments are least.
COUNT_BITS = 4
COUNTED = (1 << COUNT_BITS) - 1

# Options at a time on numpy: their prices for 1,024 sets of lines then stay in the processor's cache.
_BLOCK = 32


class Kernels(NamedTuple):
    """``shipments``: the cheapest price (2^n) of each set of lines as one shipment, from what each line costs with each
    option (O × n), what each option costs beside (O), and the most that a price can be. ``divisions``: the cheapest
    division (2^n) of each set into shipments from the price of each set as one (2^n), both with their counts.
    """

    shipments: Callable[[Ints, Ints, int], Ints]
    divisions: Callable[[Ints], Ints]


def kernels(compiled: bool | None) -> Kernels:
    """See ``policies.routing.dp.solve`` for ``compiled``; ``True`` without numba is an error."""
    found = None if compiled is False else _compiled()
    if found is None:
        if compiled:
            raise ModuleNotFoundError("numba is not installed: install orderwright[fast]")
        return Kernels(_shipments, _divisions)
    return found


def warm_up() -> None:
    """Compile, or load what was compiled before, so that the first order does not wait for it."""
    found = kernels(None)
    found.shipments(np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.int64), 1)
    found.divisions(np.zeros(4, dtype=np.int64))


def within(prices: Ints, most: int) -> list[Ints]:
    """The cheapest division of every set of lines into few shipments.

    It takes the price of each set as one shipment (2^n, that of the empty set 0) and the most shipments, and gives
    layers: the ``k``-th holds the cheapest division of each set into at most ``k``; it ends with the layer that no
    further shipment makes cheaper.
    """
    nothing = np.full_like(prices, prices.max())
    nothing[0] = 0
    layers = [nothing]
    if most > 0:
        layers.append(prices)
    ways = _ways(prices.size.bit_length() - 1)
    first = prices[ways.parts]
    while 1 < len(layers) <= most:
        after = np.empty_like(prices)
        after[0] = 0
        after[ways.sets] = np.minimum.reduceat(first + layers[-1][ways.rests], ways.starts)
        if np.array_equal(after, layers[-1]):
            break
        layers.append(after)
    return layers


def first_part(prices: Ints, rest: Ints, whole: int, price: int) -> int:
    """The part with the first line of ``whole`` whose price and that of the rest make up ``price``; the lowest one."""
    ways = _ways(prices.size.bit_length() - 1)
    start = ways.starts[ways.place[whole]]
    parts = ways.parts[start : start + (1 << (whole.bit_count() - 1))]
    return int(parts[(prices[parts] + rest[whole ^ parts] == price).argmax()])


class _Ways(NamedTuple):
    """All ways to take a part with its first line out of each set but the empty one: (3^n - 1) / 2.

    ``parts`` and ``rests``: by set, the smaller sets first, and rising within each; ``starts``: where the ways of each
    of ``sets`` begin; ``place`` (2^n): of each set in these; ``sizes``: how many sets and ways are up to each size.
    """

    parts: NDArray[np.intp]
    rests: NDArray[np.intp]
    starts: NDArray[np.intp]
    sets: NDArray[np.intp]
    place: NDArray[np.intp]
    sizes: tuple[tuple[int, int], ...]


@lru_cache
def _ways(count: int) -> _Ways:
    parts = np.zeros(1, dtype=np.intp)
    sets = np.zeros(1, dtype=np.intp)
    for line in range(count):
        bit = 1 << line
        parts = np.concatenate((parts, parts | bit, parts))
        sets = np.concatenate((sets, sets | bit, sets | bit))
    kept = (parts & sets & -sets) != 0
    parts, sets = parts[kept], sets[kept]
    size = np.bitwise_count(sets)
    order = np.lexsort((parts, sets, size))
    parts, sets, size = parts[order], sets[order], size[order]
    starts = np.flatnonzero(np.diff(sets, prepend=0))
    place = np.zeros(1 << count, dtype=np.intp)
    place[sets[starts]] = np.arange(len(starts))
    sizes = tuple(
        (int(np.searchsorted(size[starts], least)), int(np.searchsorted(size, least)))
        for least in range(1, count + 2)
    )
    return _Ways(parts, sets ^ parts, starts, sets[starts], place, sizes)


def _divisions(prices: Ints) -> Ints:
    best = np.zeros_like(prices)
    ways = _ways(prices.size.bit_length() - 1)
    first = prices[ways.parts]
    # The sets of one size after the other: the rest of a set is smaller than the set.
    for (low, begin), (high, end) in zip(ways.sizes[:-1], ways.sizes[1:], strict=True):
        costs = first[begin:end] + best[ways.rests[begin:end]]
        best[ways.sets[low:high]] = np.minimum.reduceat(costs, ways.starts[low:high] - begin)
    return best


def _shipments(lines: Ints, fixed: Ints, most: int) -> Ints:
    options, count = lines.shape
    found = np.full(1 << count, most, dtype=np.int64)
    for start in range(0, options, _BLOCK):
        block = lines[start : start + _BLOCK]
        sums = np.empty((len(block), 1 << count), dtype=np.int64)
        sums[:, 0] = fixed[start : start + _BLOCK]
        for place in range(count):
            size = 1 << place
            np.add(sums[:, :size], block[:, place, None], out=sums[:, size : 2 * size])
        np.minimum(found, sums.min(axis=0), out=found)
    return found


@lru_cache
def _compiled() -> Kernels | None:
    try:
        from numba import njit  # noqa: PLC0415 - only there with the extra "fast", and slow to import
    except ImportError:
        return None
    shipments: Any = njit("int64[::1](int64[:,::1], int64[::1], int64)", cache=True)(_shipments_by_loops)
    divisions: Any = njit("int64[::1](int64[::1])", cache=True)(_divisions_by_loops)
    return Kernels(shipments, divisions)


def _shipments_by_loops(lines: Ints, fixed: Ints, most: int) -> Ints:
    options, count = lines.shape
    found = np.full(1 << count, most, np.int64)
    sums = np.empty(1 << count, np.int64)
    for option in range(options):
        sums[0] = fixed[option]
        for place in range(count):
            size = 1 << place
            cost = lines[option, place]
            for served in range(size):
                sums[size + served] = sums[served] + cost
        for served in range(1 << count):
            found[served] = min(found[served], sums[served])
    return found


def _divisions_by_loops(prices: Ints) -> Ints:
    best = np.zeros_like(prices)
    for whole in range(1, prices.size):
        others = whole & (whole - 1)
        rest = others
        least = prices[whole ^ rest] + best[rest]
        while rest:
            rest = (rest - 1) & others
            least = min(least, prices[whole ^ rest] + best[rest])
        best[whole] = least
    return best
