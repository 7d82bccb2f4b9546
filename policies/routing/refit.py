"""Units that weigh the same but cost differently by SKU and node: which units go in which parcels, and which parcels.

For given parcels the cheapest units of each are a flow of least cost: from lines over nodes to parcels, in whole units
of themselves. Which parcels there are is found by opening, closing or exchanging one as long as that saves. No proof:
the bound comes from the order whose units cost the same from an option, the least that any costs (``alike``).

Freight that is not linear is priced at its lowest per gram within the flow, and rightly where plans are compared.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from policies.routing import parcels
from policies.routing.instance import Instance
from policies.routing.solution import Assignment, fits, terms

METHOD = "refit"


def warm_up() -> None:
    """Import the solver."""
    from ortools.graph.python import min_cost_flow  # type: ignore[import-untyped] # noqa: F401, PLC0415


class Alike(NamedTuple):
    """``instance`` with units that cost the same from an option: what it costs, and ``more_mills``, is a bound."""

    instance: Instance
    more_mills: int


def alike(instance: Instance) -> Alike | None:
    """What ``parcels`` can solve instead; None where it can solve the order itself, or not even that."""
    if parcels.supports(instance) is None:
        return None
    rows = instance.unit_cost
    if any(cost is None for row in rows for cost in row):
        return None
    costs = np.array(rows, dtype=np.int64).reshape(len(rows), len(instance.options))
    least = costs.min(axis=1, initial=0 if not instance.options else int(costs.max()))
    row = tuple(int(cost) for cost in (costs - least[:, None]).min(axis=0)) if instance.options else ()
    relaxed = replace(instance, unit_cost=(row,) * len(instance.lines))
    if parcels.supports(relaxed) is not None:
        return None
    more = sum(line.quantity * int(unit) for line, unit in zip(instance.lines, least, strict=True))
    return Alike(relaxed, more)


def improved(
    instance: Instance, plans: Iterable[Sequence[Assignment]], deadline: float
) -> tuple[Assignment, ...] | None:
    """The best plan that is found from the parcels of ``plans``, until the deadline; None: none keeps all rules."""
    search = _Search(instance, deadline)
    for plan in plans:
        search.start(plan)
    search.descend()
    return search.best


class _Search:
    def __init__(self, instance: Instance, deadline: float) -> None:
        self._instance = instance
        self._deadline = deadline
        self._flow = _Flow(instance)
        self._seen: set[frozenset[int]] = set()
        self._opened: frozenset[int] = frozenset()
        self.best: tuple[Assignment, ...] | None = None
        self.cost = 0

    def start(self, plan: Sequence[Assignment]) -> None:
        if plan:
            self._keep(tuple(plan))
            self._try(frozenset(one.option for one in plan))

    def descend(self) -> None:
        every = range(len(self._instance.options))
        while self.best is not None:
            opened, before = self._opened, self.cost
            closed = [option for option in every if option not in opened]
            for option in closed:
                self._try(opened | {option})
            for other in sorted(opened):
                self._try(opened - {other})
                for option in closed:
                    self._try(opened - {other} | {option})
            if self.cost >= before or time.monotonic() > self._deadline:
                return

    def _try(self, opened: frozenset[int]) -> None:
        if opened in self._seen or time.monotonic() > self._deadline:
            return
        self._seen.add(opened)
        if 0 < len(opened) <= self._instance.most_shipments:
            plan = self._flow.units(sorted(opened))
            if plan is not None:
                self._keep(plan)

    def _keep(self, plan: tuple[Assignment, ...]) -> None:
        cost = terms(self._instance, plan).total_mills
        if (self.best is None or cost < self.cost) and fits(self._instance, plan):
            self.best, self.cost = plan, cost
            self._opened = frozenset(one.option for one in plan)


class _Flow:
    """Nodes of the graph: the source, SKUs, places (SKU at node), what a node can pick, options, the sink."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        asked: dict[str, list[int]] = {}
        for place, line in enumerate(instance.lines):
            asked.setdefault(line.sku, []).append(place)
        self._lines = list(asked.values())
        self._skus = list(asked)
        self._quantity = [sum(instance.lines[one].quantity for one in places) for places in self._lines]
        self._wanted = sum(self._quantity)
        grams = instance.lines[0].unit_weight_g
        self._freight = [parcels.least_freight(option.rate, grams) for option in instance.options]
        self._room = [
            self._wanted
            if (limit := option.weight_limit_g) is None or not grams
            else min(self._wanted, limit // grams)
            for option in instance.options
        ]

    def units(self, opened: Sequence[int]) -> tuple[Assignment, ...] | None:
        """The cheapest units for these options; None where they cannot ship everything."""
        # Slow to import, and few processes need it.
        from ortools.graph.python import min_cost_flow  # noqa: PLC0415

        instance = self._instance
        nodes = list(dict.fromkeys(instance.options[option].node for option in opened))
        first_node = len(self._skus)
        first_option = first_node + len(nodes)
        sink = first_option + len(opened)
        flow = min_cost_flow.SimpleMinCostFlow()
        arcs: dict[int, tuple[int, int]] = {}
        for sku, places in enumerate(self._lines):
            for number, node in enumerate(nodes):
                held = min(instance.stock.get((node, self._skus[sku]), 0), self._quantity[sku])
                if held:
                    # Options of a node differ by their freight alone: the units cost the same from all of them.
                    option = next(one for one in opened if instance.options[one].node == node)
                    cost = instance.unit_cost[places[0]][option] or 0
                    arc = flow.add_arc_with_capacity_and_unit_cost(sku, first_node + number, held, cost)
                    arcs[arc] = (sku, number)
            flow.set_node_supply(sku, self._quantity[sku])
        of_option = {}
        for number, option in enumerate(opened):
            place = first_node + nodes.index(instance.options[option].node)
            arc = flow.add_arc_with_capacity_and_unit_cost(
                place, first_option + number, self._room[option], self._freight[option]
            )
            of_option[arc] = option
            flow.add_arc_with_capacity_and_unit_cost(first_option + number, sink, self._wanted, 0)
        flow.set_node_supply(sink, -self._wanted)
        if flow.solve() != flow.OPTIMAL:
            return None
        room: list[list[list[int]]] = [[] for _ in nodes]
        for arc, option in of_option.items():
            if units := flow.flow(arc):
                room[nodes.index(instance.options[option].node)].append([option, units])
        left = [[(place, instance.lines[place].quantity) for place in places] for places in self._lines]
        return self._dealt(left, [(pair, flow.flow(arc)) for arc, pair in arcs.items()], room)

    def _dealt(
        self,
        left: list[list[tuple[int, int]]],
        sent: Sequence[tuple[tuple[int, int], int]],
        room: list[list[list[int]]],
    ) -> tuple[Assignment, ...]:
        given: dict[tuple[int, int], int] = {}
        for (sku, node), many in sent:
            units = many
            while units:
                line, asked = left[sku][0]
                option, free = room[node][0]
                taken = min(units, asked, free)
                given[line, option] = given.get((line, option), 0) + taken
                units -= taken
                if asked == taken:
                    left[sku].pop(0)
                else:
                    left[sku][0] = (line, asked - taken)
                room[node][0][1] -= taken
                if free == taken:
                    room[node].pop(0)
        return tuple(sorted(Assignment(line, option, units) for (line, option), units in given.items()))
