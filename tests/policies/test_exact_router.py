"""What the exact router adds to the simple one: cheaper splits, proof, alternatives; and questions about its plans."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given, settings

from models.errors import Refused
from models.plan import Plan, Unfillable
from models.routing import RouteQuestion
from policies.routing import exact
from policies.routing.exact import ExactRouter
from policies.routing.instance import Instance
from policies.routing.problem import DemandLine, RoutingProblem
from policies.routing.questions import differences, what_if
from policies.routing.router import CheapestNodeRouter
from policies.routing.solution import Assignment, Solution, solution
from policies.routing.solution import Unfillable as NoSolution
from policies.routing.terms import terms_of
from tests.policies.test_router import NOW, a_node, a_problem, a_service, demands, routed, stocks

ROUTER = ExactRouter()
# The simple rule begins with the fullest node, which needs the other two for the rest.
THREE = {
    ("n1", "a"): 1,
    ("n1", "b"): 1,
    ("n1", "c"): 1,
    ("n2", "d"): 1,
    ("n2", "c"): 1,
    ("n3", "a"): 1,
    ("n3", "b"): 1,
}


def test_a_split_is_the_cheapest_there_is_and_says_so() -> None:
    stock = THREE | {("n1", "c"): 1, ("n3", "d"): 0}
    problem = a_problem(dict.fromkeys("abcd", 1), stock)
    problem = problem.model_copy(update={"nodes": (a_node("n1", 900), a_node("n2", 100), a_node("n3", 100))})
    plan = routed(ROUTER, problem)
    assert [shipment.node for shipment in plan.shipments] == ["n2", "n3"]
    assert plan.cost < routed(CheapestNodeRouter(), problem).cost
    assert plan.proof is not None
    assert plan.proof.proven
    assert plan.proof.objective_minor == plan.proof.bound_minor == plan.cost.minor
    assert plan.reasons[0].startswith("2 shipments: the cheapest there is of 3 ways from 3 nodes")
    assert sum(term.amount.minor for term in terms_of(plan)) == plan.cost.minor


@settings(max_examples=80)
@given(demands, stocks)
def test_it_never_costs_more_than_the_simple_rule(
    demand: dict[str, int], stock: dict[tuple[str, str], int]
) -> None:
    problem = a_problem(demand, stock)
    plan, simple = ROUTER.route(problem), CheapestNodeRouter().route(problem)
    assert isinstance(plan, Plan) == isinstance(simple, Plan)
    if isinstance(plan, Plan) and isinstance(simple, Plan):
        assert plan.cost.minor <= simple.cost.minor
        assert differences(plan, problem) == []


def test_lines_of_one_sku_are_served_one_after_the_other() -> None:
    problem = a_problem({"a": 3}, {("n1", "a"): 4, ("n2", "a"): 2})
    problem = problem.model_copy(
        update={"lines": (*problem.lines, DemandLine(line_id="again", sku="a", quantity=3))}
    )
    first, second = routed(ROUTER, problem).shipments
    assert [(line.line_id, line.quantity) for line in first.lines] == [("l-a", 3), ("again", 1)]
    assert [(line.line_id, line.quantity) for line in second.lines] == [("again", 2)]


def test_where_nothing_is_in_time_days_are_weighed_against_money() -> None:
    services = (a_service(base=100, days=9), a_service("express", base=900, days=2))
    problem = a_problem({"a": 1}, {("n1", "a"): 1}, services=services, promise_by=NOW)
    plan = routed(ROUTER, problem)
    assert plan.shipments[0].service == "express"
    assert plan.late is not None
    assert plan.late.minor == 4 * 500
    assert "; late by what is asked for: 1" in plan.reasons[0]
    assert plan.proof is not None
    assert plan.proof.objective_minor == plan.cost.minor + plan.late.minor
    answer = what_if(problem, RouteQuestion(late_day_minor=0))
    assert isinstance(answer, Plan)
    assert answer.shipments[0].service == "standard"


def test_a_parcel_that_is_too_heavy_goes_as_two() -> None:
    services = (a_service(max_weight_g=1_000), a_service("other", base=400, max_weight_g=1_000))
    plan = routed(ROUTER, a_problem({"a": 15}, {("n1", "a"): 20}, services=services))
    assert sorted(shipment.weight_g for shipment in plan.shipments) == [500, 1_000]


def test_an_optimiser_that_fails_leaves_the_order_to_the_simple_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise MemoryError("too much")

    monkeypatch.setattr(exact, "solve", crash)
    plan = routed(ROUTER, a_problem({"a": 1}, {("n1", "a"): 1}))
    assert plan.proof is None
    assert plan.reasons[0] == "the optimiser failed (MemoryError: too much): by a simple rule"


def test_a_plan_that_time_ran_out_on_is_no_dearer_than_the_simple_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_a_hurry(instance: Instance, **_: object) -> Solution:
        dearest = max(range(len(instance.options)), key=lambda at: instance.options[at].fixed_mills)
        found = [Assignment(line, dearest, one.quantity) for line, one in enumerate(instance.lines)]
        return solution(instance, found, "hurry", lower_bound_mills=0, fallback=True)

    monkeypatch.setattr(exact, "solve", in_a_hurry)
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5})
    problem = problem.model_copy(update={"nodes": (a_node("n1", 300), a_node("n2", 200))})
    plan = routed(ROUTER, problem)
    assert [shipment.node for shipment in plan.shipments] == ["n2"]
    assert plan.cost == routed(CheapestNodeRouter(), problem).cost
    assert plan.proof is not None
    assert (plan.router, plan.proof.method, plan.proof.proven) == ("exact/2", "simple rule, hurry", False)
    assert (plan.proof.objective_minor, plan.proof.bound_minor) == (plan.cost.minor, 0)


def test_all_steps_of_a_sequence_share_one_budget_and_the_last_ones_still_have_a_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, given_to = 100.0, []

    def out_of_time(_: Instance, *, budget_s: float, **__: object) -> NoSolution:
        nonlocal now
        now += 0.1
        given_to.append(round(budget_s, 3))
        return NoSolution((), proven=False)

    monkeypatch.setattr(exact, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(exact, "solve", out_of_time)
    stock = {(f"n{number}", "a"): 1 for number in range(1, 6)}
    problem = a_problem({"a": 5}, stock, sequence=tuple((node,) for node, _ in stock), rule="by turns")
    plan = routed(ROUTER, problem)
    assert given_to == [0.25, 0.15, 0.05, 0.01, 0.01]
    assert plan.reasons[0] == "the optimiser found no plan in time: by a simple rule"
    assert plan.reasons[-1] == "from step 5 of 5 of the sequence of rule by turns"


def test_a_simple_plan_keeps_to_the_sequence_and_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise MemoryError("too much")

    problem = a_problem({"a": 1}, {("n1", "a"): 1, ("n2", "a"): 1}, rule="by turns")
    problem = problem.model_copy(
        update={"nodes": (a_node("n1", 100), a_node("n2", 900)), "sequence": (("n2",), ("n1",))}
    )
    monkeypatch.setattr(exact, "solve", crash)
    plan = routed(ROUTER, problem)
    assert [shipment.node for shipment in plan.shipments] == ["n2"]
    assert differences(plan, problem) == []


# --- questions ---
def test_other_ways_are_named_with_what_they_cost() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5, ("n3", "a"): 1})
    problem = problem.model_copy(update={"nodes": (a_node("n1", 300), a_node("n2", 200), a_node("n3", 100))})
    plan = routed(ROUTER, problem)
    assert [(one.what, one.cost and one.cost.minor, one.why_not) for one in plan.alternatives] == [
        ("everything from n1", plan.cost.minor + 100, None),
        ("everything from n3", None, "short of 1 line"),
    ]


def test_a_forced_node_without_stock_says_what_it_would_take() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 1})
    forced = what_if(problem, RouteQuestion(force="n2"))
    assert isinstance(forced, Unfillable)
    assert [(line.sku, line.quantity) for line in forced.missing] == [("a", 1)]
    without = what_if(problem, RouteQuestion(without="n2"))
    assert isinstance(without, Plan)
    assert [shipment.node for shipment in without.shipments] == ["n1"]
    with pytest.raises(Refused, match="n9 is no node that the router knew then: n1, n2"):
        what_if(problem, RouteQuestion(force="n9"))


def test_a_plan_that_would_be_another_today_is_told_apart() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5})
    plan = routed(ROUTER, problem)
    later = plan.model_copy(update={"promised_at": plan.promised_at + timedelta(days=1)})
    (difference,) = differences(later, problem)
    assert difference.startswith("promised: ")
    renumbered = plan.model_copy(
        update={"shipments": tuple(one.model_copy(update={"number": 7}) for one in plan.shipments)}
    )
    assert differences(renumbered, problem) == []
    with pytest.raises(Refused, match="does not have any more"):
        differences(plan.model_copy(update={"router": "gone/1"}), problem)


def test_no_plan_has_more_parcels_than_the_policy_allows_and_what_is_missing_is_still_named() -> None:
    problem = a_problem({"a": 2, "b": 1}, {("n1", "a"): 1, ("n2", "a"): 1, ("n2", "b"): 1}, max_parcels=1)
    for router in (ROUTER, CheapestNodeRouter()):
        refused = router.route(problem)
        assert isinstance(refused, Unfillable)
        assert refused.reasons[0].startswith("it would take more than 1 parcels") and not refused.missing
        short = router.route(problem.model_copy(update={"stock": problem.stock[:1]}))
        assert isinstance(short, Unfillable) and short.missing
    assert len(routed(ROUTER, problem.model_copy(update={"max_parcels": 2})).shipments) == 2


# --- the policy's sequence and its cap of parcels ---
def two_steps(**changes: object) -> RoutingProblem:
    """n1 alone first, from where it takes nine days; n2 is dearer, and two days away."""
    (zone,) = a_service(base=900, days=2).zones
    zones = (
        zone.model_copy(update={"origin": "NL", "base_minor": 100, "transit_days": 9}),
        zone.model_copy(update={"origin": "GB"}),
    )
    service = a_service().model_copy(update={"zones": zones})
    problem = a_problem({"a": 1}, {("n1", "a"): 1, ("n2", "a"): 1}, services=(service,))
    nodes = (a_node("n1").model_copy(update={"country": "NL"}), a_node("n2"))
    return problem.model_copy(
        update={"nodes": nodes, "sequence": (("n1",), ("n2",)), "sequence_in_time": True, "rule": "r"}
        | changes
    )


def test_a_step_that_is_late_leaves_the_order_to_the_next_ones() -> None:
    asked = two_steps(promise_by=NOW + timedelta(days=5))
    plan = routed(ROUTER, asked)
    assert [one.node for one in plan.shipments] == ["n2"]
    assert "from step 2 of 2 of the sequence of rule r" in plan.reasons
    assert plan.reasons[-1].startswith("steps before could fill it on ")
    assert differences(plan, asked) == []
    assert [one.node for one in routed(ROUTER, two_steps()).shipments] == ["n1"]


def test_where_no_step_is_in_time_the_first_one_does() -> None:
    plan = routed(ROUTER, two_steps(promise_by=NOW))
    assert [one.node for one in plan.shipments] == ["n1"]
    assert plan.late is not None and plan.reasons[-1] == "from step 1 of 2 of the sequence of rule r"


def test_a_problem_of_before_dates_counted_in_a_sequence_is_decided_as_then() -> None:
    stored = two_steps(promise_by=NOW + timedelta(days=5)).model_dump(mode="json")
    del stored["sequence_in_time"]
    plan = routed(ROUTER, RoutingProblem.model_validate(stored))
    assert [one.node for one in plan.shipments] == ["n1"]


def test_parcels_that_go_on_count_among_the_most_that_there_may_be() -> None:
    apart = {("n1", "a"): 1, ("n2", "b"): 1}
    problem = a_problem({"a": 1, "b": 1}, apart).model_copy(update={"max_parcels": 3, "kept_parcels": 1})
    assert len(routed(ROUTER, problem).shipments) == 2
    for kept in (2, 3, 4):
        for router in (ROUTER, CheapestNodeRouter()):
            answer = router.route(problem.model_copy(update={"kept_parcels": kept}))
            assert isinstance(answer, Unfillable)
            assert answer.missing == ()
            assert answer.reasons == (
                f"it would take more than 3 parcels with the {kept} that go on already, which is the most that the "
                "policy allows",
            )
