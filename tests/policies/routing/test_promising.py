"""The plan of a promise made the plan of the order that takes it."""

from datetime import timedelta
from typing import Any

import pytest

from models.plan import Plan
from policies.routing.exact import ExactRouter
from policies.routing.problem import DemandLine, RoutingProblem
from policies.routing.promising import taken, why_not
from policies.routing.questions import differences
from tests.policies.test_router import NOW, a_problem

STOCK = {("n1", "a"): 3, ("n2", "a"): 4, ("n2", "b"): 1}


def promised() -> tuple[Plan, RoutingProblem]:
    problem = a_problem({"a": 7, "b": 1}, STOCK)
    plan = ExactRouter().route(problem)
    assert isinstance(plan, Plan)
    return plan, problem


LINES = (
    DemandLine(line_id="x", sku="a", quantity=2),
    DemandLine(line_id="y", sku="b", quantity=1),
    DemandLine(line_id="z", sku="a", quantity=5),
)


def test_an_order_s_own_lines_are_shipped_by_it_and_the_router_decides_the_same_of_them() -> None:
    plan, problem = promised()
    theirs, pinned = taken(plan, problem, "web:1", LINES)
    shipped = [(line.line_id, line.sku, line.quantity) for one in theirs.shipments for line in one.lines]
    assert sorted(shipped) == [("x", "a", 2), ("y", "b", 1), ("z", "a", 2), ("z", "a", 3)]
    assert theirs.cost == plan.cost and pinned.order_id == "web:1"
    assert differences(theirs, pinned) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lines": LINES[:2]}, "other goods"),
        ({"ship_country": "FR"}, "it was made for GB, and the order goes to FR"),
        ({"ship_complete": True}, "another ship_complete"),
        ({"carrier_service": "a/b"}, "another carrier_service"),
        ({"promise_by": NOW}, "another promise_by"),
        ({"barred": ("n2",), "policy": "policy/2"}, "n2 is closed, or policy/2 bars it"),
        ({"services": ()}, "is not to be had any more"),
        ({"max_parcels": 1}, "it has 2 parcels, and the policy allows 1"),
        ({"business_now": NOW + timedelta(days=60)}, "which is past"),
    ],
)
def test_an_order_that_is_another_one_is_not(change: dict[str, Any], why: str) -> None:
    plan, problem = promised()
    order = problem.model_copy(update={"lines": LINES})
    assert why_not(plan, problem, order) is None
    refusal = why_not(plan, problem, order.model_copy(update=change))
    assert refusal is not None and why in refusal


def test_an_order_that_asks_for_less_than_was_promised_is() -> None:
    plan, problem = promised()
    strict = problem.model_copy(update={"promise_by": NOW, "ship_complete": True})
    assert why_not(plan, strict, problem) is None
