"""When an order is handed over and arrives, by the days on which nodes work and carriers move."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.network import Calendar, CarrierService, Closure, Node, Weekday
from models.plan import Plan, Unfillable
from policies.routing.exact import ExactRouter
from policies.routing.offers import offer_of
from policies.routing.problem import PublicHolidays, RoutingProblem
from policies.routing.questions import differences
from policies.routing.router import CheapestNodeRouter, Router
from policies.routing.weights import RoutingWeights
from tests.policies.test_router import a_node, a_problem, a_service, demands, routed, stocks

WEEK = (Weekday.MON, Weekday.TUE, Weekday.WED, Weekday.THU, Weekday.FRI)
EVERY_DAY = tuple(Weekday)
OFFICE = Calendar(working_days=WEEK, cut_off="14:00")
BERLIN = ZoneInfo("Europe/Berlin")


def a_place(calendar: Calendar | None = OFFICE, zone: str = "Europe/Berlin") -> Node:
    return a_node("n1").model_copy(update={"calendar": calendar, "time_zone": zone})


def a_carrier(days: int = 1, **changes: object) -> CarrierService:
    return a_service(days=days).model_copy(update=changes)


def an_order(
    at: datetime,
    node: Node | None = None,
    service: CarrierService | None = None,
    processing_days: int = 1,
    holidays: tuple[PublicHolidays, ...] = (),
) -> RoutingProblem:
    """One unit, asked for at ``at``; it goes to Great Britain."""
    return a_problem(
        {"a": 1},
        {("n1", "a"): 1},
        business_now=at,
        nodes=(node or a_place(),),
        services=(service or a_carrier(),),
        processing_days=processing_days,
        holidays=holidays,
    )


def promised(problem: RoutingProblem) -> datetime:
    """In the node's own time."""
    plan = routed(CheapestNodeRouter(), problem)
    assert routed(ExactRouter(), problem).promised_at == plan.promised_at
    return plan.promised_at.astimezone(ZoneInfo(problem.nodes[0].time_zone))


def promised_on(problem: RoutingProblem) -> date:
    moment = promised(problem)
    assert (moment.hour, moment.minute, moment.second) == (23, 59, 59)
    return moment.date()


def holidays_of(region: str, *days: date, until: date = date(2027, 12, 31)) -> PublicHolidays:
    return PublicHolidays(region=region, until=until, days=dict.fromkeys(days, "Holiday"))


# --- who says nothing of days ---
moments = st.integers(0, 15 * 366 * 24 * 60).map(
    lambda minutes: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


@given(moments, st.integers(0, 30), st.integers(0, 60), st.sampled_from(("Europe/London", "nowhere")))
def test_without_calendar_and_days_every_day_counts_as_before(
    at: datetime, processing: int, transit: int, zone: str
) -> None:
    problem = an_order(at, a_place(None, zone), a_carrier(transit), processing)
    offer = offer_of(problem, problem.nodes[0], problem.services[0])
    assert offer is not None
    # What version 1 of the router did, word for word.
    due = at + timedelta(days=processing + transit)
    assert offer.promised_at == due.replace(hour=23, minute=59, second=59, microsecond=0)


@given(demands, stocks, moments)
def test_a_problem_that_was_stored_before_there_were_calendars_gives_the_same_plan(
    demand: dict[str, int], stock: dict[tuple[str, str], int], at: datetime
) -> None:
    # Time enough on any machine: what is proven in time on one would not be on another.
    weights = RoutingWeights(budget_seconds=60)
    services = (a_service(), a_service("slow", 200, 5))
    problem = a_problem(demand, stock, business_now=at, services=services, weights=weights)
    stored = problem.model_dump(mode="json", exclude={"holidays"})
    for node in stored["nodes"]:
        del node["calendar"]
    for service in stored["services"]:
        del service["pickup_days"], service["delivery_days"], service["holiday_delivery"]
    read = RoutingProblem.model_validate(stored)
    for router in (CheapestNodeRouter(), ExactRouter()):
        answer = router.route(problem)
        if isinstance(answer, Unfillable):
            assert router.route(read) == answer
        else:
            assert len(answer.reasons) == 1
            assert differences(answer, read) == []
            assert {one.promised_at.date() for one in answer.shipments} <= {
                (at + timedelta(days=1 + days)).date() for days in (2, 5)
            }


@given(moments, st.integers(0, 30), st.integers(0, 60))
def test_who_works_every_day_round_the_clock_promises_what_one_without_calendar_does(
    at: datetime, processing: int, transit: int
) -> None:
    always = Calendar(working_days=EVERY_DAY)
    plain = an_order(at, a_place(None, "UTC"), a_carrier(transit), processing)
    with_days = an_order(at, a_place(always, "UTC"), a_carrier(transit, delivery_days=EVERY_DAY), processing)
    assert promised(plain) == promised(with_days)


# --- cut-off ---
@pytest.mark.parametrize(
    ("clock", "due"),
    [
        ((13, 59, 59, 999_999), date(2026, 3, 5)),
        ((14, 0, 0, 0), date(2026, 3, 5)),
        ((14, 0, 0, 1), date(2026, 3, 6)),
        ((23, 59, 59, 0), date(2026, 3, 6)),
        ((0, 0, 0, 0), date(2026, 3, 5)),
    ],
)
def test_the_cut_off_is_the_last_moment_at_which_an_order_is_still_prepared_today(
    clock: tuple[int, int, int, int], due: date
) -> None:
    tuesday = datetime(2026, 3, 3, *clock, tzinfo=BERLIN).astimezone(UTC)
    assert promised_on(an_order(tuesday)) == due


def test_what_comes_after_the_cut_off_says_so() -> None:
    late = datetime(2026, 3, 3, 15, tzinfo=BERLIN)
    (_, note) = routed(ExactRouter(), an_order(late)).reasons
    assert note == "n1: after its cut-off, 14:00 in Europe/Berlin; prepared from 2026-03-04"


@pytest.mark.parametrize(
    ("at", "due"),
    [
        # The clock goes forward in the night to Sunday, 29 March 2026: 14:00 is 13:00 UTC on Friday, 12:00 on Monday.
        (datetime(2026, 3, 27, 13, 0, tzinfo=UTC), date(2026, 3, 31)),
        (datetime(2026, 3, 27, 13, 1, tzinfo=UTC), date(2026, 4, 1)),
        (datetime(2026, 3, 30, 12, 0, tzinfo=UTC), date(2026, 4, 1)),
        (datetime(2026, 3, 30, 12, 1, tzinfo=UTC), date(2026, 4, 2)),
        # And back in the night to Sunday, 25 October 2026.
        (datetime(2026, 10, 23, 12, 0, tzinfo=UTC), date(2026, 10, 27)),
        (datetime(2026, 10, 23, 12, 1, tzinfo=UTC), date(2026, 10, 28)),
        (datetime(2026, 10, 26, 13, 0, tzinfo=UTC), date(2026, 10, 28)),
        (datetime(2026, 10, 26, 13, 1, tzinfo=UTC), date(2026, 10, 29)),
    ],
)
def test_the_cut_off_is_by_the_clock_on_the_wall_before_and_after_it_is_changed(
    at: datetime, due: date
) -> None:
    office_days = a_carrier(delivery_days=WEEK)
    assert promised_on(an_order(at, service=office_days)) == due


def test_the_promise_ends_with_the_day_where_the_node_is_on_both_sides_of_a_change_of_clocks() -> None:
    always = a_place(Calendar(working_days=EVERY_DAY))
    friday = datetime(2026, 3, 27, 9, tzinfo=UTC)
    saturday = promised(an_order(friday, always, a_carrier(0))).astimezone(UTC)
    sunday = promised(an_order(friday, always, a_carrier(1))).astimezone(UTC)
    assert (saturday, sunday) == (
        datetime(2026, 3, 28, 22, 59, 59, tzinfo=UTC),
        datetime(2026, 3, 29, 21, 59, 59, tzinfo=UTC),
    )


def test_a_cut_off_in_the_hour_that_comes_twice_does_not_come_back() -> None:
    # 02:30 is at 00:30 UTC; at 01:15 UTC the clock shows 02:15 again, but that cut-off is past.
    night = a_place(Calendar(working_days=EVERY_DAY, cut_off="02:30"))
    for minutes, due in ((30, date(2026, 10, 27)), (31, date(2026, 10, 28)), (75, date(2026, 10, 28))):
        at = datetime(2026, 10, 25, tzinfo=UTC) + timedelta(minutes=minutes)
        assert promised_on(an_order(at, night)) == due


def test_a_cut_off_in_the_hour_that_does_not_come_is_an_hour_later() -> None:
    night = a_place(Calendar(working_days=EVERY_DAY, cut_off="02:30"))
    for minutes, due in ((90, date(2026, 3, 31)), (91, date(2026, 4, 1))):
        at = datetime(2026, 3, 29, tzinfo=UTC) + timedelta(minutes=minutes)
        assert promised_on(an_order(at, night)) == due


def test_a_day_that_ends_in_the_hour_that_comes_twice_ends_with_the_second() -> None:
    # In Cairo the clock goes back from midnight to 23:00 on 29 October 2026.
    cairo = a_place(Calendar(working_days=EVERY_DAY), "Africa/Cairo")
    at = datetime(2026, 10, 28, 9, tzinfo=UTC)
    assert promised(an_order(at, cairo, a_carrier(0))).astimezone(UTC) == datetime(
        2026, 10, 29, 21, 59, 59, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("zone", "due"),
    [
        # Monday, 10 pm UTC: still Monday afternoon in Los Angeles, Tuesday morning in Auckland.
        ("America/Los_Angeles", date(2026, 3, 4)),
        ("Pacific/Auckland", date(2026, 3, 5)),
        ("UTC", date(2026, 3, 5)),
    ],
)
def test_cut_off_and_day_are_those_of_the_node(zone: str, due: date) -> None:
    cut_off = Calendar(working_days=WEEK, cut_off="16:00")
    at = datetime(2026, 3, 2, 22, tzinfo=UTC)
    assert promised_on(an_order(at, a_place(cut_off, zone))) == due


# --- working days ---
def test_days_of_preparation_are_working_days() -> None:
    thursday = datetime(2026, 3, 5, 9, tzinfo=UTC)
    assert promised_on(an_order(thursday, processing_days=2)) == date(2026, 3, 10)  # handed over on Monday
    assert promised_on(an_order(thursday, processing_days=0)) == date(2026, 3, 6)


def test_an_order_of_a_closed_day_is_prepared_on_the_next_working_day_and_says_so() -> None:
    saturday = datetime(2026, 3, 7, 9, tzinfo=UTC)
    problem = an_order(saturday)
    assert promised_on(problem) == date(2026, 3, 11)
    (_, note) = routed(CheapestNodeRouter(), problem).reasons
    assert note == "n1: closed on 2026-03-07 (Saturday); prepared from 2026-03-09"


def test_a_week_in_which_a_node_is_closed_is_no_time_to_prepare() -> None:
    closed = Closure(first=date(2026, 3, 9), last=date(2026, 3, 13), reason="stock-taking")
    calendar = OFFICE.model_copy(update={"closures": (closed,)})
    friday = datetime(2026, 3, 6, 9, tzinfo=UTC)
    # Prepared on Friday already; the carrier comes when there is somebody again.
    assert promised_on(an_order(friday, a_place(calendar))) == date(2026, 3, 17)
    wednesday = datetime(2026, 3, 11, 9, tzinfo=UTC)
    problem = an_order(wednesday, a_place(calendar))
    assert promised_on(problem) == date(2026, 3, 18)
    assert routed(ExactRouter(), problem).reasons[1] == (
        "n1: closed on 2026-03-11 (stock-taking); prepared from 2026-03-16"
    )


def test_holidays_over_the_turn_of_the_year_are_no_working_days() -> None:
    calendar = OFFICE.model_copy(update={"holidays": "DE-NW"})
    days = (date(2026, 12, 25), date(2026, 12, 26), date(2027, 1, 1))
    new_years_eve = datetime(2026, 12, 31, 9, tzinfo=UTC)
    problem = an_order(new_years_eve, a_place(calendar), holidays=(holidays_of("DE-NW", *days),))
    assert promised_on(problem) == date(2027, 1, 5)  # handed over on Monday, the 4th
    of_christmas = an_order(
        datetime(2026, 12, 24, 20, tzinfo=UTC), a_place(calendar), holidays=problem.holidays
    )
    assert promised_on(of_christmas) == date(2026, 12, 30)


def test_a_holiday_of_elsewhere_is_a_working_day() -> None:
    calendar = OFFICE.model_copy(update={"holidays": "DE-NW"})
    at = datetime(2026, 3, 3, 9, tzinfo=UTC)
    elsewhere = (holidays_of("DE-NW"), holidays_of("DE-BY", date(2026, 3, 4)))
    assert promised_on(an_order(at, a_place(calendar), holidays=elsewhere)) == date(2026, 3, 5)


# --- what is not known ---
def test_after_an_expired_calendar_only_weekdays_count_and_the_plan_says_so() -> None:
    calendar = Calendar(working_days=WEEK, holidays="DE-NW", maintained_until=date(2026, 12, 24))
    known = (holidays_of("DE-NW", date(2026, 12, 24), date(2026, 12, 25)),)
    at = datetime(2026, 12, 23, 9, tzinfo=UTC)
    problem = an_order(at, a_place(calendar), holidays=known)
    # The 24th is a holiday still, the 25th a Friday like any other.
    assert promised_on(problem) == date(2026, 12, 26)
    for router in (CheapestNodeRouter(), ExactRouter()):
        assert routed(router, problem).reasons[1:] == (
            "the calendar of n1 is maintained until 2026-12-24: later days are counted by weekdays only",
        )
    earlier = an_order(at - timedelta(days=1), a_place(calendar), holidays=known, processing_days=0)
    assert len(routed(ExactRouter(), earlier).reasons) == 1


def test_holidays_that_are_not_known_are_named() -> None:
    calendar = OFFICE.model_copy(update={"holidays": "DE-NW"})
    at = datetime(2026, 3, 3, 9, tzinfo=UTC)
    plan = routed(ExactRouter(), an_order(at, a_place(calendar), a_carrier(holiday_delivery=False)))
    assert plan.reasons[1:] == (
        "the public holidays of DE-NW are not known: none was counted",
        "the public holidays of GB are not known: none was counted",
    )
    short = holidays_of("DE-NW", until=date(2026, 3, 3))
    plan = routed(ExactRouter(), an_order(at, a_place(calendar), holidays=(short,)))
    assert plan.reasons[1:] == (
        "the public holidays of DE-NW are known until 2026-03-03: none was counted after that",
    )


# --- carriers ---
def test_days_in_transit_are_days_on_which_the_carrier_delivers() -> None:
    thursday = datetime(2026, 3, 5, 9, tzinfo=UTC)
    assert promised_on(an_order(thursday, service=a_carrier(2))) == date(2026, 3, 8)
    assert promised_on(an_order(thursday, service=a_carrier(2, delivery_days=WEEK))) == date(2026, 3, 10)
    same_day = a_carrier(0, delivery_days=(Weekday.SUN,))
    assert promised_on(an_order(thursday, service=same_day)) == date(2026, 3, 8)


def test_a_parcel_waits_for_the_day_on_which_the_carrier_collects() -> None:
    monday = datetime(2026, 3, 2, 9, tzinfo=UTC)
    fridays = a_carrier(pickup_days=(Weekday.FRI,))
    assert promised_on(an_order(monday, service=fridays)) == date(2026, 3, 7)
    assert promised_on(an_order(monday, a_place(None), fridays)) == date(2026, 3, 7)


def test_holidays_where_the_parcel_goes_are_no_days_of_transit_unless_the_carrier_works_on_them() -> None:
    easter = (holidays_of("GB", date(2026, 4, 3), date(2026, 4, 6)),)
    wednesday = datetime(2026, 4, 1, 9, tzinfo=UTC)
    off = a_carrier(2, delivery_days=WEEK, holiday_delivery=False)
    on = a_carrier(2, delivery_days=WEEK)
    assert promised_on(an_order(wednesday, service=off, holidays=easter)) == date(2026, 4, 8)
    assert promised_on(an_order(wednesday, service=on, holidays=easter)) == date(2026, 4, 6)


def test_a_carrier_that_never_comes_while_somebody_is_there_takes_nothing() -> None:
    sundays = a_carrier(pickup_days=(Weekday.SUN,))
    answer = ExactRouter().route(an_order(datetime(2026, 3, 2, 9, tzinfo=UTC), service=sundays))
    assert isinstance(answer, Unfillable)
    closed = Closure(first=date(2026, 1, 1), last=date(2027, 12, 31), reason="given up")
    shut = a_place(OFFICE.model_copy(update={"closures": (closed,)}))
    answer = ExactRouter().route(an_order(datetime(2026, 3, 2, 9, tzinfo=UTC), shut))
    assert isinstance(answer, Unfillable)


routers = pytest.mark.parametrize(
    "router", (CheapestNodeRouter(), ExactRouter()), ids=lambda router: router.name
)


@routers
def test_the_earlier_promise_counts_where_nothing_is_in_time(router: Router) -> None:
    # One day less in transit, but only from Monday on.
    friday = datetime(2026, 3, 6, 9, tzinfo=UTC)
    services = (
        a_service("express", 300, 1).model_copy(update={"delivery_days": WEEK}),
        a_service("steady", 300, 2),
    )
    problem = an_order(friday, a_place(Calendar(working_days=EVERY_DAY)))
    problem = problem.model_copy(update={"services": services, "promise_by": friday, "processing_days": 0})
    assert [one.service for one in routed(router, problem).shipments] == ["steady"]


cut_offs = st.none() | st.sampled_from(("00:00", "02:30", "14:00", "23:59"))
days_of_the_week = st.lists(st.sampled_from(EVERY_DAY), min_size=1, unique=True).map(tuple)


@given(
    moments,
    st.builds(Calendar, working_days=days_of_the_week, cut_off=cut_offs),
    days_of_the_week,
    st.sampled_from(("Europe/Berlin", "Pacific/Auckland", "America/Los_Angeles", "Africa/Cairo")),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_an_hour_later_is_never_promised_earlier_and_always_by_days_that_count(
    at: datetime,
    calendar: Calendar,
    delivering: tuple[Weekday, ...],
    zone: str,
    needed: tuple[int, int],
) -> None:
    processing, transit = needed
    node = a_place(calendar, zone)
    service = a_carrier(transit, delivery_days=delivering)
    problem = an_order(at, node, service, processing)
    day = promised_on(problem)
    assert EVERY_DAY[day.weekday()] in delivering
    assert (day - at.astimezone(ZoneInfo(zone)).date()).days >= processing + transit
    later = problem.model_copy(update={"business_now": at + timedelta(hours=1)})
    assert promised_on(later) >= day
    plan = ExactRouter().route(problem)
    assert isinstance(plan, Plan)
    stored = RoutingProblem.model_validate_json(problem.model_dump_json())
    assert differences(Plan.model_validate_json(plan.model_dump_json()), stored) == []
