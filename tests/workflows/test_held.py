"""A parcel that would come before it is wanted is not picked before its day."""

from datetime import timedelta

import pytest

from models import effects as e
from models.messages import CancelOrder
from models.states import OrderState
from tests.workflows.engine import Case, eventually
from tests.workflows.scripted import some_plan
from tests.workflows.test_renewal import renew
from workflows.order import OrderWorkflow

HELD = timedelta(days=5)


def held(case: Case) -> None:
    """Of two parcels the first is held."""

    def answer(request: e.RouteOrder) -> e.RouteAnswer:
        plan = some_plan(shipments=2)
        first, *others = plan.shipments
        first = first.model_copy(update={"held_until": request.business_now + HELD})
        return e.RouteAnswer(plan=plan.model_copy(update={"shipments": (first, *others)}))

    case.script.answers["route_order"] = answer


def picks(case: Case) -> list[int]:
    return [request.number for request in case.script.requests("request_pick", case.order_id)]


async def is_held(case: Case) -> None:
    async def said() -> bool:
        return "shipment.held" in case.kinds()

    await eventually(said, "the shipment to be held")


@pytest.mark.fingerprint
async def test_a_parcel_that_is_wanted_later_is_picked_on_its_day_and_others_at_once(case: Case) -> None:
    held(case)
    await case.start()
    await case.delivered(2)
    await is_held(case)
    await renew(case.shipment(1))
    await case.skip(HELD - timedelta(hours=3), number=1)
    assert picks(case) == [2]
    await case.skip(timedelta(hours=4), number=1)

    async def asked_for() -> bool:
        return picks(case) == [2, 1]

    await eventually(asked_for, "the pick")
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert case.kinds().count("shipment.held") == 1


async def test_one_that_is_called_off_while_it_is_held_gives_its_units_back(case: Case) -> None:
    held(case)
    await case.start()
    await is_held(case)
    await case.until_shipment("pick_requested", 2)
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="enough")
    )
    assert (await case.order.result()).state in (OrderState.CANCELLED, OrderState.COMPENSATED)
    freed = case.script.requests("release_reservation", case.order_id)
    assert {request.shipment_id for request in freed} >= {f"{case.order_id}:1", f"{case.order_id}:2"}
    assert picks(case) == [2]
