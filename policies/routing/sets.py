"""Many lines, few nodes: which carrier services to open at each node, by branch and bound.

With linear freight and nothing that couples lines, the rest follows: each line is filled from its cheapest open node
first, up to what lies there, so quantities may be split. A node's choice is a *setting*: closed, or a set of services
that it ships with. The bound is a Lagrangian one: with a price for each unit of a line, every node decides for itself
whether what it can ship at those prices is worth what it costs to open; the prices are then moved to where nodes
together ship what is asked for (subgradient steps, Held, Wolfe and Crowder 1974). It holds for any prices, and prices
are integers, so it is exact. Settings that the bound rules out are dropped; what is left is tried, or branched on.

Stock that lines share, capacities, weight limits and least values are not seen here, and stepped freight is priced at
its lowest per gram: with any of these the plan is the best of all only if it keeps to them at this price; otherwise it
gives a bound. Of equal plans the one found first stays; the search has no chance in it.
"""

import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.routing.instance import Brackets, Instance, Linear, Rate, Stepped
from policies.routing.solution import Assignment, NoPlan, OnlyBound, Outcome, fits, solution

METHOD = "sets"

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Setting = tuple[int, ...]

_MOST_SETTINGS = 400
# Combinations of settings: listed with their bounds; tried, times nodes and demands; tried at once.
_LISTED_AT_MOST = 20_000
_TRIED_AT_MOST = 1_500_000
_TRIED_AT_ONCE = 32
_STEPS_AT_ROOT = 120
_STEPS_BELOW = 25
_SUPPLY_BITS = 48
_SUPPLY = (1 << _SUPPLY_BITS) - 1
_NO_BOUND = -(1 << 62)


def supports(instance: Instance) -> str | None:
    """``None``, or why not. What it supports it proves, but for couplings that turn out to bind."""
    if instance.ship_complete:
        return "ship_complete"
    if len({option.node for option in instance.options}) > _MOST_SETTINGS:
        return f"more than {_MOST_SETTINGS} nodes"
    return None


def solve(instance: Instance, *, budget_s: float = 1.0) -> Outcome:
    """The cheapest plan; past ``budget_s`` the best found, with the bound reached."""
    deadline = time.monotonic() + budget_s
    table = _Table(instance)
    if table.settings_left_out:
        return OnlyBound(-instance.prohibitive_mills)
    search = _Search(table, deadline)
    search.run()
    if search.cost > table.affordable:
        if search.bound > table.affordable:
            return NoPlan()
        return OnlyBound(search.bound)
    assignments = table.assignments(search.chosen)
    if not fits(instance, assignments):
        return OnlyBound(search.bound, assignments)
    found = solution(instance, assignments, METHOD, lower_bound_mills=search.bound)
    return found if instance.linear or found.proven else OnlyBound(search.bound, assignments)


@dataclass(frozen=True)
class _Demand:
    """Lines that can be told apart by nothing but their ids are one: ``lines`` are their places."""

    lines: tuple[int, ...]
    quantity: int


class _Table:
    """The instance by demand (D) and setting (S).

    ``price`` (S × D): mills per unit, ``prohibitive`` where a setting ships none; ``supply`` (S × D): units that the
    setting's node can ship; ``fixed`` (S): for opening; ``node`` (S): its place. Each node's first setting is closed.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.prohibitive = instance.prohibitive_mills
        self.affordable = instance.prohibitive_mills // 2
        self.demands = list(_demands(instance))
        self.quantity = np.array([demand.quantity for demand in self.demands], dtype=np.int64)
        self.penalty = np.array([self._penalty(demand) for demand in self.demands], dtype=np.int64)
        prices, reach = self._of_options()
        self._option_price = prices
        self.cap = instance.most_shipments
        self.settings: list[Setting] = []
        self.settings_left_out = False
        nodes: dict[str, list[int]] = {}
        for place, option in enumerate(instance.options):
            nodes.setdefault(option.node, []).append(place)
        node_of, price_rows, supply_rows = [], [], []
        nothing = np.full(len(self.demands), self.prohibitive, dtype=np.int64)
        for number, options in enumerate(nodes.values()):
            held = reach[options].max(axis=0)
            kept = self._settings(options, held)
            for setting in ((), *kept):
                self.settings.append(setting)
                node_of.append(number)
                price_rows.append(prices[list(setting)].min(axis=0) if setting else nothing)
                supply_rows.append(np.where(price_rows[-1] < self.prohibitive, held, 0))
            if len(self.settings) > _MOST_SETTINGS:
                self.settings_left_out = True
                break
        self.node = np.array(node_of, dtype=np.intp)
        self.nodes = len(nodes)
        self.size = np.array([len(setting) for setting in self.settings], dtype=np.int64)
        self.price = np.array(price_rows, dtype=np.int64).reshape(len(self.settings), len(self.demands))
        self.supply = np.array(supply_rows, dtype=np.int64).reshape(self.price.shape)
        self.fixed = np.array(
            [sum(self._opening(option) for option in setting) for setting in self.settings], dtype=np.int64
        )
        self.near = self._neighbours()
        whole = (self.supply == 0) | (self.supply == self.quantity)
        self.partial = np.flatnonzero(~whole.all(axis=0))
        self.whole = np.flatnonzero(whole.all(axis=0))
        self._key, self._ranked = self._keys()
        self._whole_cost = self.price[:, self.whole] * self.quantity[self.whole]
        self._whole_penalty = (self.penalty * self.quantity)[self.whole]

    def _neighbours(self) -> Bools:
        """Settings × settings: whether one comes from the other by opening, closing or exchanging one service."""
        opened = np.zeros((len(self.settings), len(self.instance.options)), dtype=np.int64)
        for place, setting in enumerate(self.settings):
            opened[place, list(setting)] = 1
        both = opened @ opened.T
        apart = np.maximum(self.size[:, None], self.size[None, :]) - both
        near: Bools = (self.node[:, None] == self.node[None, :]) & (apart == 1)
        return near

    def costs(self, chosen: NDArray[np.intp]) -> Ints:
        """What plans cost; ``chosen`` (P × nodes): a setting for each node."""
        fixed: Ints = self.fixed[chosen].sum(axis=1)
        fixed -= np.where(self.size[chosen].sum(axis=1) > 0, self.instance.split_penalty_mills, 0)
        if self.whole.size:
            cheapest = self._whole_penalty
            best = np.broadcast_to(cheapest, (len(chosen), cheapest.size)).copy()
            for column in range(chosen.shape[1]):
                np.minimum(best, self._whole_cost[chosen[:, column]], out=best)
            fixed += best.sum(axis=1)
        if self.partial.size:
            fixed += self._partial_costs(chosen)
        return fixed

    def _partial_costs(self, chosen: NDArray[np.intp]) -> Ints:
        """What the demands cost of which nodes hold parts: each is filled from its cheapest node first."""
        keys = np.sort(self._key[chosen.T], axis=0)
        left = np.broadcast_to(self.quantity[self.partial], keys.shape[1:]).copy()
        cost = np.zeros_like(left)
        columns = np.arange(self.partial.size)
        for key in keys:
            taken = np.minimum(key & _SUPPLY, left)
            cost += taken * self._ranked[key >> _SUPPLY_BITS, columns]
            left -= taken
            if not left.any():
                break
        cost += left * self.penalty[self.partial]
        total: Ints = cost.sum(axis=1)
        return total

    def _keys(self) -> tuple[Ints, Ints]:
        """Of the demands that may be filled in parts (settings × demands): the rank of each price, and how much there
        is at it, in one number that sorts by price; and the prices by rank.
        """
        price = np.minimum(self.price[:, self.partial], self.penalty[self.partial])
        order = price.argsort(axis=0, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(price))[:, None], axis=0)
        keys: Ints = (rank << _SUPPLY_BITS) + self.supply[:, self.partial]
        return keys, np.take_along_axis(price, order, axis=0)

    def assignments(self, chosen: Sequence[int]) -> tuple[Assignment, ...]:
        """The plan: each demand from its cheapest open options first, its lines in their order."""
        found: list[Assignment] = []
        opened = [option for setting in chosen for option in self.settings[setting]]
        supply = {
            self.instance.options[option].node: self.supply[setting]
            for setting in chosen
            for option in self.settings[setting]
        }
        for place, demand in enumerate(self.demands):
            parts = []
            left = demand.quantity
            served: set[str] = set()
            for option in sorted(opened, key=lambda o, d=place: (self._option_price[o, d], o)):  # type: ignore[misc]
                node = self.instance.options[option].node
                if self._option_price[option, place] >= self.penalty[place] or node in served:
                    continue
                served.add(node)
                units = min(left, int(supply[node][place]))
                if units:
                    parts.append((option, units))
                    left -= units
            found += _dealt(self.instance, demand, parts)
        return tuple(sorted(found))

    def _penalty(self, demand: _Demand) -> int:
        penalty = self.instance.lines[demand.lines[0]].unfilled_mills
        return self.prohibitive if penalty is None else penalty

    def _opening(self, option: int) -> int:
        return self.instance.options[option].fixed_mills + self.instance.split_penalty_mills

    def _of_options(self) -> tuple[Ints, Ints]:
        """Options × demands: mills per unit, ``prohibitive`` where none is shipped, and units that are."""
        instance = self.instance
        prices = np.empty((len(instance.options), len(self.demands)), dtype=np.int64)
        reach = np.empty(prices.shape, dtype=np.int64)
        for place, demand in enumerate(self.demands):
            line = instance.lines[demand.lines[0]]
            row = instance.unit_cost[demand.lines[0]]
            held = [instance.stock.get((option.node, line.sku), 0) for option in instance.options]
            least = 1 if line.splittable else demand.quantity
            prices[:, place] = [
                self.prohibitive
                if cost is None or units < least
                else cost + _least(option.rate, line.unit_weight_g)
                for cost, units, option in zip(row, held, instance.options, strict=True)
            ]
            reach[:, place] = np.minimum(held, demand.quantity)
        reach[prices >= self.prohibitive] = 0
        return prices, reach

    def _settings(self, options: list[int], held: Ints) -> list[Setting]:
        """The sets of a node's services that may be worth opening together.

        A service is left out if another at the node makes up for it whatever it ships; of two, the second is not
        opened beside the first unless all that it could save pays for opening it.
        """
        saves = {
            (one, other): self._saved(one, other, held) for one, other in itertools.permutations(options, 2)
        }
        opening = {option: self._opening(option) for option in options}
        kept = [
            one
            for one in options
            if (self._option_price[one] < self.prohibitive).any()
            and not any(self._replaces(other, one, opening, saves) for other in options if other != one)
        ]
        found: list[Setting] = [(option,) for option in kept]
        growing = list(found)
        while growing:
            growing = [
                (*setting, option)
                for setting in growing
                for option in kept
                if option > setting[-1]
                and all(
                    saves[option, one] > opening[option] and saves[one, option] > opening[one]
                    for one in setting
                )
            ][: _MOST_SETTINGS + 1]
            found += growing
        return found

    def _saved(self, one: int, other: int, held: Ints) -> int:
        """The most that opening ``one`` beside ``other`` can save."""
        price = np.minimum(self._option_price, self.penalty)
        return int((np.maximum(price[other] - price[one], 0) * held).sum())

    @staticmethod
    def _replaces(one: int, other: int, opening: dict[int, int], saves: dict[tuple[int, int], int]) -> bool:
        """Whether ``one`` instead of ``other`` is never dearer; of two that are equal the first stays."""
        more = opening[one] + saves[other, one] - opening[other]
        return more < 0 or (more == 0 and one < other)


def _demands(instance: Instance) -> Iterator[_Demand]:
    shared = Counter(line.sku for line in instance.lines)
    alike: dict[object, list[int]] = {}
    for place, line in enumerate(instance.lines):
        if line.splittable and shared[line.sku] > 1:
            key: object = (line.sku, line.unit_weight_g, line.unfilled_mills, instance.unit_cost[place])
        else:
            key = place
        alike.setdefault(key, []).append(place)
    for lines in alike.values():
        yield _Demand(tuple(lines), sum(instance.lines[line].quantity for line in lines))


def _dealt(instance: Instance, demand: _Demand, parts: list[tuple[int, int]]) -> Iterator[Assignment]:
    """What the demand gets, dealt out to its lines in their order."""
    waiting = [[option, units] for option, units in parts]
    for line in demand.lines:
        wanted = instance.lines[line].quantity
        while wanted and waiting:
            option, units = waiting[0]
            taken = min(wanted, units)
            yield Assignment(line, option, taken)
            wanted -= taken
            waiting[0][1] -= taken
            if units == taken:
                waiting.pop(0)


def _least(rate: Rate, grams: int) -> int:
    """The least that freight can be for a unit of so many grams, whatever else is in the parcel, rounded down."""
    match rate:
        case Linear(mills_per_g=mills):
            return mills * grams
        case Stepped(step_g=step_g, step_mills=mills):
            return mills * grams // step_g
        case Brackets(rows=rows):
            return min((mills * grams // up_to_g for up_to_g, mills in rows if up_to_g), default=0)


@dataclass(frozen=True)
class _Part:
    """What is left of the search: settings still ``allowed`` (S), and the prices (D) to begin with."""

    allowed: Bools
    prices: Ints


@dataclass(frozen=True)
class _Bound:
    """A bound at ``prices`` (D): ``base`` and the ``worth`` (S) of the best setting of each node."""

    bound: int
    base: int
    prices: Ints
    worth: Ints


class _Search:
    """Best-first; ``cost`` and ``chosen`` (a setting for each node) are the best so far, ``bound`` what is proven."""

    def __init__(self, table: _Table, deadline: float) -> None:
        self._table = table
        self._deadline = deadline
        self._firsts = np.flatnonzero(np.diff(table.node, prepend=-1))
        self.chosen: tuple[int, ...] = tuple(int(first) for first in self._firsts)
        self.cost = int(table.costs(self._firsts[None, :])[0])
        self.bound = -table.prohibitive
        self._seen: set[bytes] = set()

    def run(self) -> None:
        """Search until the best is proven, or the time is over."""
        table = self._table
        if not table.cap or not table.nodes:
            self.bound = self.cost
            return
        self._descend()
        order = itertools.count()
        root = _Part(np.ones(len(table.settings), dtype=np.bool_), self._first_prices())
        waiting: list[tuple[int, int, _Part]] = [(-table.prohibitive, next(order), root)]
        steps = _STEPS_AT_ROOT
        while waiting:
            bound, number, part = heapq.heappop(waiting)
            self.bound = min(bound, self.cost)
            # However little time there is, the root is looked at: without that there is no bound.
            if bound >= self.cost or (number and time.monotonic() > self._deadline):
                return
            for better, child in self._explore(part, steps):
                if better < self.cost:
                    heapq.heappush(waiting, (max(better, bound), next(order), child))
            steps = _STEPS_BELOW
        self.bound = self.cost

    def _descend(self) -> None:
        """Open, close or exchange one service at a time, whichever saves most, until none saves."""
        table = self._table
        while True:
            chosen = np.array(self.chosen, dtype=np.intp)
            near = np.flatnonzero(table.near[chosen[table.node], np.arange(len(table.settings))])
            moves = np.repeat(chosen[None, :], near.size, axis=0)
            moves[np.arange(near.size), table.node[near]] = near
            if not self._try(moves):
                return

    def _try(self, plans: NDArray[np.intp]) -> bool:
        """Whether one of the plans (P × nodes) is better than the best so far; the first best one replaces it."""
        table = self._table
        plans = plans[table.size[plans].sum(axis=1) <= table.cap]
        if not len(plans):
            return False
        costs = table.costs(plans)
        first = int(costs.argmin())
        if costs[first] >= self.cost:
            return False
        self.cost = int(costs[first])
        self.chosen = tuple(int(setting) for setting in plans[first])
        return True

    def _first_prices(self) -> Ints:
        """At first a unit is worth what it costs where the best plan so far has it cheapest."""
        table = self._table
        price = table.price[list(self.chosen)]
        prices: Ints = np.where(price < table.prohibitive, price, table.price.min(axis=0)).min(axis=0)
        return np.minimum(prices, table.penalty)

    def _explore(self, part: _Part, steps: int) -> list[tuple[int, _Part]]:
        """Tighten the bound of a part; try what is left of it, or divide it in two."""
        table = self._table
        allowed, prices = part.allowed.copy(), part.prices
        best = _Bound(_NO_BOUND, 0, prices, allowed.astype(np.int64))
        scale, since = 1.0, 0
        for _ in range(steps):
            worth, base = self._worth(prices)
            worth = np.where(allowed, worth, table.prohibitive)
            picked, total = self._pick(worth)
            bound = base + total
            since = 0 if bound > best.bound else since + 1
            if since == 0:
                best = _Bound(bound, base, prices, worth)
            self._try_once(picked)
            if best.bound >= self.cost:
                return []
            least = np.minimum.reduceat(worth, self._firsts)
            allowed &= base + least.sum() - least[table.node] + worth < self.cost
            if since >= 5:
                scale, since, prices = scale / 2, 0, best.prices
                if scale < 0.01:
                    break
                continue
            moved = self._moved(prices, picked, scale * (self.cost - bound))
            if moved is None or time.monotonic() > self._deadline:
                break
            prices = moved
        return self._left(best, allowed)

    def _worth(self, prices: Ints) -> tuple[Ints, int]:
        """What each setting (S) costs beyond what it earns at these prices; and what all units cost at them."""
        table = self._table
        earned = np.minimum(table.price - prices, 0)
        earned *= table.supply
        worth = table.fixed + earned.sum(axis=1)
        return worth, int(prices @ table.quantity) - table.instance.split_penalty_mills

    def _pick(self, worth: Ints) -> tuple[NDArray[np.intp], int]:
        """Each node's best setting, and what they are worth together; with no more shipments than allowed."""
        table = self._table
        ends = [*self._firsts[1:], len(worth)]
        picked = np.array([a + int(worth[a:b].argmin()) for a, b in zip(self._firsts, ends, strict=True)])
        if int(table.size[picked].sum()) <= table.cap:
            return picked, int(worth[picked].sum())
        return self._pick_few(worth, ends)

    def _pick_few(self, worth: Ints, ends: Sequence[int]) -> tuple[NDArray[np.intp], int]:
        """The same as a knapsack: by shipments so far, the best of what they are worth."""
        table = self._table
        best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
        for first, end in zip(self._firsts, ends, strict=True):
            after: dict[int, tuple[int, tuple[int, ...]]] = {}
            by_size: dict[int, int] = {}
            for setting in range(first, end):
                size = int(table.size[setting])
                if size not in by_size or worth[setting] < worth[by_size[size]]:
                    by_size[size] = setting
            for (count, (total, chosen)), (size, setting) in itertools.product(best.items(), by_size.items()):
                if count + size <= table.cap:
                    option = (total + int(worth[setting]), (*chosen, setting))
                    after[count + size] = min(after.get(count + size, option), option)
            best = after
        total, chosen = min(best.values())
        return np.array(chosen, dtype=np.intp), total

    def _try_once(self, picked: NDArray[np.intp]) -> None:
        key = picked.tobytes()
        if key not in self._seen:
            self._seen.add(key)
            self._try(picked[None, :])

    def _moved(self, prices: Ints, picked: NDArray[np.intp], distance: float) -> Ints | None:
        """Prices go up where the nodes ship too few units, and down where too many; ``None`` where they are right."""
        table = self._table
        shipped = np.where(table.price[picked] < prices, table.supply[picked], 0).sum(axis=0)
        lacking = (table.quantity - shipped).astype(np.float64)
        # A price that is as high as leaving the unit out does not go up any further.
        lacking[(lacking > 0) & (prices >= table.penalty)] = 0
        square = float(lacking @ lacking)
        if square == 0:
            return None
        # Without a plan yet the distance would be that of the prohibitive price: no price moves by more than it has to.
        step = min(distance / square, float(table.affordable) / 2) * lacking
        moved: Ints = np.minimum(prices + np.rint(step).astype(np.int64), table.penalty)
        return moved

    def _left(self, best: _Bound, allowed: Bools) -> list[tuple[int, _Part]]:
        worth = best.worth
        ends = [*self._firsts[1:], len(worth)]
        groups = [
            first + np.flatnonzero(allowed[first:end]) for first, end in zip(self._firsts, ends, strict=True)
        ]
        if any(group.size == 0 for group in groups):
            return []
        if math.prod(group.size for group in groups) <= _LISTED_AT_MOST and self._try_all(groups, best):
            return []
        widest = max(range(len(groups)), key=lambda node: (groups[node].size, -node))
        likely = groups[widest][int(worth[groups[widest]].argmin())]
        found = []
        for chosen in ([likely], [setting for setting in groups[widest] if setting != likely]):
            child = allowed.copy()
            child[groups[widest]] = False
            child[chosen] = True
            found.append((best.bound, _Part(child, best.prices)))
        return found

    def _try_all(self, groups: list[NDArray[np.intp]], best: _Bound) -> bool:
        """Every combination whose bound is below the best plan, lowest first; unless there are too many of them."""
        table = self._table
        plans = np.stack([axis.ravel() for axis in np.meshgrid(*groups, indexing="ij")], axis=1)
        bounds = best.base + best.worth[plans].sum(axis=1)
        kept = np.flatnonzero((bounds < self.cost) & (table.size[plans].sum(axis=1) <= table.cap))
        if kept.size * table.nodes * len(table.demands) > _TRIED_AT_MOST:
            return False
        order = kept[bounds[kept].argsort(kind="stable")]
        for start in range(0, order.size, _TRIED_AT_ONCE):
            if bounds[order[start]] >= self.cost:
                break
            self._try(plans[order[start : start + _TRIED_AT_ONCE]])
        return True
