"""Units that differ by nothing but their SKU: which parcels to send, by branch and bound over sets of options.

Where every unit weighs the same and costs the same from an option, a plan's cost depends on how many units each parcel
holds, not on which. How many units a set of nodes can ship in all, each SKU up to what is asked for, is submodular in
the set; so the counts that can be shipped are the bases of a polymatroid, and for given parcels the cheapest counts
are those of the greedy algorithm, whole numbers of themselves (Edmonds 1970). Weight limits and picking capacity are
limits on counts, and part of it. The bound of a set of parcels that may be added to is the same algorithm with each
parcel that may come paid for in parts: its opening divided by the most it can hold. All in integers.

Freight that is not linear is priced at its lowest per gram: a plan that costs no more than that is the best of all,
otherwise it gives a bound. Of equal plans the one found first stays; the search has no chance in it.
"""

import itertools
import time
from collections.abc import Container, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from policies.routing.instance import Brackets, Instance, Linear, Rate, Stepped
from policies.routing.solution import Assignment, NoPlan, OnlyBound, Outcome, fits, solution

METHOD = "parcels"

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Every set of nodes has a number of units of its own.
_MOST_NODES = 8
_MOST_OPTIONS = 60
# Sets of parcels that may wait to be added to: past it the bound of those that wait is the answer's.
_MOST_WAITING = 20_000
_AT_ONCE = 256
_IMPOSSIBLE = 1 << 60


def supports(instance: Instance) -> str | None:
    """``None``, or why not. What it supports it proves, but for freight that is not linear."""
    return next(_obstacles(instance), None)


def _obstacles(instance: Instance) -> Iterator[str]:
    if instance.ship_complete:
        yield "ship_complete"
    if instance.min_split_value_minor:
        yield "min_split_value_minor"
    if len({option.node for option in instance.options}) > _MOST_NODES:
        yield f"more than {_MOST_NODES} nodes"
    if len(instance.options) > _MOST_OPTIONS:
        yield f"more than {_MOST_OPTIONS} options"
    first, row = instance.lines[0], instance.unit_cost[0]
    for line, other in zip(instance.lines, instance.unit_cost, strict=True):
        if line.quantity > 1 and not line.splittable:
            yield f"line {line.line_id} stays whole"
        if line.unfilled_mills is not None:
            yield f"line {line.line_id} may be left out"
        if line.unit_weight_g != first.unit_weight_g:
            yield f"a unit of line {line.line_id} weighs something else than one of {first.line_id}"
        if other is not row and other != row:
            yield f"a unit of line {line.line_id} costs something else than one of {first.line_id}"


def solve(instance: Instance, *, budget_s: float = 1.0) -> Outcome:
    """The cheapest plan; past ``budget_s`` the best found, with the bound reached."""
    deadline = time.monotonic() + budget_s
    table = _Table(instance)
    if table.limit[-1] < table.wanted:
        return NoPlan()
    search = _Search(table, deadline)
    search.run()
    if search.chosen is None:
        return NoPlan() if search.bound >= _IMPOSSIBLE else OnlyBound(search.bound)
    assignments = table.assignments(search.chosen)
    if not fits(instance, assignments):
        return OnlyBound(search.bound)
    found = solution(instance, assignments, METHOD, lower_bound_mills=search.bound)
    return found if instance.linear or found.proven else OnlyBound(search.bound, assignments)


class _Table:
    """The instance by option (M, those that are of use, most promising first), SKU (K) and set of nodes (2^N).

    ``opening`` (M): mills for the parcel, split penalty included; ``price`` (M): mills per unit; ``most`` (M): units it
    can hold; ``part`` (M): ``opening`` per unit, rounded down. ``limit`` (2^N): units that a set of nodes can ship.
    ``beside`` (M × 2^N): ``most`` for the sets of nodes that the option's is not in.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._nodes = list(dict.fromkeys(option.node for option in instance.options))
        asked: dict[str, list[int]] = {}
        for place, line in enumerate(instance.lines):
            asked.setdefault(line.sku, []).append(place)
        self._lines = list(asked.values())
        quantity = [sum(instance.lines[place].quantity for place in places) for places in self._lines]
        self._quantity = np.array(quantity, dtype=np.int64)
        self._held = np.array(
            [[instance.stock.get((node, sku), 0) for sku in asked] for node in self._nodes], dtype=np.int64
        ).reshape(len(self._nodes), len(asked))
        self._held = np.minimum(self._held, self._quantity)
        self.wanted = int(self._quantity.sum())
        self.limit = self._limits()
        self.cap = instance.most_shipments
        self.options = self._useful()
        self.opening, self.price, self.most, node = self._columns(self.options)
        self.part = self.opening // np.maximum(self.most, 1)
        self.node = node
        sets = np.arange(len(self.limit))
        self.beside = np.where(sets >> node[:, None] & 1, 0, self.most[:, None])

    def _limits(self) -> Ints:
        """Units that each set of nodes can ship: each SKU up to what is asked for, each node up to what it can pick."""
        total = np.zeros((1, len(self._quantity)), dtype=np.int64)
        for held in self._held:
            total = np.concatenate((total, total + held))
        limit = np.minimum(total, self._quantity).sum(axis=1)
        sets = np.arange(len(limit))
        for place, node in enumerate(self._nodes):
            if node in self._instance.capacity:
                within = sets[sets >> place & 1 == 1]
                limit[within] = np.minimum(
                    limit[within], limit[within ^ (1 << place)] + self._instance.capacity[node]
                )
        found: Ints = limit
        return found

    def _columns(self, options: list[int]) -> tuple[Ints, Ints, Ints, NDArray[np.intp]]:
        instance = self._instance
        grams = instance.lines[0].unit_weight_g
        opening, price, most, nodes = [], [], [], []
        for place in options:
            option = instance.options[place]
            node = self._nodes.index(option.node)
            units = int(self.limit[1 << node])
            if (limit := option.weight_limit_g) is not None and grams:
                units = min(units, limit // grams)
            opening.append(option.fixed_mills + instance.split_penalty_mills)
            price.append((instance.unit_cost[0][place] or 0) + least_freight(option.rate, grams))
            most.append(units)
            nodes.append(node)
        numbers = (np.array(column, dtype=np.int64) for column in (opening, price, most))
        return *numbers, np.array(nodes, dtype=np.intp)  # type: ignore[return-value]

    def _useful(self) -> list[int]:
        """Options that can ship something, but for those that another at the node makes up for, whatever they ship."""
        allowed = [place for place, cost in enumerate(self._instance.unit_cost[0]) if cost is not None]
        opening, price, most, node = self._columns(allowed)
        kept = []
        for one in range(len(allowed)):
            instead = (node == node[one]) & (most == self.limit[1 << node[one]])
            instead &= (opening <= opening[one]) & (price <= price[one])
            equal = (opening == opening[one]) & (price == price[one])
            instead &= ~equal | (np.arange(len(allowed)) < one)
            if most[one] and not instead.any():
                kept.append(one)
        # What takes all of the order most cheaply comes first: what is left for later can then do little.
        fit = np.minimum(most, self.wanted)
        order = sorted(kept, key=lambda one: (opening[one] / fit[one] + price[one], one))
        return [allowed[one] for one in order]

    def cost(self, opened: Bools, later: Bools) -> Ints:
        """What these sets of parcels (P × M) cost at least, when those of ``later`` (P × M) may be added to them.

        With nothing to be added it is what they cost, unless one of them then holds nothing.
        """
        total: Ints = (opened * self.opening).sum(axis=1) - self._instance.split_penalty_mills
        reached = np.repeat(self.limit[None, :], len(opened), axis=0)
        shipped = np.zeros(len(opened), dtype=np.int64)
        for price, option, open_now in self._by_price:
            goes = opened[:, option] if open_now else later[:, option]
            if not goes.any():
                continue
            reached += goes[:, None] * self.beside[option]
            now = reached.min(axis=1)
            total += price * (now - shipped)
            shipped = now
        total[shipped < self.wanted] = _IMPOSSIBLE
        return total

    @cached_property
    def _by_price(self) -> list[tuple[int, int, bool]]:
        """Each option twice, by price per unit: once it is open, and while it may come and is paid for in parts."""
        every = [(int(price), option, True) for option, price in enumerate(self.price)] + [
            (int(price), option, False) for option, price in enumerate(self.price + self.part)
        ]
        return sorted(every, key=lambda one: (one[0], not one[2], one[1]))

    def counts(self, opened: Container[int], *, in_parts: bool = False) -> Ints:
        """Units (M) of each of these options at least cost; ``in_parts``: while their opening is paid in parts."""
        units = np.zeros(len(self.options), dtype=np.int64)
        reached, shipped = self.limit.copy(), 0
        for _, option, open_now in self._by_price:
            if option in opened and open_now is not in_parts:
                reached += self.beside[option]
                now = int(reached.min())
                units[option], shipped = now - shipped, now
        return units

    def assignments(self, opened: Container[int]) -> tuple[Assignment, ...]:
        """The cheapest plan with these options."""
        units = self.counts(opened)
        of_node = np.bincount(self.node, units, len(self._nodes)).astype(np.int64)
        shipped = _divided(self._held, self._quantity, of_node)
        parts: list[list[tuple[int, int]]] = [[] for _ in self._lines]
        for node, row in enumerate(shipped):
            room = [
                [self.options[one], int(units[one])]
                for one in np.flatnonzero(self.node == node)
                if units[one]
            ]
            for sku in np.flatnonzero(row).tolist():
                parts[sku] += _taken(room, int(row[sku]))
        found = []
        for places, given in zip(self._lines, parts, strict=True):
            room = [[option, many] for option, many in given]
            for line in places:
                together: dict[int, int] = {}
                for option, many in _taken(room, self._instance.lines[line].quantity):
                    together[option] = together.get(option, 0) + many
                found += [Assignment(line, option, many) for option, many in together.items()]
        return tuple(sorted(found))


def least_freight(rate: Rate, grams: int) -> int:
    """The least that freight can be for a unit of so many grams, whatever else is in the parcel, rounded down."""
    match rate:
        case Linear(mills_per_g=mills):
            return mills * grams
        case Stepped(step_g=step_g, step_mills=mills):
            return mills * grams // step_g
        case Brackets(rows=rows):
            return min((mills * grams // up_to_g for up_to_g, mills in rows if up_to_g), default=0)


def _taken(room: list[list[int]], units: int) -> Iterator[tuple[int, int]]:
    """So many units from the first that have some left, which then have less; pairs of who gives and how many."""
    while units and room:
        who, left = room[0]
        taken = min(units, left)
        yield who, taken
        units -= taken
        room[0][1] -= taken
        if not room[0][1]:
            room.pop(0)


def _divided(held: Ints, quantity: Ints, of_node: Ints) -> Ints:
    """Units of each SKU from each node (N × K) within ``held`` that add up to both; there must be some.

    What is first dealt out node by node is moved along the shortest chains of nodes that can pass units on.
    """
    shipped = np.zeros_like(held)
    left, room = quantity.copy(), of_node.copy()
    for node in range(len(held)):
        within = np.minimum(held[node], left)
        before = np.cumsum(within) - within
        shipped[node] = np.clip(room[node] - before, 0, within)
        left -= shipped[node]
    for node in range(len(held)):
        more = np.minimum(held[node] - shipped[node], left)
        shipped[node] += more
        left -= more
    while (over := shipped.sum(axis=1) - of_node).any():
        free = np.minimum(shipped[:, None, :], (held - shipped)[None, :, :])
        movable = free.sum(axis=2)
        chain = _chain(movable, over)
        pairs = list(itertools.pairwise(chain))
        many = min(int(over[chain[0]]), -int(over[chain[-1]]), *(int(movable[pair]) for pair in pairs))
        for giver, taker in pairs:
            can = np.minimum(shipped[giver], held[taker] - shipped[taker])
            moved = np.clip(many - (np.cumsum(can) - can), 0, can)
            shipped[giver] -= moved
            shipped[taker] += moved
    return shipped


def _chain(movable: Ints, over: Ints) -> list[int]:
    """The shortest way from a node with too many units to one with too few, over nodes that can pass some on."""
    came_from = {int(node): -1 for node in np.flatnonzero(over > 0)}
    waiting = list(came_from)
    for node in waiting:
        if over[node] < 0:
            chain = [node]
            while came_from[chain[-1]] >= 0:
                chain.append(came_from[chain[-1]])
            return chain[::-1]
        for other in np.flatnonzero(movable[node]).tolist():
            if other not in came_from:
                came_from[other] = node
                waiting.append(other)
    raise AssertionError("the counts are no base of the polymatroid")


class _Search:
    """Best-first; ``cost`` and ``chosen`` (options) are the best so far, ``bound`` what is proven."""

    def __init__(self, table: _Table, deadline: float) -> None:
        self._table = table
        self._deadline = deadline
        self.chosen: tuple[int, ...] | None = None
        self.cost = _IMPOSSIBLE
        self.bound = _IMPOSSIBLE

    def run(self) -> None:
        """Search until the best is proven, or the time is over."""
        table = self._table
        count = len(table.options)
        if not count or not table.cap:
            return
        nothing = np.zeros((1, count), dtype=np.bool_)
        opened, following, bounds = nothing, np.zeros(1, dtype=np.int64), table.cost(nothing, ~nothing)
        self._descend()
        while len(opened):
            kept = bounds < self.cost
            opened, following, bounds = opened[kept], following[kept], bounds[kept]
            if not len(opened):
                break
            if len(opened) > _MOST_WAITING or time.monotonic() > self._deadline:
                self.bound = int(bounds.min())
                return
            order = bounds.argsort(kind="stable")
            now, rest = order[: max(1, _AT_ONCE // count)], order[max(1, _AT_ONCE // count) :]
            more = self._with_one_more(opened[now], following[now], bounds[now])
            opened, following, bounds = (
                np.concatenate((kept_back[rest], added))
                for kept_back, added in zip((opened, following, bounds), more, strict=True)
            )
        self.bound = self.cost

    def _with_one_more(self, opened: Bools, following: Ints, bounds: Ints) -> tuple[Bools, Ints, Ints]:
        """Each set with each option that follows its last one, what follows that, and its bound; all are tried."""
        table = self._table
        places = np.arange(len(table.options))
        row, option = np.nonzero(places >= following[:, None])
        sets = opened[row]
        sets[np.arange(len(row)), option] = True
        fits_in = sets.sum(axis=1) <= table.cap
        sets, row, option = sets[fits_in], row[fits_in], option[fits_in]
        if not len(sets):
            return sets, option, bounds[row]
        self._try(sets)
        later = places > option[:, None]
        later &= (sets.sum(axis=1) < table.cap)[:, None]
        least = np.maximum(table.cost(sets, later), bounds[row])
        # Where nothing can follow it has been tried.
        kept = (least < self.cost) & later.any(axis=1)
        return sets[kept], option[kept] + 1, least[kept]

    def _descend(self) -> None:
        """From the options that the first bound pays for: open, close or exchange one, as long as that saves."""
        table = self._table
        count = len(table.options)
        units = table.counts(range(count), in_parts=True)
        used = sorted(np.flatnonzero(units).tolist(), key=lambda one: (-units[one], one))[: table.cap]
        chosen = np.zeros(count, dtype=np.bool_)
        chosen[used] = True
        self._try(chosen[None, :])
        while self.chosen is not None:
            chosen = np.zeros(count, dtype=np.bool_)
            chosen[list(self.chosen)] = True
            flipped = chosen ^ np.eye(count, dtype=np.bool_)
            exchanged = [
                chosen ^ np.isin(np.arange(count), (out, into))
                for out in self.chosen
                for into in np.flatnonzero(~chosen).tolist()
            ]
            if not self._try(
                np.concatenate((flipped, np.array(exchanged, dtype=np.bool_).reshape(-1, count)))
            ):
                return

    def _try(self, sets: Bools) -> bool:
        """Whether one of the sets (P × M) is better than the best so far; the first best one replaces it."""
        table = self._table
        sets = sets[sets.sum(axis=1) <= table.cap]
        if not len(sets):
            return False
        costs = table.cost(sets, np.zeros_like(sets))
        first = int(costs.argmin())
        if costs[first] >= self.cost:
            return False
        self.cost = int(costs[first])
        self.chosen = tuple(np.flatnonzero(sets[first]).tolist())
        return True
