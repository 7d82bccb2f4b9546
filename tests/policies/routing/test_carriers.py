"""What is expected of carriers by what they did, and what it changes about plans."""

from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.plan import Plan
from models.routing import RouteQuestion
from policies.routing import exact
from policies.routing.carriers import Belief, FrequencyTable, Leg, LegRecord, beliefs_of, late_risks
from policies.routing.exact import ExactRouter
from policies.routing.instance import Instance
from policies.routing.problem import CarrierBeliefs, RoutingProblem
from policies.routing.questions import differences, what_if
from policies.routing.router import CheapestNodeRouter
from policies.routing.solution import Assignment, Solution, solution
from policies.routing.terms import terms_of
from policies.routing.weights import RoutingWeights
from tests.policies.test_router import a_node, a_problem, a_service, demands, routed, stocks

ROUTER = ExactRouter()
DAY = date(2026, 3, 2)


def seen(
    parcels: int, late: int = 0, days_late: int | None = None, node: str = "n1", service: str = "standard"
) -> LegRecord:
    return LegRecord(
        node=node,
        carrier="post",
        service=service,
        parcels=parcels,
        late=late,
        days_late=late if days_late is None else days_late,
        handed_over=parcels,
        transit_days=2.0 * parcels,
    )


def believed(records: Sequence[LegRecord], node: str = "n1", service: str = "standard") -> Belief:
    found = FrequencyTable(records).belief(Leg(node, "post", service), "GB", 500, DAY)
    assert found is not None
    return found


def with_carriers(problem: RoutingProblem, *records: LegRecord) -> RoutingProblem:
    return problem.model_copy(update={"carriers": beliefs_of(FrequencyTable(records), problem)})


# --- the table ---
def test_a_leg_is_late_as_often_as_it_was_shrunk_to_its_service_and_that_to_all() -> None:
    records = (seen(100, 10, 30), seen(60, 30, 30, node="n2"), seen(240, 0, service="express"))
    every = 40 / 400
    of_service = (40 + 20 * every) / (160 + 20)
    own = believed(records)
    assert own.late == pytest.approx((10 + 20 * of_service) / (100 + 20))
    days_of_service = (60 + 5 * 60 / 40) / (40 + 5)
    assert own.days_late == pytest.approx((30 + 5 * days_of_service) / (10 + 5))
    assert own.transit_days == pytest.approx(2.0)
    assert own.parcels == 100


def test_a_new_node_is_expected_to_do_as_its_service_and_a_new_service_as_all_do() -> None:
    records = (seen(100, 10, 30), seen(300, 0, service="express"))
    every = 10 / 400
    new_node = believed(records, node="n9")
    assert new_node.parcels == 0
    assert new_node.late == pytest.approx((10 + 20 * every) / 120)
    new_service = believed(records, service="drone")
    assert new_service.parcels == 0
    assert new_service.late == pytest.approx(every)
    assert new_service.days_late == pytest.approx(3.0)


def test_nothing_is_said_before_enough_was_seen() -> None:
    few = FrequencyTable((seen(99, 50),))
    assert few.belief(Leg("n1", "post", "standard"), "GB", 500, DAY) is None
    assert FrequencyTable(()).belief(Leg("n1", "post", "standard"), "GB", 500, DAY) is None
    assert believed((seen(99, 50), seen(1, node="n2"))).late > 0.4


def test_who_was_never_late_is_not_expected_to_be_and_who_always_was_is() -> None:
    never, always = believed((seen(100),)), believed((seen(100, 100, 200),))
    assert (never.late, never.days_late) == (0.0, 0.0)
    assert always.late == 1.0
    assert always.days_late == pytest.approx(2.0)


def test_a_carrier_that_says_nothing_of_hand_over_has_no_days_in_transit() -> None:
    untold = seen(100, 5).model_copy(update={"handed_over": 0, "transit_days": 0.0})
    assert believed((untold,)).transit_days is None
    problem = with_carriers(a_problem({"a": 1}, {("n1", "a"): 1}), untold)
    assert problem.carriers is not None
    assert problem.carriers.legs[0].transit_day_thousandths is None


legs = st.tuples(st.sampled_from(("n1", "n2")), st.sampled_from(("standard", "express")))
histories = st.lists(
    st.tuples(legs, st.integers(1, 500), st.integers(0, 500), st.integers(1, 5)), min_size=1, max_size=6
)


@given(histories)
def test_what_is_expected_lies_between_what_was_seen(
    history: list[tuple[tuple[str, str], int, int, int]],
) -> None:
    records = [
        seen(parcels, min(late, parcels), days * min(late, parcels), *leg)
        for leg, parcels, late, days in history
    ]
    table = FrequencyTable(records)
    for leg in (Leg("n1", "post", "standard"), Leg("n2", "post", "express"), Leg("n9", "post", "drone")):
        found = table.belief(leg, "GB", 500, DAY)
        assert (found is None) == (sum(one.parcels for one in records) < 100)
        if found is not None:
            shares = [one.late / one.parcels for one in records]
            assert min(shares) - 1e-9 <= found.late <= max(shares) + 1e-9
            assert 0 <= found.days_late <= 5 + 1e-9


# --- plans ---
CHEAP_AND_LATE = (a_service("standard", 300), a_service("express", 330))
HISTORY = (seen(1_000, 200, 400), seen(1_000, 10, 10, service="express"))


def an_order() -> RoutingProblem:
    return a_problem({"a": 1}, {("n1", "a"): 1}, services=CHEAP_AND_LATE)


def test_a_carrier_that_is_often_late_has_to_be_cheaper_by_what_that_weighs() -> None:
    assert routed(ROUTER, an_order()).shipments[0].service == "standard"
    plan = routed(ROUTER, with_carriers(an_order(), *HISTORY))
    assert plan.shipments[0].service == "express"
    # One in a hundred is late, by 1.1 days (a little more than was seen, as is common) that weigh 5.00 each.
    assert plan.late_risk is not None
    assert plan.late_risk.minor == 6
    terms = {term.term: term.amount.minor for term in terms_of(plan)}
    assert terms["risk of being late"] == 6
    assert plan.proof is not None
    assert plan.proof.objective_minor == plan.cost.minor + 6 == sum(terms.values())
    assert plan.proof.proven
    assert len(plan.reasons) == 1


def test_the_risk_weighs_what_a_late_day_does() -> None:
    problem = with_carriers(an_order(), *HISTORY)
    indifferent = what_if(problem, RouteQuestion(late_day_minor=0))
    assert isinstance(indifferent, Plan)
    assert (indifferent.shipments[0].service, indifferent.late_risk) == ("standard", None)
    by_policy = problem.model_copy(update={"weights": RoutingWeights(late_day_minor=50)})
    plan = routed(ROUTER, by_policy)
    assert plan.shipments[0].service == "standard"
    risk = late_risks(problem, 50)[Leg("n1", "post", "standard")]
    assert plan.late_risk is not None
    assert plan.late_risk.minor == risk == 20


def test_each_parcel_has_its_own_risk() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 1, ("n2", "a"): 1})
    records = (seen(500, 100, 100), seen(500, 50, 50, node="n2"))
    plan = routed(ROUTER, with_carriers(problem, *records))
    risks = late_risks(with_carriers(problem, *records), 500)
    assert plan.late_risk is not None
    assert plan.late_risk.minor == sum(risks.values())


def test_before_enough_was_seen_explicit_rules_hold_and_the_plan_says_so() -> None:
    without = routed(ROUTER, an_order())
    plan = routed(ROUTER, with_carriers(an_order(), seen(60, 60, 600), seen(39, service="express")))
    assert plan == without.model_copy(
        update={
            "reasons": (
                *without.reasons,
                "carriers are taken at their word until 100 parcels were delivered (99 so far)",
            )
        }
    )


def test_a_leg_of_which_little_was_seen_is_named() -> None:
    services = (a_service("standard"), a_service("express", 900))
    problem = a_problem({"a": 1}, {("n1", "a"): 1}, services=services)
    for parcels, said in ((19, "19 parcels"), (1, "1 parcel"), (20, None)):
        plan = routed(ROUTER, with_carriers(problem, seen(parcels), seen(200, service="express")))
        notes = plan.reasons[1:]
        assert len(notes) == (0 if said is None else 1)
        if said is not None:
            assert notes[0] == (
                f"n1 by post/standard: {said} delivered so far, so expected to be late mostly as others are"
            )


def test_only_legs_that_may_serve_the_order_are_kept_with_it() -> None:
    problem = a_problem(
        {"a": 1},
        {("n1", "a"): 1, ("n2", "a"): 0, ("n3", "a"): 1},
        nodes=(a_node("n1"), a_node("n2"), a_node("n3", active=False)),
        services=(*CHEAP_AND_LATE, a_service("closed").model_copy(update={"active": False})),
    )
    carriers = with_carriers(problem, *HISTORY).carriers
    assert carriers is not None
    assert [(one.node, one.service) for one in carriers.legs] == [("n1", "standard"), ("n1", "express")]


@given(demands, stocks, histories)
def test_a_stored_plan_is_made_again_by_what_was_expected_then(
    demand: dict[str, int],
    stock: dict[tuple[str, str], int],
    history: list[tuple[tuple[str, str], int, int, int]],
) -> None:
    records = [
        seen(parcels, min(late, parcels), days * min(late, parcels), *leg)
        for leg, parcels, late, days in history
    ]
    problem = with_carriers(a_problem(demand, stock, services=CHEAP_AND_LATE), *records)
    plan = ROUTER.route(problem)
    if isinstance(plan, Plan):
        stored = RoutingProblem.model_validate_json(problem.model_dump_json())
        assert differences(Plan.model_validate_json(plan.model_dump_json()), stored) == []
        if plan.late_risk is not None:
            told = plan.model_copy(update={"late_risk": None})
            assert [line.split(":")[0] for line in differences(told, stored)] == ["risk of being late"]


def test_the_simple_rule_is_not_taken_for_better_where_it_is_cheaper_but_riskier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_a_hurry(instance: Instance, **_: object) -> Solution:
        express = next(at for at, one in enumerate(instance.options) if one.service == "post/express")
        found = [Assignment(line, express, one.quantity) for line, one in enumerate(instance.lines)]
        return solution(instance, found, "hurry", lower_bound_mills=0, fallback=True)

    monkeypatch.setattr(exact, "solve", in_a_hurry)
    cheaper = routed(CheapestNodeRouter(), an_order())
    assert cheaper.cost < routed(ROUTER, with_carriers(an_order(), *HISTORY)).cost
    plan = routed(ROUTER, with_carriers(an_order(), *HISTORY))
    assert (plan.shipments[0].service, plan.proof and plan.proof.method) == ("express", "hurry")
    # Where the rule's is better all the same, it says what it risks.
    reliable = with_carriers(an_order(), seen(1_000, 10, 10), seen(1_000, 200, 400, service="express"))
    plan = routed(ROUTER, reliable)
    assert plan.shipments[0].service == "standard"
    assert plan.late_risk is not None
    assert plan.proof is not None
    assert plan.proof.objective_minor == plan.cost.minor + plan.late_risk.minor


def test_a_problem_without_carriers_weighs_no_risk() -> None:
    assert not late_risks(an_order(), 500)
    none = CarrierBeliefs(model="frequency/1", parcels=0, needed=100)
    assert not late_risks(an_order().model_copy(update={"carriers": none}), 500)
