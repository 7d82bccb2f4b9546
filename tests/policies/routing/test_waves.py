"""Waves: feasible, bounded from below, and the same every time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ortools.linear_solver import pywraplp  # type: ignore[import-untyped]

from policies.routing.batch import NEVER
from policies.routing.held_orders import HeldOrders, Ints
from policies.routing.prices import price
from policies.routing.waves import Effort, route_wave
from tests.policies.routing.held import some_orders, taken

QUICK = Effort(pricing=25, improvement=10, share=0.3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("capacity", [99, 5, 0])
def test_a_wave_takes_no_more_than_there_is_and_costs_no_less_than_its_bound(
    seed: int, capacity: int
) -> None:
    held = some_orders(seed, orders=40, capacity=capacity)
    plan = route_wave(held, QUICK)
    units, shipments = taken(held, plan.node)
    assert all(many <= held.stock[key] for key, many in units.items())
    assert all(many <= capacity for many in shipments.values())
    assert all(held.line[line, node] < NEVER for line, node in enumerate(plan.node) if node >= 0)
    assert plan.cost == int(held.costs(plan.node).sum())
    assert plan.bound <= plan.cost
    assert plan.gap >= 0


def per_order_lp(held: HeldOrders) -> float:
    """The LP of the per-order formulation (open nodes, lines at them), which is no stronger than that of node sets."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    stock: dict[tuple[int, int], list[Any]] = {}
    cost = 0
    for order in range(held.orders):
        # Not charged for the first parcel: one split less, for an order that is served at all.
        any_served = solver.NumVar(0, 1, "")
        opened = [solver.NumVar(0, 1, "") for _ in range(held.nodes)]
        solver.Add(any_served <= sum(opened))
        cost -= int(held.split[order]) * any_served
        for node, is_open in enumerate(opened):
            cost += (
                (int(held.opening[order, node]) + int(held.split[order])) * is_open
                if held.opening[order, node] < NEVER
                else 0
            )
            if held.opening[order, node] >= NEVER:
                solver.Add(is_open == 0)
        for line in range(int(held.first_line[order]), int(held.first_line[order + 1])):
            served = []
            for node, is_open in enumerate(opened):
                if held.line[line, node] < NEVER and held.stock[held.sku[line], node] >= held.quantity[line]:
                    here = solver.NumVar(0, 1, "")
                    solver.Add(here <= is_open)
                    cost += int(held.line[line, node]) * here
                    stock.setdefault((int(held.sku[line]), node), []).append(int(held.quantity[line]) * here)
                    served.append(here)
            unfilled = solver.NumVar(0, 1, "")
            solver.Add(sum(served) + unfilled == 1)
            cost += int(held.unfilled[line]) * unfilled
    for key, uses in stock.items():
        solver.Add(sum(uses) <= int(held.stock[key]))
    solver.Minimize(cost)
    assert solver.Solve() == pywraplp.Solver.OPTIMAL
    return float(solver.Objective().Value())


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_hardly_below_the_lp_of_the_per_order_formulation(seed: int) -> None:
    held = some_orders(seed, orders=60, skus=8)
    assert price(held, 300).bound >= 0.99 * per_order_lp(held)


def test_the_same_orders_give_the_same_plan() -> None:
    one, other = (route_wave(some_orders(3, orders=60), QUICK) for _ in range(2))
    assert one.node.tolist() == other.node.tolist()
    assert (one.cost, one.bound) == (other.cost, other.bound)


def test_improvement_never_makes_a_plan_dearer() -> None:
    held = some_orders(5, orders=80)
    assert route_wave(held, Effort(improvement=40)).cost <= route_wave(held, Effort(improvement=0)).cost


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"quantity": np.zeros(2, np.int64)}, "quantity must not be below 1"),
        ({"stock": np.full((3, 2), -1)}, "stock must not be below 0"),
        ({"opening": np.zeros((1, 3), np.int64)}, "opening has the shape"),
        ({"sku": np.array([0, 9])}, "sku must lie between 0 and 2"),
        ({"sku": np.array([1, 1])}, "a SKU on two lines"),
        ({"first_line": np.array([0, 0])}, "every order needs a line"),
        ({"unfilled": np.full(2, 1 << 40)}, "penalties add up"),
    ],
)
def test_orders_that_cannot_be_right_are_refused_with_what_is_wrong(
    changed: dict[str, Ints], says: str
) -> None:
    right = HeldOrders(
        first_line=np.array([0, 2]),
        sku=np.array([0, 1]),
        quantity=np.ones(2, np.int64),
        opening=np.zeros((1, 2), np.int64),
        split=np.zeros(1, np.int64),
        line=np.zeros((2, 2), np.int64),
        unfilled=np.ones(2, np.int64),
        stock=np.ones((3, 2), np.int64),
        capacity=np.ones(2, np.int64),
    )
    with pytest.raises(ValueError, match=says):
        replace(right, **changed)


def test_an_effort_that_tries_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round of pricing"):
        Effort(pricing=0)
