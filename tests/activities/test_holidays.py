"""The public holidays that an order's problem is given: what they come from, and that a plan keeps its own."""

import subprocess
import sys
import threading
from datetime import UTC, date, datetime

import pytest

from activities import holidays
from activities.holidays import has_holidays, holidays_for
from activities.routing import RoutingActivities
from activities.store.network import StockLevel, load_network, seed_stock
from activities.store.plans import decision
from activities.store.store import Store
from models.effects import RouteOrder
from models.network import Calendar, Network, Weekday
from policies.routing.exact import ExactRouter
from policies.routing.questions import differences
from tests.activities.running import run
from tests.builders import a_draft, a_network, accepted, skus_of
from workers.settings import REPOSITORY

WEEK = (Weekday.MON, Weekday.TUE, Weekday.WED, Weekday.THU, Weekday.FRI)
BEFORE_EASTER = datetime(2026, 4, 2, 9, tzinfo=UTC)


def with_calendars(**regions: str | None) -> Network:
    """A node for each, with the holidays of its region; the service stops on holidays where parcels go."""
    plain = a_network(*regions)
    return plain.model_copy(
        update={
            "nodes": tuple(
                node.model_copy(
                    update={"calendar": Calendar(working_days=WEEK, holidays=regions[node.node_id])}
                )
                for node in plain.nodes
            ),
            "services": tuple(
                one.model_copy(update={"delivery_days": WEEK, "holiday_delivery": False})
                for one in plain.services
            ),
        }
    )


@pytest.mark.parametrize(
    ("region", "known"),
    [
        ("GB", True),
        ("GB-SCT", True),
        ("DE-NW", True),
        ("DE-ZZ", False),
        ("gb", False),
        ("GBR", False),
        ("DE-", False),
        ("XX", False),
        ("", False),
    ],
)
def test_holidays_are_known_by_country_and_part_of_it(region: str, known: bool) -> None:
    assert has_holidays(region) is known


def test_a_problem_is_given_the_holidays_that_matter_to_it_and_no_others() -> None:
    network = with_calendars(north="GB-SCT", south="GB-ENG", east=None)
    given = {one.region: one for one in holidays_for(network, "IE", BEFORE_EASTER)}
    assert sorted(given) == ["GB-ENG", "GB-SCT", "IE"]
    assert given["GB-ENG"].days[date(2026, 4, 6)] == "Easter Monday"
    assert date(2026, 4, 6) not in given["GB-SCT"].days
    assert date(2027, 1, 4) in given["GB-SCT"].days  # the turn of the year does not end them
    assert min(given["GB-ENG"].days) >= date(2026, 4, 1)
    assert max(given["GB-ENG"].days) <= given["GB-ENG"].until == date(2027, 5, 7)


def test_what_nobody_counts_is_not_given() -> None:
    assert holidays_for(a_network(), "GB", BEFORE_EASTER) == ()
    idle = with_calendars(north="GB-SCT")
    idle = idle.model_copy(
        update={
            "nodes": tuple(node.model_copy(update={"active": False}) for node in idle.nodes),
            "services": tuple(one.model_copy(update={"active": False}) for one in idle.services),
        }
    )
    assert holidays_for(idle, "GB", BEFORE_EASTER) == ()
    assert [one.region for one in holidays_for(with_calendars(north=None), "ZZ", BEFORE_EASTER)] == []


async def test_the_event_loop_does_not_wait_for_the_library(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = a_draft(quantity=1)
    order_id = await accepted(store, draft)
    async with store.transaction() as session:
        await load_network(session, with_calendars(north="GB-ENG"))
        await seed_stock(session, [StockLevel(node="north", sku=skus_of(draft)[0], on_hand=5)])
    asked_by: list[threading.Thread] = []

    def none_known(_region: str, _year: int) -> tuple[()]:
        asked_by.append(threading.current_thread())
        return ()

    monkeypatch.setattr(holidays, "_of_year", none_known)
    routing = RoutingActivities(store, ExactRouter())
    asked = RouteOrder(order_id=order_id, attempt=1, business_now=BEFORE_EASTER)
    assert (await run(routing.route_order, asked)).plan
    assert asked_by
    assert threading.main_thread() not in asked_by


def test_once_warmed_up_the_library_is_there() -> None:
    program = (
        "import sys; from activities.store import problems; before = 'holidays' in sys.modules\n"
        "problems.warm_up(); print(before, 'holidays.countries.united_kingdom' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["False", "True"]


async def test_a_plan_is_made_by_holidays_and_again_by_those_that_were_known_then(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = a_draft(quantity=1)
    order_id = await accepted(store, draft)
    (sku,) = skus_of(draft)
    async with store.transaction() as session:
        await load_network(session, with_calendars(north="GB-ENG"))
        await seed_stock(session, [StockLevel(node="north", sku=sku, on_hand=5)])
    routing = RoutingActivities(store, ExactRouter())
    asked = RouteOrder(order_id=order_id, attempt=1, business_now=BEFORE_EASTER)
    answer = await run(routing.route_order, asked)
    assert answer.plan is not None, answer.unfillable
    # Thursday; Good Friday and Easter Monday are no days to prepare on, nor to deliver.
    assert answer.plan.promised_at == datetime(2026, 4, 9, 22, 59, 59, tzinfo=UTC)
    # A library that knows better now changes nothing of what was decided.
    monkeypatch.setattr(holidays, "_of_year", lambda _region, _year: ())
    async with store.transaction() as session:
        made = await decision(session, order_id)
    assert made.problem is not None
    pinned = made.problem.holidays_of("GB-ENG")
    assert pinned is not None
    assert pinned.days[date(2026, 4, 6)] == "Easter Monday"
    assert differences(made.plan, made.problem) == []
