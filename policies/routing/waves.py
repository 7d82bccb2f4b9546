"""Routes a batch of held orders together: who gets the scarce units, so that all orders together cost least.

1. Prices: what an order must not pay for stock is put on it as a price per unit (Lagrangian relaxation); with prices
the
   orders fall apart, and each is solved exactly (``policies.routing.batch``). Prices rise where too much is taken, in
   steps that each resource adapts to how its excess moves (``policies.routing.ascent``). Every set of prices proves
   a lower bound, that of the best is kept; at its best it equals the LP bound of the node-set formulation (one
   variable per order and set of nodes with its lines; Amil, Makhdoumi & Wei 2025), for each order alone is solved in
   whole numbers.
2. Repair: with the best prices all orders choose again, and are accepted as far as there is stock, whoever would lose
   most first; who was not, chooses again from what is left.
3. Improvement: again and again a part of the orders is taken back and routed anew at slightly different prices.
Orders that
   do not compete with each other are judged apart: what got cheaper together is kept.

Pure and repeatable: the same orders, effort and seed give the same plan. Time is bounded by the effort, not by a clock.
"""

from dataclasses import dataclass

import numpy as np

from policies.routing.batch import NEVER, Mills, cheapest_nodes, serving_nodes
from policies.routing.held_orders import HeldOrders, Ints
from policies.routing.prices import Flags, Prices, Use, apart, price, used_by


@dataclass(frozen=True)
class Effort:
    """How much is tried: rounds of pricing; rounds of improvement, each of this share of the orders; and the seed."""

    pricing: int = 50
    improvement: int = 75
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pricing < 1 or self.improvement < 0 or not 0 < self.share <= 1:
            raise ValueError(
                f"a wave needs at least one round of pricing, none below zero of improvement, and a share of the "
                f"orders between 0 and 1, not {self}"
            )


@dataclass(frozen=True)
class WavePlan:
    """``node`` (L): which node serves each line, -1: unfilled. ``cost`` and the proven lower ``bound`` of any plan:
    mills.

    ``stock_prices`` (S, N) and ``capacity_prices`` (N): the shadow prices of the bound, mills per unit and per
    shipment.
    ``bounded`` (O): orders too large for the exact search; they were routed by the bounded one
    (``policies.routing.batch``), and entered the bound by a lower estimate.
    """

    node: Ints
    cost: int
    bound: int
    stock_prices: Mills
    capacity_prices: Mills
    bounded: Flags

    @property
    def gap(self) -> float:
        """By how much of the bound the plan may, at most, be too dear; 0.03 is 3 %."""
        return self.cost / self.bound - 1 if self.bound > 0 else 0.0 if self.cost == 0 else float("inf")


def route_wave(held: HeldOrders, effort: Effort = Effort()) -> WavePlan:
    """A feasible plan for all orders together, and how far it can be from the best. Memory grows with lines × nodes."""
    prices = price(held, effort.pricing)
    repaired = _repaired(held, prices.stock, prices.capacity)
    node = _improved(held, repaired, prices, effort)
    return WavePlan(
        node=node,
        cost=int(held.costs(node).sum()),
        bound=prices.bound,
        stock_prices=prices.stock,
        capacity_prices=prices.capacity,
        bounded=prices.bounded,
    )


# --- repair ---
def _repaired(held: HeldOrders, stock_prices: Mills, capacity_prices: Mills) -> Ints:
    """The node of each line (L), feasible. Ends: whoever loses most gets what it chose, in every round."""
    node = np.full(len(held.sku), -1, np.int64)
    left = np.concatenate([held.stock.ravel(), held.capacity])
    waiting = np.arange(held.orders)
    while len(waiting):
        stock, capacity = apart(held, left)
        rest = held.part(waiting, stock=stock, capacity=capacity)
        orders = rest.priced(stock_prices, capacity_prices)
        choices = cheapest_nodes(orders)
        chosen = serving_nodes(orders, choices.nodes)
        # What an order pays more if it gets nothing from where it wants it.
        taken = np.flatnonzero(chosen >= 0)
        refused = orders.line.copy()
        refused[taken, chosen[taken]] = NEVER
        loss = cheapest_nodes(orders._replace(line=refused)).cost - choices.cost
        use = used_by(rest, chosen)
        accepted = _accepted(use, loss, left)
        _, places = held.places(waiting)
        goes = np.repeat(accepted, rest.lines_of)
        node[places[goes]] = chosen[goes]
        left = left - use.of(accepted).total(len(left))
        waiting = waiting[~accepted]
    return node


def _accepted(use: Use, loss: Ints, left: Ints) -> Flags:
    """Which orders get all that they chose, if at each resource the greatest loss comes first."""
    by_loss = np.lexsort((use.order, -loss[use.order], use.resource))
    resource, amount = use.resource[by_loss], use.amount[by_loss]
    taken = np.cumsum(amount)
    first = np.concatenate([[True], resource[1:] != resource[:-1]])[: len(resource)]
    taken = taken - np.maximum.accumulate(np.where(first, taken - amount, 0))
    accepted = np.ones(len(loss), bool)
    accepted[use.order[by_loss][taken > left[resource]]] = False
    return accepted


# --- improvement ---
# How far prices are varied (log-normal), so that each round tries something else.
_VARIED = 0.1


def _improved(held: HeldOrders, node: Ints, prices: Prices, effort: Effort) -> Ints:
    chance = np.random.default_rng(effort.seed)
    node = node.copy()
    resources = held.stock.size + held.nodes
    left = np.concatenate([held.stock.ravel(), held.capacity]) - used_by(held, node).total(resources)
    for _ in range(effort.improvement):
        again = np.sort(chance.choice(held.orders, max(1, int(effort.share * held.orders)), replace=False))
        varied = prices.stock * np.exp(_VARIED * chance.standard_normal(prices.stock.shape))
        part = held.part(again)
        _, places = held.places(again)
        before = used_by(part, node[places])
        stock, capacity = apart(held, left + before.total(resources))
        part = held.part(again, stock=stock, capacity=capacity)
        other = _repaired(part, np.rint(varied).astype(np.int64), prices.capacity)
        after = used_by(part, other)
        together = _competing(before, after, left, len(again))
        gain = np.bincount(together, part.costs(node[places]) - part.costs(other), len(again))
        better = gain[together] > 0
        goes = np.repeat(better, part.lines_of)
        node[places[goes]] = other[goes]
        left = left + before.of(better).total(resources) - after.of(better).total(resources)
    return node


def _competing(before: Use, after: Use, left: Ints, orders: int) -> Ints:
    """A label per order: those with different labels may each keep the old or take the new plan, and there is enough.

    That is so unless they change what they take of a resource that does not have enough for all that take more.
    """
    resources = len(left)
    change = Use(
        np.concatenate([before.order, after.order]),
        np.concatenate([before.resource, after.resource]),
        np.concatenate([-before.amount, after.amount]),
    )
    keys, inverse = np.unique(change.order * resources + change.resource, return_inverse=True)
    amount = np.bincount(inverse, change.amount, len(keys)).astype(np.int64)
    order, resource = np.divmod(keys, resources)
    more = np.bincount(resource, np.maximum(amount, 0), resources)
    tied = (amount != 0) & (more > left)[resource]
    order, resource = order[tied], resource[tied]
    by_resource = np.argsort(resource, kind="stable")
    order, resource = order[by_resource], resource[by_resource]
    neighbours = resource[1:] == resource[:-1]
    return _connected(order[1:][neighbours], order[:-1][neighbours], orders)


def _connected(one: Ints, other: Ints, orders: int) -> Ints:
    """The smallest order that each is connected with by the pairs ``one``-``other``."""
    label = np.arange(orders)
    while True:
        least = np.minimum(label[one], label[other])
        lower = label.copy()
        np.minimum.at(lower, one, least)
        np.minimum.at(lower, other, least)
        lower = lower[lower]
        if np.array_equal(lower, label):
            return label
        label = lower
