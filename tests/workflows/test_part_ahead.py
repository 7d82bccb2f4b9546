"""An order of which a part goes ahead and the rest waits for its goods."""

from datetime import UTC, datetime, timedelta

import pytest

from models import effects as e
from models.memory import OrderMemory
from models.messages import CancelOrder
from models.review import Verdict
from models.states import OrderState
from tests.workflows.engine import Case, eventually
from tests.workflows.scripted import pounds, some_plan
from tests.workflows.test_amend import asked
from tests.workflows.test_order import decision
from tests.workflows.test_renewal import renew
from workflows.order import OrderWorkflow


async def ahead(case: Case) -> None:
    """Shipment 1 takes 30.00 of the order's 50.00 with it; two units are short."""
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(unfillable=("two units short",))
        if r.kept
        else e.RouteAnswer(plan=some_plan(total=3_000).model_copy(update={"left_out": 2}))
    )
    await case.start()
    await case.until_shipment("pick_requested")
    await case.until(OrderState.BACKORDERED)


def goods_come(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(first=r.first_number, total=r.outstanding.minor)
    )


async def arrived(case: Case) -> None:
    await case.order.signal("stock_arrived", {"event_id": "s1", "actor": "warehouse", "reason": "a receipt"})


def a_day_later(memory: OrderMemory) -> None:
    memory.deadlines["backorder"] -= timedelta(days=1, minutes=1)


def days_later(memory: OrderMemory) -> None:
    a_day_later(memory)
    memory.fruitless_plans = 2


@pytest.mark.fingerprint
async def test_a_part_goes_ahead_and_the_rest_follows_when_its_goods_are_there(case: Case) -> None:
    await ahead(case)
    await case.delivered(1)
    await case.until(OrderState.BACKORDERED)
    goods_come(case)
    await arrived(case)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    route = asked(case, "route_order")[-1]
    assert [(kept.plan_id, kept.number) for kept in route.kept] == [("plan-1", 1)]
    assert (route.first_number, route.outstanding) == (2, pounds(2_000))
    # One hold pays for both, and each parcel takes its own part of it.
    assert [a.amount for a in asked(case, "authorise_payment")] == [pounds(5_000)]
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(3_000), pounds(2_000)]
    assert not asked(case, "release_reservation") and not asked(case, "void_authorisation")
    confirmed = [r.facts for r in asked(case, "notify") if r.template == "order_confirmed"]
    assert [facts.get("follows") for facts in confirmed][:1] == ["2"]
    assert case.told().count("shipped") == 2


async def test_a_rest_that_never_comes_is_given_up_the_part_is_kept_and_the_customer_told(
    case: Case,
) -> None:
    await ahead(case)
    await case.in_other_times(days_later)
    task = await case.review()
    assert task.kind == "backorder"
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    await case.until(OrderState.RELEASED)
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(3_000)]
    (told,) = [r.facts for r in asked(case, "notify") if r.template == "shipment_cancelled"]
    assert told == {"shipment": "rest", "reason": "the goods could not be supplied"}


async def test_calling_off_while_the_rest_waits_calls_off_both(case: Case) -> None:
    await ahead(case)
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="enough")
    )
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert not asked(case, "capture_payment")
    assert case.told()[-1] == "order_cancelled" and "shipment_cancelled" not in case.told()


async def test_a_run_that_continues_as_new_while_the_rest_waits_goes_on_waiting(case: Case) -> None:
    await ahead(case)
    await renew(case.order)
    await case.until(OrderState.BACKORDERED)
    goods_come(case)
    await case.in_other_times(a_day_later)
    await case.delivered(2)
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(2_000), pounds(3_000)]


async def test_a_hold_that_runs_out_while_the_rest_waits_is_made_anew_for_the_part(case: Case) -> None:
    usual = case.script.answers["authorise_payment"]
    soon = datetime.now(UTC) + timedelta(hours=12, seconds=12)
    case.script.answers["authorise_payment"] = lambda r: (
        usual(r).model_copy(update={"expires_at": soon}) if r.key.endswith(":1") else usual(r)
    )
    await ahead(case)

    async def renewed() -> bool:
        return len(asked(case, "authorise_payment")) == 2 and "payment.renewed" in case.kinds()

    await eventually(renewed, "the hold to be made anew")
    assert asked(case, "authorise_payment")[-1].amount == pounds(3_000)
    await case.delivered(1)
    goods_come(case)
    await arrived(case)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [a.amount for a in asked(case, "authorise_payment")] == [
        pounds(5_000),
        pounds(3_000),
        pounds(2_000),
    ]
    assert [c.authorisation_id for c in asked(case, "capture_payment")] == ["auth-2", "auth-3"]
