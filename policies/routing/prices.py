"""Shadow prices of stock and capacity, at which orders that choose for themselves take no more than there is."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.routing.ascent import Ascent, Floats
from policies.routing.batch import NEVER, Mills, cheapest_nodes, serving_nodes
from policies.routing.held_orders import HeldOrders, Ints

Flags = npt.NDArray[np.bool_]


class Prices(NamedTuple):
    """Shadow prices of stock (S, N) and capacity (N), the bound that they prove (mills), and which orders weaken it."""

    stock: Mills
    capacity: Mills
    bound: int
    bounded: Flags


_NOTHING = Prices(np.zeros((0, 0), np.int64), np.zeros(0, np.int64), -(1 << 62), np.zeros(0, bool))

# The first step, as a share of what a parcel costs.
_FIRST_STEP = 0.15


def price(held: HeldOrders, rounds: int, ahead: float = 1.0) -> Prices:
    """The prices of ``rounds`` rounds that prove the highest bound.

    ``ahead``: how many times these orders are expected to come, of whom each finds its part of the stock; the bound
    is then that of one time. Raises ``ValueError`` for no rounds or no time ahead.
    """
    if rounds < 1 or ahead <= 0:
        raise ValueError(f"prices take at least one round and some time ahead, not {rounds} and {ahead}")
    units = np.concatenate([held.stock.ravel(), held.capacity]) / ahead
    ascent = Ascent(_first_step(held), rounds)
    best = _NOTHING
    for _ in range(rounds):
        stock, capacity = apart(held, np.rint(ascent.prices).astype(np.int64))
        orders = held.priced(stock, capacity)
        choices = cheapest_nodes(orders)
        # In whole numbers, and rounded down: a bound must not profit from rounding.
        worth = int((stock * held.stock).sum()) + int((capacity * held.capacity).sum())
        bound = int(choices.bound.sum()) - (worth if ahead == 1.0 else -int(-worth // ahead))
        if bound > best.bound:
            best = Prices(stock, capacity, bound, ~choices.exact)
        used = used_by(held, serving_nodes(orders, choices.nodes)).total(len(units))
        ascent.rise(used - units)
    return best


def _first_step(held: HeldOrders) -> Floats:
    """Per resource: a share of what a parcel costs, for a unit divided by how many of them a line usually has."""
    possible = held.opening[held.opening < NEVER]
    parcel = float(np.median(possible)) if len(possible) else 1.0
    lines = np.bincount(held.sku, minlength=len(held.stock))
    usual = np.bincount(held.sku, held.quantity, len(held.stock)) / np.maximum(lines, 1)
    per_unit = parcel / np.maximum(usual, 1)
    return _FIRST_STEP * np.concatenate([np.repeat(per_unit, held.nodes), np.full(held.nodes, parcel)])


def apart(held: HeldOrders, resources: Ints) -> tuple[Ints, Ints]:
    """Resources in one row as those of stock (S, N) and of capacity (N)."""
    stock = held.stock.size
    return resources[:stock].reshape(held.stock.shape), resources[stock:]


# --- what orders take: units of a SKU at a node, and shipments of a node, are resources alike ---
class Use(NamedTuple):
    """One entry per order and resource: place of the order, of the resource (stock row by row, then capacity),
    amount.
    """

    order: Ints
    resource: Ints
    amount: Ints

    def total(self, resources: int) -> Ints:
        """Taken of each of so many resources."""
        return np.bincount(self.resource, self.amount, resources).astype(np.int64)

    def of(self, orders: Flags) -> "Use":
        """What these orders (O) take of it."""
        kept = orders[self.order]
        return Use(self.order[kept], self.resource[kept], self.amount[kept])


def used_by(held: HeldOrders, node: Ints) -> Use:
    """What all orders take, when ``node`` (L, -1: unfilled) serves each line."""
    served = np.flatnonzero(node >= 0)
    order, opened = np.nonzero(held.shipments(node))
    return Use(
        np.concatenate([held.order[served], order]),
        np.concatenate([held.sku[served] * held.nodes + node[served], held.stock.size + opened]),
        np.concatenate([held.quantity[served], np.ones_like(order)]),
    )
