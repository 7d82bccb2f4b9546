"""What another policy would have made of decisions of the past."""

from collections.abc import Iterator

import numpy as np
import pytest

from models.plan import Plan
from policies.routing.backtest import Decided, backtest, interval
from policies.routing.exact import ExactRouter
from policies.routing.looking import LookAheadPolicy, valued
from policies.routing.problem import KnownValues, RoutingProblem, StockFigures
from tests.policies.test_router import NOW, a_node, a_problem

ROUTER = ExactRouter()
# One parcel from the dear node, or two from the cheap ones.
STOCK = {("n1", "a"): 1, ("n1", "b"): 1, ("n2", "a"): 1, ("n3", "b"): 1}


def decided(**changes: object) -> Decided:
    problem = a_problem({"a": 1, "b": 1}, STOCK, split_penalty_minor=0)
    problem = problem.model_copy(update={"nodes": (a_node("n1", 2_000), a_node("n2", 0), a_node("n3", 0))})
    plan = ROUTER.route(problem)
    assert isinstance(plan, Plan)
    return Decided(plan, problem.model_copy(update=changes))


def test_the_same_policy_makes_the_same_of_all() -> None:
    found = backtest([decided() for _ in range(5)], ROUTER, seconds=60)
    assert (found.tried, found.changed, found.proven) == (5, 0, 5)
    assert found.fill_before == found.fill_after == 1
    for figure in found.figures:
        assert (figure.difference, figure.low, figure.high) == (0, 0, 0)


def test_another_one_shows_what_it_costs_and_how_sure_that_is() -> None:
    past = [decided(split_penalty_minor=5_000)] * 4 + [decided()] * 4
    found = backtest(past, ROUTER, seconds=60)
    assert (found.tried, found.changed) == (8, 4)
    figures = {figure.figure: figure for figure in found.figures}
    parcels = figures["parcels"]
    assert (parcels.before, parcels.after, parcels.difference) == (2, 1.5, -0.5)
    assert -1 <= parcels.low < -0.5 < parcels.high <= 0
    cost = figures["cost"]
    assert cost.difference == pytest.approx(cost.after - cost.before)
    # What is paid: a penalty for the split is nobody's money.
    assert cost.difference > 0
    assert cost.before * 100 == pytest.approx(
        sum((s.handling + s.freight).minor for s in past[0].plan.shipments)
    )
    assert "distance" not in figures and "carbon" not in figures


def test_what_units_weigh_where_they_lie_is_a_figure_of_its_own_and_no_money() -> None:
    found = tuple(
        StockFigures(node=node, sku=sku, price_mills=3_000_000 if node != "n1" else 0, sold=1, on_hand=1)
        for node, sku in STOCK
    )
    known = KnownValues(
        run_id="r", worked_out_at=NOW, method="shadow-prices/1", window_days=28, least_lines=10, figures=found
    )
    one = decided(values=known)
    looking = Decided(one.plan, valued(one.problem, LookAheadPolicy(percent=75), {}))
    (same,) = [figure for figure in backtest([one], ROUTER, seconds=60).figures if figure.figure == "cost"]
    figures = {figure.figure: figure for figure in backtest([looking], ROUTER, seconds=60).figures}
    assert same.difference == 0
    # One parcel from n1, whose units nobody else will need, costs more than the two that were sent.
    assert figures["cost"].difference > 0
    assert "look-ahead and markdown" not in figures
    dear = looking.problem.model_copy(update={"nodes": looking.problem.nodes[1:]})
    (weighed,) = [
        figure
        for figure in backtest([Decided(one.plan, dear)], ROUTER, seconds=60).figures
        if figure.figure == "look-ahead and markdown"
    ]
    assert weighed.after == 45.0


def test_an_order_that_it_does_not_fill_counts_as_unfilled_and_not_as_cheap() -> None:
    found = backtest([decided(max_parcels=1, barred=("n1",)), decided()], ROUTER, seconds=60)
    assert (found.changed, found.fill_before, found.fill_after) == (1, 1, 0.5)
    assert {figure.orders for figure in found.figures} == {1}
    half = backtest([decided(barred=("n1", "n3"))], ROUTER, seconds=60)
    assert (half.fill_after, half.figures) == (0.5, ())


def test_it_stops_when_its_time_is_up_and_says_how_far_it_came() -> None:
    ticks: Iterator[float] = iter([0.0, 1.0, 2.0, 11.0])
    found = backtest([decided() for _ in range(9)], ROUTER, seconds=10, clock=lambda: next(ticks))
    assert found.tried == 2
    nothing = backtest([], ROUTER, seconds=1)
    assert (nothing.tried, nothing.fill_after, nothing.figures) == (0, 1, ())


def test_distances_and_carbon_are_told_where_both_plans_have_them() -> None:
    one = decided()
    far = one.plan.model_copy(
        update={
            "shipments": tuple(
                shipment.model_copy(update={"distance_km": 100, "weight_g": 10_000})
                for shipment in one.plan.shipments
            )
        }
    )

    class Same:
        name = "same"

        def route(self, _problem: RoutingProblem) -> Plan:
            return far

    found = backtest([Decided(far, one.problem)], Same(), seconds=60, carbon_g_per_tonne_km=80)
    figures = {figure.figure: figure.after for figure in found.figures}
    assert figures["distance"] == 200
    assert figures["transport"] == pytest.approx(2)
    assert figures["carbon"] == pytest.approx(0.16)


def test_the_interval_is_that_of_the_mean() -> None:
    chooser = np.random.default_rng(7)
    covered = 0
    for _ in range(60):
        low, high = interval(chooser.normal(3, 2, 80))
        covered += low <= 3 <= high
    # 95 % of 60 are 57; fewer than 50 would be no accident.
    assert 50 <= covered <= 60
