"""The rules that ``benchmarks.routing_streams`` compares: each routes a whole world and answers the node of each
line.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from benchmarks.routing_worlds import PLENTY, Floats, World
from policies.routing.batch import NEVER, Mills, Orders, cheapest_nodes, serving_nodes
from policies.routing.held_orders import HeldOrders, Ints
from policies.routing.lookahead import ShadowPrices, expected_demand, prices_of_recent, shadow_prices
from policies.routing.waves import Effort, route_wave

Flags = npt.NDArray[np.bool_]
# Given the order and which of its lines (n) each node (N) can send: the node of each line, -1 for none.
Choose = Callable[[int, Flags], Ints]
# Given the next order and the stock that is left: mills on top of each unit (S, N).
Price = Callable[[int, Ints], Mills]
_NOBODY = -1


# --- one after the other ---
def stream(world: World, choose: Choose) -> Ints:
    """The node of each line (L) when orders are routed as they come, each with what those before it left."""
    return _stream(world, lambda order, can, _left: choose(order, can))


def _stream(world: World, choose: Callable[[int, Flags, Ints], Ints]) -> Ints:
    held = world.held
    node = np.full(len(held.sku), _NOBODY, np.int64)
    stock, capacity, today = held.stock.copy(), held.capacity.copy(), world.at[0].date()
    possible = held.line < NEVER
    for order in range(held.orders):
        if world.per_day and world.at[order].date() != today:
            capacity, today = held.capacity.copy(), world.at[order].date()
        lines = slice(held.first_line[order], held.first_line[order + 1])
        sku, units = held.sku[lines], held.quantity[lines]
        can = (stock[sku] >= units[:, None]) & possible[lines] & (capacity > 0)
        chosen = choose(order, can, stock)
        served = chosen >= 0
        stock[sku[served], chosen[served]] -= units[served]
        capacity[np.unique(chosen[served])] -= 1
        node[lines] = chosen
    return node


def nearest(world: World) -> Ints:
    """The nearest node that has everything; if none has, each line from the nearest that has it."""
    by_distance = world.km.argsort(axis=1, kind="stable")
    return stream(world, lambda order, can: _first_in(by_distance[order], can))


def ranked(world: World) -> Ints:
    """The same by one ranking for all orders: the node with most stock first."""
    ranking = (-world.held.stock.sum(axis=0)).argsort(kind="stable")
    return stream(world, lambda _, can: _first_in(ranking, can))


def _first_in(ranking: Ints, can: Flags) -> Ints:
    complete = ranking[can[:, ranking].all(axis=0)]
    if len(complete):
        return np.full(len(can), complete[0])
    first = ranking[can[:, ranking].argmax(axis=1)]
    return np.where(can.any(axis=1), first, _NOBODY)


def fewest_splits(world: World) -> Ints:
    """As few parcels as possible, among those the fewest kilometres."""
    parcel, unfilled = 1 << 24, 1 << 30

    def choose(order: int, can: Flags) -> Ints:
        opening = np.rint(world.km[order] * 100).astype(np.int64) + parcel
        return _alone(opening, 0, np.where(can, 0, NEVER), np.full(len(can), unfilled))

    return stream(world, choose)


def optimum(world: World, price: Price | None = None) -> Ints:
    """The cheapest for each order, with prices on top of what is left when there are any."""
    held = world.held

    def choose(order: int, can: Flags, left: Ints) -> Ints:
        lines = slice(held.first_line[order], held.first_line[order + 1])
        line = held.line[lines]
        if price is not None:
            line = line + _differences(price(order, left)[held.sku[lines]], can) * held.quantity[lines, None]
        return _alone(
            held.opening[order], int(held.split[order]), np.where(can, line, NEVER), held.unfilled[lines]
        )

    return _stream(world, choose)


def _differences(prices: Mills, can: Flags) -> Mills:
    """Prices above that of the cheapest node that can: they say where to take a unit from, never not to take one."""
    differences: Mills = prices - np.where(can, prices, NEVER).min(axis=1, keepdims=True)
    return differences


def _alone(opening: Mills, split: int, line: Mills, unfilled: Mills) -> Ints:
    one = Orders(np.array([0, len(line)]), opening[None], np.array([split]), line, unfilled)
    return serving_nodes(one, cheapest_nodes(one).nodes)


# --- with an eye on those to come ---
@dataclass(frozen=True)
class Looking:
    """How to look ahead: worked out anew every so many orders (0: once), from a window of the latest so many."""

    every: int
    window: int = 2_500
    scale: float = 0.75
    half_life: timedelta = timedelta(days=30)
    by_region: bool = False


def looking_ahead(world: World, looking: Looking) -> Price:
    """Shadow prices if the demand until the stream ends is like that of the latest orders.

    ``by_region``: the moving average per SKU and region, known from before the stream too; else the orders
    themselves, so that the first of them see no prices.
    """
    held = world.held
    skus, nodes = (tuple(str(number) for number in range(size)) for size in held.stock.shape)
    unit_cost = _unit_costs(world)
    unfilled = _mean_per_unit(held)
    found: ShadowPrices | None = None

    def price(order: int, left: Ints) -> Mills:
        nonlocal found
        if found is None or (looking.every and order % looking.every == 0):
            since = max(order - looking.window, 0)
            if looking.by_region:
                demand = _expected(world, order, looking.window)
                mills = shadow_prices(demand, unit_cost, unfilled, left)
            elif order:
                recent = held.part(np.arange(since, order), capacity=np.full(held.nodes, PLENTY))
                mills = prices_of_recent(recent, left, (held.orders - order) / (order - since))
            else:
                mills = np.zeros_like(left)
            found = ShadowPrices(skus, nodes, mills, world.at[order], looking.scale, looking.half_life)
        return found.at(world.at[order])

    return price


def looking_both_ways(world: World, every: int) -> Price:
    """The mean of both forecasts, not scaled down.

    Where orders have many lines, the recent orders know best which are bought together; where a SKU sells seldom, they
    are too few, and its usual regions know more. Neither errs alike, so that their mean need not be scaled.
    """
    recent = looking_ahead(world, Looking(every, scale=1.0))
    usual = looking_ahead(world, Looking(every, scale=1.0, by_region=True))

    def price(order: int, left: Ints) -> Mills:
        return (recent(order, left) + usual(order, left)) // 2

    return price


def _expected(world: World, order: int, window: int) -> Floats:
    """Of the latest ``window`` orders before this one, those of the past before the stream included."""
    held, past = world.held, world.past
    since = max(order - window, 0)
    lines = slice(held.first_line[since], held.first_line[order])
    missing = window - (order - since)
    kept = len(past.sku) * min(missing, past.orders) // max(past.orders, 1)
    orders = order - since + min(missing, past.orders)
    old = slice(len(past.sku) - kept, None)
    return expected_demand(
        np.concatenate([past.sku[old], held.sku[lines]]),
        np.concatenate([past.region[old], world.region[held.order[lines]]]),
        np.concatenate([past.units[old], held.quantity[lines]]),
        (len(held.stock), world.regions),
        ahead=(held.orders - order) / max(orders, 1),
    )


def _unit_costs(world: World) -> Mills:
    """(S, R, N): freight of a unit, and its part of the parcel, for a customer in the middle of each region."""
    held = world.held
    of_region = np.bincount(world.region, minlength=world.regions)
    rate, opening = np.zeros((2, world.regions, held.nodes))
    np.add.at(rate, world.region, world.rate)
    np.add.at(opening, world.region, np.minimum(held.opening, NEVER).astype(np.float64))
    orders = np.maximum(of_region, 1)[:, None]
    units = held.quantity.sum() / held.orders
    freight = world.unit_weight[:, None, None] * (rate / orders)
    costs: Mills = np.rint(freight + opening / orders / units).astype(np.int64)
    return costs


def _mean_per_unit(held: HeldOrders) -> Mills:
    penalty = np.bincount(held.sku, held.unfilled, len(held.stock))
    units = np.bincount(held.sku, held.quantity, len(held.stock))
    return np.rint(penalty / np.maximum(units, 1)).astype(np.int64)


# --- together ---
def in_waves(world: World, size: int, effort: Effort, price: Price | None = None) -> Ints:
    """Orders held until there are ``size``, and routed together; with prices for those that come later when given."""
    held = world.held
    node = np.full(len(held.sku), _NOBODY, np.int64)
    stock = held.stock.copy()
    for first in range(0, held.orders, size):
        batch = np.arange(first, min(first + size, held.orders))
        days = len({world.at[order].date() for order in batch.tolist()}) if world.per_day else 1
        wave = held.part(batch, stock=stock, capacity=held.capacity * days)
        lines = slice(held.first_line[first], held.first_line[batch[-1] + 1])
        if price is not None:
            later = price(first, stock)[wave.sku]
            dearer = (later - later.min(axis=1, keepdims=True)) * wave.quantity[:, None]
            wave = replace(wave, line=np.where(wave.line < NEVER, wave.line + dearer, NEVER))
        node[lines] = route_wave(wave, effort).node
        served = np.flatnonzero(node[lines] >= 0)
        np.subtract.at(stock, (wave.sku[served], node[lines][served]), wave.quantity[served])
    return node
