"""The cheapest choice of nodes for many orders at once, each order for itself: exact, in whole mills.

An order's cost, given the nodes that it opens, is the sum of their opening charges, a split charge for each beyond the
first, and for each line the cheapest of: its cost at an open node, or staying unfilled. Lines are not split.
Two exact searches share the work, whichever is smaller for an order: over subsets of lines (a dynamic programme,
node by node) for few lines, over sets of nodes for few nodes. An order that is too large for both gets a bounded
search: the best of all sets of at most two nodes, to which nodes are added while that helps. It is feasible, and
comes with a bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Mills = npt.NDArray[np.int64]

# A line cannot come from there, or a node cannot serve the order. Far above any cost, far below overflow when added up.
NEVER = 1 << 44

# Up to here the dynamic programme's 2^lines states are worth it; beyond, only sets of few nodes are exact.
MOST_LINES = 12
MOST_NODES_IN_ALL_SETS = 10
MOST_NODES = 24

# States of the search that are at work together: they should stay in a core's cache.
_TOGETHER = 1 << 15


class Orders(NamedTuple):
    """Many orders, in mills (thousandths of a minor unit). ``O`` orders with ``L`` lines in all, ``N`` nodes.

    ``first_line`` (O + 1): the lines of order ``o`` are ``first_line[o]`` to ``first_line[o + 1]``. ``opening`` (O, N),
    ``split`` (O), ``line`` (L, N), ``unfilled`` (L). ``NEVER`` and more stands for what is not possible.
    """

    first_line: npt.NDArray[np.int64]
    opening: Mills
    split: Mills
    line: Mills
    unfilled: Mills


@dataclass(frozen=True)
class Choices:
    """``nodes`` (O): the open nodes of each order, as bits. ``cost`` (O) of it, mills. ``bound`` (O): no choice
    costs less; it equals ``cost`` where ``exact`` (O).
    """

    nodes: npt.NDArray[np.int64]
    cost: Mills
    bound: Mills
    exact: npt.NDArray[np.bool_]


def cheapest_nodes(orders: Orders) -> Choices:
    """The cheapest set of nodes of every order; ties go to the set with the smaller bits, so that it is repeatable."""
    how_many = np.diff(orders.first_line)
    chosen = np.zeros(len(how_many), np.int64)
    cost = np.zeros(len(how_many), np.int64)
    bound = np.zeros(len(how_many), np.int64)
    exact = np.ones(len(how_many), bool)
    nodes = orders.opening.shape[1]
    for group, lines in _alike(how_many, nodes):
        part = _part(orders, group, lines)
        if _by_node_sets(lines, nodes):
            chosen[group], cost[group] = _over_node_sets(part)
        elif lines <= MOST_LINES:
            chosen[group], cost[group] = _over_line_sets(part)
        else:
            chosen[group], cost[group], bound[group] = _bounded(part)
            exact[group] = False
            continue
        bound[group] = cost[group]
    return Choices(chosen, cost, bound, exact)


def serving_nodes(orders: Orders, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The node of every line (L) when its order opens ``nodes`` (O, bits): the cheapest; -1 where unfilled is
    cheaper.
    """
    of_line = np.repeat(nodes, np.diff(orders.first_line))
    is_open = (of_line[:, None] >> np.arange(orders.line.shape[1])) & 1 == 1
    offers = np.where(is_open, orders.line, NEVER)
    best = offers.argmin(axis=1)
    kept = np.take_along_axis(offers, best[:, None], axis=1)[:, 0]
    return np.where(kept < orders.unfilled, best, -1)


# --- groups of orders that can be searched together ---
class _Part(NamedTuple):
    """``B`` orders of ``n`` lines, the orders last: neighbours in memory are the same state of different orders."""

    opening: Mills  # (N, B)
    split: Mills  # (B)
    line: Mills  # (n, N, B)
    unfilled: Mills  # (n, B)


def _by_node_sets(lines: int, nodes: int) -> bool:
    return nodes <= MOST_NODES_IN_ALL_SETS and nodes <= lines


def _alike(how_many: npt.NDArray[np.int64], nodes: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Places of orders with as many lines. Long orders of different length are filled up with lines that cost
    nothing.
    """
    padded = np.where(how_many > MOST_LINES, -(-how_many // 8) * 8, how_many)
    for lines in np.unique(padded).tolist():
        group = np.flatnonzero(padded == lines)
        states = lines << nodes if _by_node_sets(lines, nodes) else 1 << min(lines, MOST_LINES)
        most = max(1, _TOGETHER // max(1, states))
        for start in range(0, len(group), most):
            yield group[start : start + most], lines


def _part(orders: Orders, group: npt.NDArray[np.int64], lines: int) -> _Part:
    first = orders.first_line[group]
    places = first[:, None] + np.arange(lines)
    filler = places >= orders.first_line[group + 1][:, None]
    places = np.where(filler, 0, places)
    line = np.where(filler[:, :, None], 0, np.take(orders.line, places, axis=0))
    unfilled = np.where(filler, 0, orders.unfilled[places])
    # What costs more than leaving a line, or a whole order, unfilled is never chosen: so no sum can overflow.
    line = np.minimum(line, unfilled[:, :, None])
    opening = np.minimum(orders.opening[group], unfilled.sum(axis=1)[:, None] + 1)
    return _Part(
        np.ascontiguousarray(opening.T),
        np.minimum(orders.split[group], unfilled.sum(axis=1) + 1),
        np.ascontiguousarray(line.transpose(1, 2, 0)),
        np.ascontiguousarray(unfilled.T),
    )


# --- exact: over subsets of lines ---
def _over_line_sets(part: _Part) -> tuple[npt.NDArray[np.int64], Mills]:
    """State: the set of lines decided on. A state's value carries its open nodes in the low bits, so that the minimum
    of two states takes the nodes along, and a tie goes to the smaller set.
    """
    lines, nodes, orders = part.line.shape
    none = np.zeros((1 << lines, orders), np.int64)
    for line in range(lines):
        none[1 << line : 2 << line] = none[: 1 << line] + (part.unfilled[line] << nodes)
    some = np.full_like(none, np.iinfo(np.int64).max >> 1)
    cost, opening, split = part.line << nodes, part.opening << nodes, part.split << nodes
    for node in range(nodes):
        opened = np.minimum(none, some + split)
        opened += opening[node] + (1 << node)
        for line in range(lines):
            pairs = opened.reshape(1 << (lines - line - 1), 2, 1 << line, orders)
            np.minimum(pairs[:, 1], pairs[:, 0] + cost[line, node], out=pairs[:, 1])
        np.minimum(some, opened, out=some)
    best = np.minimum(none[-1], some[-1])
    return best & ((1 << nodes) - 1), best >> nodes


# --- exact: over sets of nodes ---
def _over_node_sets(part: _Part) -> tuple[npt.NDArray[np.int64], Mills]:
    lines, nodes, orders = part.line.shape
    served = np.empty((1 << nodes, lines, orders), np.int64)
    opening = np.empty((1 << nodes, orders), np.int64)
    served[0], opening[0] = part.unfilled, -part.split
    for node in range(nodes):
        here, there = slice(1 << node), slice(1 << node, 2 << node)
        np.minimum(served[here], part.line[:, node], out=served[there])
        np.add(opening[here], part.opening[node] + part.split, out=opening[there])
    opening[0] = 0
    total = served.sum(axis=1) + opening
    best = total.argmin(axis=0)
    return best, np.take_along_axis(total, best[None], axis=0)[0]


# --- neither few lines nor few nodes ---
def _bounded(part: _Part) -> tuple[npt.NDArray[np.int64], Mills, Mills]:
    chosen, cost = [], []
    for order in range(part.split.shape[0]):
        nodes, total = _grown(
            part.opening[:, order],
            int(part.split[order]),
            part.line[:, :, order],
            part.unfilled[:, order],
        )
        chosen.append(nodes)
        cost.append(total)
    # However many lines share a parcel, each bears at least its part of the opening among all lines.
    lines = np.maximum((part.unfilled > 0).sum(axis=0), 1)
    shared = np.minimum((part.line + part.opening // lines).min(axis=1), part.unfilled).sum(axis=0)
    return np.array(chosen, np.int64), np.array(cost, np.int64), np.minimum(shared, cost)


def _grown(opening: Mills, split: int, line: Mills, unfilled: Mills) -> tuple[int, int]:
    """The best of no node, one and two nodes, and from there one more node as long as that is cheaper."""
    nodes = len(opening)
    one = np.minimum(line, unfilled[:, None])
    two = np.minimum(one[:, :, None], one[:, None, :]).sum(axis=0) + opening[:, None] + opening + split
    np.fill_diagonal(two, one.sum(axis=0) + opening)
    first, second = np.unravel_index(two.argmin(), two.shape)
    if int(unfilled.sum()) <= int(two[first, second]):
        return 0, int(unfilled.sum())
    chosen = (1 << int(first)) | (1 << int(second))
    total, served = int(two[first, second]), np.minimum(one[:, first], one[:, second])
    for _ in range(nodes):
        more = np.minimum(served[:, None], one).sum(axis=0) + opening + split
        node = int(more.argmin())
        gain = int(served.sum() - more[node])
        if gain <= 0:
            break
        chosen, total, served = chosen | (1 << node), total - gain, np.minimum(served, one[:, node])
    return chosen, total
