"""Problems without what cannot be planned with at present, and as a person sets them."""

from datetime import timedelta
from typing import Any

import pytest

from models.messages import Avoided
from models.plan import Plan, Unfillable
from models.rerouting import Notice, NoticeKind, SetPlan
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from policies.routing.questions import differences
from policies.routing.rerouting import as_set, without
from tests.policies.test_router import NOW, a_problem

STOCK = {("n1", "a"): 3, ("n2", "a"): 4, ("n2", "b"): 1}


def notice(kind: NoticeKind, **says: Any) -> Notice:
    return Notice(notice_id=1, kind=kind, reason="a flood", actor="dana", posted_at=NOW, **says)


def a_plan(problem: RoutingProblem) -> Plan:
    plan = ExactRouter().route(problem)
    assert isinstance(plan, Plan), plan
    return plan


def nodes_of(plan: Plan) -> set[str]:
    return {shipment.node for shipment in plan.shipments}


def test_nothing_is_planned_from_a_node_that_is_closed_and_the_plan_says_why() -> None:
    problem = a_problem({"a": 2}, STOCK)
    usual = nodes_of(a_plan(problem))
    assert len(usual) == 1
    closed = without(problem, [notice(NoticeKind.NODE, node=usual.copy().pop())], (), "LS1 4DY")
    plan = a_plan(closed)
    assert nodes_of(plan) == {"n1", "n2"} - usual
    assert any("is closed: a flood" in reason for reason in plan.reasons)
    assert differences(plan, closed) == [], "it is decided the same again, whatever holds by then"


def test_what_concerns_another_order_changes_nothing() -> None:
    problem = a_problem({"a": 2}, STOCK)
    others = [
        notice(NoticeKind.NODE, node="n9"),
        notice(NoticeKind.CARRIER, carrier="nobody"),
        notice(NoticeKind.REGION, country="FR"),
        notice(NoticeKind.REGION, country="GB", prefix="LS"),
    ]
    assert without(problem, others, (), "AB10 1AA") is problem


@pytest.mark.parametrize(
    ("prefix", "postcode", "concerned"),
    [("LS", "ls1 4dy", True), ("LS1", "LS14 1AA", False), ("LS1", "LS1 4DY", True), (None, "LS1 4DY", True)],
)
def test_a_region_is_a_beginning_of_postcodes(prefix: str | None, postcode: str, concerned: bool) -> None:
    problem = a_problem({"a": 2}, STOCK)
    told = without(problem, [notice(NoticeKind.REGION, country="GB", prefix=prefix)], (), postcode)
    assert isinstance(ExactRouter().route(told), Unfillable) is concerned


def test_a_delay_counts_as_days_in_transit() -> None:
    problem = a_problem({"a": 2}, STOCK)
    late = without(problem, [notice(NoticeKind.REGION, country="GB", delay_days=2)], (), "")
    assert a_plan(late).promised_at == a_plan(problem).promised_at + timedelta(days=2)


def test_a_carrier_that_is_out_takes_all_its_services_with_it_and_a_service_only_itself() -> None:
    problem = a_problem({"a": 2}, STOCK)
    carrier = problem.services[0].carrier
    names = {one.service for one in problem.services if one.carrier == carrier}
    out = without(problem, [notice(NoticeKind.CARRIER, carrier=carrier)], (), "")
    assert {one.service for one in out.services if one.carrier == carrier and not one.active} == names
    only = without(problem, (), [Avoided(carrier=carrier, service=problem.services[0].service)], "")
    assert [one.service for one in only.services if not one.active] == [problem.services[0].service]


def test_what_an_order_avoids_is_as_if_it_were_closed() -> None:
    problem = a_problem({"a": 2}, STOCK)
    avoided = Avoided(node="n2", until=NOW, why="no_capacity")
    plan = a_plan(without(problem, (), [avoided], ""))
    assert nodes_of(plan) == {"n1"}
    assert any("n2 is left out: no capacity" in reason for reason in plan.reasons)


# --- by hand ---
def wish(**says: Any) -> SetPlan:
    return SetPlan(request_id="r", actor="dana", reason="as the customer wants it", **says)


def restricted(problem: RoutingProblem, **says: Any) -> RoutingProblem:
    found = as_set(problem, wish(**says))
    assert isinstance(found, RoutingProblem), found
    return found


def lines_of(plan: Plan) -> dict[str, dict[str, int]]:
    return {one.node: {line.sku: line.quantity for line in one.lines} for one in plan.shipments}


def test_every_unit_comes_from_where_a_person_wants_it_though_it_costs_more() -> None:
    problem = a_problem({"a": 3, "b": 1}, STOCK)
    of_a = problem.lines[0].line_id
    hand = restricted(problem, units=({"line_id": of_a, "node": "n1", "quantity": 2},), node="n2")
    plan = a_plan(hand)
    assert lines_of(plan) == {"n1": {"a": 2}, "n2": {"a": 1, "b": 1}}
    assert plan.cost.minor >= a_plan(problem).cost.minor
    assert differences(plan, hand) == []


def test_the_policy_s_rules_do_not_hold_for_it() -> None:
    problem = a_problem({"a": 2}, STOCK).model_copy(
        update={"barred": ("n1",), "max_parcels": 1, "sequence": (("n2",),), "rule": "north-only"}
    )
    assert lines_of(a_plan(restricted(problem, node="n1"))) == {"n1": {"a": 2}}


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({"node": "n1"}, "n1 can give 3 of a: 1 more would have to lie there"),
        ({"node": "n9"}, "n9 is no node: there are n1, n2"),
        ({"units": ({"line_id": "no", "node": "n2"},), "node": "n2"}, "line no is not among what is left"),
        ({"units": ({"line_id": "1", "node": "n2", "quantity": 9},), "node": "n2"}, "of which 4 are left"),
        ({"units": ({"line_id": "1", "node": "n2", "quantity": 1},)}, "nothing says where 3 of its units"),
    ],
)
def test_what_cannot_be_says_what_it_would_take(says: dict[str, Any], why: str) -> None:
    problem = a_problem({"a": 4}, STOCK)
    problem = problem.model_copy(
        update={"lines": tuple(line.model_copy(update={"line_id": "1"}) for line in problem.lines)}
    )
    found = as_set(problem, wish(**says))
    assert isinstance(found, tuple) and any(why in reason for reason in found), found


def test_nothing_comes_from_a_node_that_is_closed_by_hand_either() -> None:
    problem = without(a_problem({"a": 1}, STOCK), [notice(NoticeKind.NODE, node="n1")], (), "")
    assert as_set(problem, wish(node="n1")) == ("n1 is closed",)


def test_two_lines_of_one_sku_share_what_lies_there() -> None:
    problem = a_problem({"a": 2}, STOCK)
    line = problem.lines[0]
    twice = problem.model_copy(
        update={"lines": (line, line.model_copy(update={"line_id": "again", "quantity": 2}))}
    )
    found = as_set(twice, wish(node="n1"))
    assert found == ("n1 can give 3 of a: 1 more would have to lie there",)
    assert lines_of(a_plan(restricted(twice, node="n2"))).keys() == {"n2"}
