"""Few lines, each from one option: the best division of the order's lines into shipments, by dynamic programming.

First the cheapest shipment for each of the 2^n sets of lines, over all options; freight may be any function of what a
shipment weighs. Then the cheapest division of each set, from those of its subsets: 3^n / 2 steps; only where it has
more shipments than are allowed, one more shipment at a time. What couples shipments (an option used twice, stock or
capacity of a node that two of them share) is looked at afterwards: a plan that keeps to it is the best of all; one that
does not is only a bound.

Of equal plans: the fewest shipments; then the set of lines, the division and the option that come first in the
instance's order.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from policies.routing import kernels
from policies.routing.instance import Brackets, Instance, Linear, Rate, Stepped
from policies.routing.solution import Assignment, NoPlan, OnlyBound, Outcome, fits, solution

MOST_LINES = 12
METHOD = "dp"

Ints = NDArray[np.int64]


def supports(instance: Instance) -> str | None:
    """``None``, or why not."""
    return next(_obstacles(instance), None)


def _obstacles(instance: Instance) -> Iterator[str]:
    if len(instance.lines) > MOST_LINES:
        yield f"more than {MOST_LINES} lines"
    if instance.ship_complete:
        yield "ship_complete"
    limited = (
        instance.capacity
        or instance.min_split_value_minor
        or any(option.weight_limit_g is not None for option in instance.options)
    )
    for place, line in enumerate(instance.lines):
        if not line.splittable or line.quantity == 1:
            continue
        # Such a line still comes from one option, the cheapest that is open, unless something makes it pay to split it.
        may = f"line {line.line_id} may be split, and"
        if not instance.linear:
            yield f"{may} that can save a step of freight"
        if limited:
            yield f"{may} a limit of weight, capacity or value could make it"
        if sum(other.sku == line.sku for other in instance.lines) > 1:
            yield f"{may} shares its stock with another line"
        if any(0 < instance.reach(place, option) < line.quantity for option in range(len(instance.options))):
            yield f"{may} a node holds a part of it"


def solve(instance: Instance, *, compiled: bool | None = None) -> Outcome:
    """The cheapest plan. ``compiled``: with numba (``True``), with numpy alone, or whichever is there."""
    fast = kernels.kernels(compiled)
    sets = _Sets(instance)
    most = instance.most_shipments
    cheapest = sets.cheapest(fast)
    cheapest += instance.split_penalty_mills
    np.minimum(cheapest, sets.forbidden, out=cheapest)
    # ``alone`` is for plans of one shipment, which may be worth less than each of several.
    alone = cheapest if most else np.full_like(cheapest, sets.forbidden)
    alone[0] = 0
    worthy = alone
    if instance.min_split_value_minor:
        worthy = np.where(sets.value() < instance.min_split_value_minor, sets.forbidden, alone)
        worthy[0] = 0
    left_out = sets.left_out()
    counted = (worthy << kernels.COUNT_BITS) + 1
    counted[0] = 0
    best = fast.divisions(counted)
    chosen, cost, single = _chosen(instance, alone, best >> kernels.COUNT_BITS, left_out)
    if single:
        shipped = [chosen] if chosen else []
    elif best[chosen] & kernels.COUNTED <= most:
        shipped = _divide(counted, best, chosen)
    else:
        layers = kernels.within(worthy, most)
        chosen, cost, single = _chosen(instance, alone, layers[-1], left_out)
        shipped = ([chosen] if chosen else []) if single else _divide_in_few(worthy, layers, chosen)
    if cost > sets.affordable:
        return NoPlan()
    used = [sets.option_for(served) for served in shipped]
    assignments = tuple(
        Assignment(line, option, instance.lines[line].quantity)
        for served, option in zip(shipped, used, strict=True)
        for line in _members(served)
    )
    if len(set(used)) == len(used) and (not sets.coupled or fits(instance, assignments)):
        return solution(instance, assignments, METHOD)
    return OnlyBound(cost, assignments)


def _chosen(instance: Instance, alone: Ints, divided: Ints, left_out: Ints) -> tuple[int, int, bool]:
    """The set of lines that is best to ship, what that costs, and whether as one shipment."""
    costs = np.minimum(alone, divided) + left_out
    costs[1:] -= instance.split_penalty_mills
    chosen = int(costs.argmin())
    return chosen, int(costs[chosen]), bool(alone[chosen] <= divided[chosen])


def _divide(prices: Ints, best: Ints, chosen: int) -> list[int]:
    """The sets of lines of the shipments that make up the cheapest division of ``chosen``."""
    shipped = []
    while chosen:
        part = kernels.first_part(prices, best, chosen, int(best[chosen]))
        shipped.append(part)
        chosen ^= part
    return shipped


def _divide_in_few(prices: Ints, layers: list[Ints], chosen: int) -> list[int]:
    """The same from ``layers[k]`` (2^n), the cheapest division of each set into at most ``k`` shipments."""
    shipped = []
    number = len(layers) - 1
    while chosen:
        while layers[number - 1][chosen] == layers[number][chosen]:
            number -= 1
        part = kernels.first_part(prices, layers[number - 1], chosen, int(layers[number][chosen]))
        shipped.append(part)
        chosen, number = chosen ^ part, number - 1
    return shipped


def _members(served: int) -> Iterator[int]:
    while served:
        yield (served & -served).bit_length() - 1
        served &= served - 1


class _Sets:
    """What can be said of each set of lines; sets are bit masks, so that arrays over them have 2^n entries."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        options = instance.options
        # A plan above ``affordable`` leaves out what must be served or uses what it must not.
        self.affordable = instance.prohibitive_mills // 2
        self.forbidden = instance.prohibitive_mills
        self._shared = self._shared_skus()
        # Where neither stock nor capacity is shared, what each shipment keeps to by itself is all there is.
        self.coupled = bool(self._shared or instance.capacity)
        self._line_cost = self._line_costs()
        self._fixed = np.array([option.fixed_mills for option in options], dtype=np.int64)
        self._more = {
            place: more
            for place, option in enumerate(options)
            if (self.coupled or option.max_weight_g is not None or not isinstance(option.rate, Linear))
            and (more := self._beyond(place)) is not None
        }

    def cheapest(self, fast: kernels.Kernels) -> Ints:
        """The cheapest shipment of each set of lines, its split penalty not included."""
        plain = [place for place in range(len(self._fixed)) if place not in self._more]
        found = fast.shipments(
            *((self._line_cost[plain], self._fixed[plain]) if self._more else (self._line_cost, self._fixed)),
            self.forbidden,
        )
        for place, more in self._more.items():
            costs = _subset_sums(self._line_cost[place].tolist())
            costs += more
            costs += self._fixed[place]
            np.minimum(found, costs, out=found)
        return found

    def value(self) -> Ints:
        """Minor units that each set is worth."""
        return _subset_sums([line.quantity * line.unit_value_minor for line in self._instance.lines])

    @cached_property
    def _weight(self) -> Ints:
        return _subset_sums([line.quantity * line.unit_weight_g for line in self._instance.lines])

    @cached_property
    def _units(self) -> Ints:
        return _subset_sums([line.quantity for line in self._instance.lines])

    def left_out(self) -> Ints:
        """What it costs to ship each set and no other line."""
        costs = [
            self.forbidden if line.unfilled_mills is None else line.quantity * line.unfilled_mills
            for line in self._instance.lines
        ]
        return _subset_sums(costs)[::-1]

    def option_for(self, served: int) -> int:
        """The first of the options that ship this set most cheaply."""
        costs = self._line_cost[:, list(_members(served))].sum(axis=1) + self._fixed
        for place, more in self._more.items():
            costs[place] += more[served]
        return int(costs.argmin())

    def _line_costs(self) -> Ints:
        """Options × lines: what a whole line costs with an option, linear freight included."""
        instance = self._instance
        table = np.empty((len(instance.options), len(instance.lines)), dtype=np.int64)
        rates = [
            option.rate.mills_per_g if isinstance(option.rate, Linear) else 0 for option in instance.options
        ]
        for place, line in enumerate(instance.lines):
            stock, quantity, weight = instance.stock, line.quantity, line.unit_weight_g
            table[:, place] = [
                self.forbidden
                if cost is None or stock.get((option.node, line.sku), 0) < quantity
                else quantity * (cost + weight * rate)
                for cost, option, rate in zip(instance.unit_cost[place], instance.options, rates, strict=True)
            ]
        return table

    def _beyond(self, place: int) -> Ints | None:
        """What an option costs beside its fixed and linear costs, for each set; ``forbidden`` past a limit."""
        instance = self._instance
        option = instance.options[place]
        limit, capacity = option.weight_limit_g, instance.capacity.get(option.node)
        allowed = np.ones(self._weight.size, dtype=bool)
        if limit is not None and limit < self._weight[-1]:
            allowed &= self._weight <= limit
        if capacity is not None and capacity < self._units[-1]:
            allowed &= self._units <= capacity
        for sku, units in self._shared:
            held = instance.stock.get((option.node, sku), 0)
            if held < units[-1]:
                allowed &= units <= held
        if isinstance(option.rate, Linear):
            return None if allowed.all() else np.where(allowed, 0, self.forbidden)
        return np.where(allowed, self._freight(option.rate), self.forbidden)

    def _shared_skus(self) -> list[tuple[str, Ints]]:
        """SKUs that several lines ask for, with the units of each set of lines."""
        lines = self._instance.lines
        counts = Counter(line.sku for line in lines)
        return [
            (sku, _subset_sums([line.quantity if line.sku == sku else 0 for line in lines]))
            for sku, count in counts.items()
            if count > 1
        ]

    def _freight(self, rate: Rate) -> Ints:
        match rate:
            case Stepped(step_g=step_g, step_mills=step_mills):
                return -(-self._weight // step_g) * step_mills
            case Brackets(rows=rows):
                mills = np.array([*(mills for _, mills in rows), 0], dtype=np.int64)
                return mills[np.searchsorted([up_to_g for up_to_g, _ in rows], self._weight)]
            case Linear(mills_per_g=mills_per_g):
                return self._weight * mills_per_g


def _subset_sums(values: list[int]) -> Ints:
    """The sum of ``values`` over each set of their places."""
    sums = np.zeros(1 << len(values), dtype=np.int64)
    for place, value in enumerate(values):
        size = 1 << place
        np.add(sums[:size], value, out=sums[size : 2 * size])
    return sums
