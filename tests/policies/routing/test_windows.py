"""Nothing comes before it is wanted: it is begun later, on the first day that is late enough."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.network import Calendar, CarrierService, Node, Weekday
from models.plan import Plan
from policies.routing.exact import ExactRouter
from policies.routing.offers import offer_of
from policies.routing.problem import RoutingProblem
from policies.routing.promising import why_not
from policies.routing.questions import differences
from policies.routing.router import CheapestNodeRouter
from tests.policies.routing.test_calendars import OFFICE, a_carrier, a_place, an_order
from tests.policies.test_router import NOW, a_problem, a_service, demands, routed, stocks

ROUTERS = (ExactRouter(), CheapestNodeRouter())
# A Monday.
MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)
WORKDAYS = a_carrier(delivery_days=(Weekday.MON, Weekday.TUE, Weekday.WED, Weekday.THU, Weekday.FRI))


def wanted(problem: RoutingProblem, since: datetime, by: datetime | None = None) -> RoutingProblem:
    return problem.model_copy(update={"deliver_from": since, "promise_by": by})


def test_what_would_come_too_early_is_held_until_it_comes_on_the_first_day_that_it_is_wanted() -> None:
    problem = wanted(
        a_problem({"a": 1}, {("n1", "a"): 1}), NOW + timedelta(days=10), NOW + timedelta(days=12)
    )
    for router in ROUTERS:
        plan = routed(router, problem)
        (shipment,) = plan.shipments
        # Three days by itself.
        assert shipment.held_until == NOW + timedelta(days=7)
        assert shipment.promised_at.date() == (NOW + timedelta(days=10)).date()
        assert (
            f"n1 holds its parcel until {NOW + timedelta(days=7):%Y-%m-%d}: it is not wanted before "
            + (f"{NOW + timedelta(days=10):%Y-%m-%d}")
            in plan.reasons
        )
        assert differences(plan, problem) == []


def test_what_comes_late_enough_is_not_held() -> None:
    problem = a_problem({"a": 1}, {("n1", "a"): 1})
    at_once = routed(ExactRouter(), problem)
    for since in (NOW - timedelta(days=9), NOW, at_once.promised_at):
        plan = routed(ExactRouter(), wanted(problem, since))
        assert plan.shipments[0].held_until is None
        assert plan == at_once


def test_days_that_nobody_works_on_are_not_counted_while_it_is_held() -> None:
    # From Saturday the 14th on, and nothing is delivered at the weekend: Monday the 16th, picked on Thursday.
    problem = wanted(an_order(MONDAY, a_place(), WORKDAYS), datetime(2026, 3, 14, tzinfo=UTC))
    for router in ROUTERS:
        (shipment,) = routed(router, problem).shipments
        assert shipment.promised_at.date() == datetime(2026, 3, 16, tzinfo=UTC).date()
        assert shipment.held_until == datetime(2026, 3, 12, 9, tzinfo=UTC)


def test_a_window_without_a_day_of_delivery_is_late_and_never_early() -> None:
    weekend = (datetime(2026, 3, 14, tzinfo=UTC), datetime(2026, 3, 15, 23, tzinfo=UTC))
    problem = wanted(an_order(MONDAY, a_place(), WORKDAYS), *weekend)
    plan = routed(ExactRouter(), problem)
    assert plan.promised_at.date() == datetime(2026, 3, 16, tzinfo=UTC).date()
    assert plan.late is not None and plan.late.minor == 500
    assert "; late by what is asked for: 1" in plan.reasons[0]


def test_the_cheapest_way_will_do_where_it_is_held_anyway() -> None:
    services = (a_service(base=100, days=9), a_service("express", base=900, days=1))
    problem = a_problem({"a": 1}, {("n1", "a"): 1}, services=services)
    window = (NOW + timedelta(days=10), NOW + timedelta(days=11))
    for router in ROUTERS:
        assert routed(router, wanted(problem, *window)).shipments[0].service == "standard"
        early = wanted(problem, NOW + timedelta(days=4), NOW + timedelta(days=6))
        assert routed(router, early).shipments[0].service == "express"


@given(
    st.integers(0, 400 * 24 * 60).map(lambda minutes: MONDAY + timedelta(minutes=minutes)),
    st.integers(0, 180 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes)),
    st.sets(st.sampled_from(list(Weekday)), min_size=1),
    st.sampled_from((None, OFFICE, Calendar(working_days=(Weekday.SUN,)))),
)
def test_it_is_never_early_and_held_no_day_longer_than_need_be(
    at: datetime, ahead: timedelta, days: set[Weekday], calendar: Calendar | None
) -> None:
    node, service = a_place(calendar), a_carrier(delivery_days=tuple(sorted(days)))
    problem = wanted(an_order(at, node, service), at + ahead)
    offer = offer_of(problem, node, service)
    assert offer is not None and problem.deliver_from is not None
    assert offer.promised_at >= problem.deliver_from
    begun = offer.held_until or at
    assert offer.promised_at == _begun(problem, begun, node, service)
    if offer.held_until is not None:
        assert (begun - at) % timedelta(days=1) == timedelta(0)
        assert _begun(problem, begun - timedelta(days=1), node, service) < problem.deliver_from


def _begun(problem: RoutingProblem, at: datetime, node: Node, service: CarrierService) -> datetime:
    offer = offer_of(problem.model_copy(update={"business_now": at, "deliver_from": None}), node, service)
    assert offer is not None
    return offer.promised_at


@given(demands, stocks)
def test_a_problem_that_was_stored_before_there_were_windows_gives_the_same_plan(
    demand: dict[str, int], stock: dict[tuple[str, str], int]
) -> None:
    problem = a_problem(demand, stock)
    stored = problem.model_dump(mode="json")
    for name in ("deliver_from", "kept_parcels", "sequence_in_time"):
        del stored[name]
    for router in ROUTERS:
        plan = router.route(problem)
        assert router.route(RoutingProblem.model_validate(stored)) == plan
        if isinstance(plan, Plan):
            old = plan.model_dump(mode="json")
            for shipment in old["shipments"]:
                del shipment["held_until"]
            assert Plan.model_validate(old) == plan


@pytest.mark.parametrize(("asked", "kept"), [(None, True), (10, True), (11, False)])
def test_a_promise_is_kept_to_where_the_order_wants_no_other_day(asked: int | None, kept: bool) -> None:
    problem = wanted(a_problem({"a": 1}, {("n1", "a"): 1}), NOW + timedelta(days=10))
    plan = routed(ExactRouter(), problem)
    since = None if asked is None else NOW + timedelta(days=asked)
    order = problem.model_copy(update={"deliver_from": since})
    assert why_not(plan, problem, order) == (None if kept else "the order asks for another deliver_from")
