from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowUpdateFailedError

from models import effects as e
from models.memory import OrderMemory
from models.messages import CancelOrder, OfferAnswer, OfferTender
from models.review import Verdict
from models.states import OrderState
from tests.workflows.engine import Case, eventually, told_by
from tests.workflows.test_amend import asked, released
from tests.workflows.test_order import decision
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow


def declining(case: Case, *tenders: int, final: bool = False) -> None:
    """The provider declines these tenders, 0 being the document's."""
    usual = case.script.answers["authorise_payment"]
    case.script.answers["authorise_payment"] = lambda r: (
        e.Authorisation(
            approved=False, amount=r.amount, decline_code="insufficient_funds", decline_is_final=final
        )
        if r.tender in tenders
        else usual(r)
    )


def tender(number: int = 1) -> OfferTender:
    return OfferTender(request_id=f"t{number}", actor="customer", tender=number)


@pytest.mark.fingerprint
async def test_a_soft_decline_asks_the_customer_for_another_tender_and_goes_on_with_it(case: Case) -> None:
    declining(case, 0)
    await case.start()
    await case.until(OrderState.AWAITING_CUSTOMER)
    answer = await case.order.execute_update("offer_tender", tender(), result_type=OfferAnswer)
    assert answer.taken
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [(a.tender, a.key.rpartition(":")[2]) for a in asked(case, "authorise_payment")] == [
        (0, "1"),
        (1, "2"),
    ]
    assert case.told() == ["payment_declined", "order_confirmed", "shipped"]


async def test_a_tender_that_is_declined_too_is_asked_about_again(case: Case) -> None:
    declining(case, 0, 1)
    await case.start()
    await case.until(OrderState.AWAITING_CUSTOMER)
    await case.order.signal("offer_tender", tender().model_dump(mode="json"))

    async def again() -> bool:
        return case.told().count("payment_declined") == 2

    await eventually(again, "the customer to be asked again")
    await case.order.execute_update("offer_tender", tender(2), result_type=OfferAnswer)
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED


@pytest.mark.fingerprint
async def test_without_another_tender_the_order_is_rejected_after_a_reminder(case: Case) -> None:
    declining(case, 0)
    await case.start()
    await case.until(OrderState.AWAITING_CUSTOMER)
    await case.skip(timedelta(days=3, minutes=1))
    assert (await case.order.result()).state is OrderState.REJECTED
    assert case.told() == ["payment_declined", "payment_declined", "order_rejected"]


async def test_a_final_decline_asks_nobody(case: Case) -> None:
    declining(case, 0, final=True)
    await case.start()
    assert (await case.order.result()).state is OrderState.REJECTED
    assert case.told() == ["order_rejected"]


async def test_an_order_that_waits_for_the_customer_can_be_called_off(case: Case) -> None:
    declining(case, 0)
    await case.start()
    await case.until(OrderState.AWAITING_CUSTOMER)
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="enough")
    )
    assert (await case.order.result()).state is OrderState.CANCELLED


async def test_a_tender_that_nobody_waits_for_is_refused(case: Case) -> None:
    held = case.script.hold("route_order")
    await case.start()
    await case.script.reached["route_order"].wait()
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await case.order.execute_update("offer_tender", tender(), result_type=OfferAnswer)
    assert "does not wait for a payment" in str(refused.value.cause)
    await case.order.signal("offer_tender", tender().model_dump(mode="json"))
    await case.order.signal("offer_tender", {"tender": "x"})
    held.set()
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert {"payment.tender_refused", "signal.refused"} <= set(case.kinds())


async def test_a_run_that_continues_as_new_while_the_customer_is_asked_goes_on_waiting(case: Case) -> None:
    declining(case, 0)
    await case.start()
    await case.until(OrderState.AWAITING_CUSTOMER)
    first = (await case.order.describe()).run_id
    await case.order.signal(OrderWorkflow.renew)

    async def renewed() -> bool:
        return (await case.order.describe()).run_id != first

    await eventually(renewed, "the run to continue as new")
    await case.order.signal("offer_tender", tender().model_dump(mode="json"))
    await case.delivered()
    assert (await case.client.get_workflow_handle(case.workflow_id).result())["state"] == "closed"
    assert case.told().count("payment_declined") == 1


def running_out(memory: OrderMemory) -> None:
    """What is held lasts for six more hours."""
    assert memory.authorisation is not None
    soon = datetime.now(UTC) + timedelta(hours=6)
    memory.authorisation = memory.authorisation.model_copy(update={"expires_at": soon})


@pytest.mark.fingerprint
async def test_a_hold_that_runs_out_before_the_goods_leave_is_renewed(case: Case) -> None:
    await released(case)

    async def confirmed() -> bool:
        return bool(asked(case, "notify"))

    # Or it would be the next run that sends it, now and then.
    await eventually(confirmed, "the order to be confirmed")
    await case.in_other_times(running_out)

    async def drawn_anew() -> bool:
        shipment = await told_by(case.shipment(), ShipmentWorkflow.snapshot)
        return bool(shipment.authorisation_id == "auth-2")

    await eventually(drawn_anew, "the shipment to draw on the new hold")
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [c.authorisation_id for c in asked(case, "capture_payment")] == ["auth-2"]
    assert len(asked(case, "authorise_payment")) == 2


@pytest.mark.fingerprint
async def test_a_capture_that_finds_its_hold_expired_is_made_from_a_new_one(case: Case) -> None:
    usual = case.script.answers["capture_payment"]
    case.script.answers["capture_payment"] = lambda r: (
        e.Captured(capture_id="", amount=r.amount, expired=True)
        if r.authorisation_id == "auth-1"
        else usual(r)
    )
    await case.start()
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    captures = asked(case, "capture_payment")
    assert [c.authorisation_id for c in captures] == ["auth-1", "auth-2"]
    assert captures[0].key != captures[1].key


async def test_a_renewal_that_is_declined_is_put_before_a_person(case: Case) -> None:
    await released(case)
    declining(case, 0)
    await case.in_other_times(running_out)
    task = await case.review()
    assert task.why_flagged[0].code == "renewal_declined"
    await case.order.execute_update("offer_tender", tender(), result_type=OfferAnswer)
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_an_order_whose_renewal_is_declined_can_be_given_up(case: Case) -> None:
    await released(case)
    declining(case, 0)
    await case.in_other_times(running_out)
    task = await case.review()
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert not asked(case, "capture_payment")


async def test_a_hold_that_ran_out_while_goods_were_awaited_is_made_anew_before_release(case: Case) -> None:
    usual = case.script.answers["route_order"]
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(unfillable=("none on hand",)) if r.attempt == 1 else usual(r)
    )
    await case.start()
    await case.until(OrderState.BACKORDERED)

    def much_later(memory: OrderMemory) -> None:
        running_out(memory)
        memory.deadlines["backorder"] -= timedelta(days=2)

    await case.in_other_times(much_later)
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    first, second = asked(case, "authorise_payment")
    assert first.key != second.key
    assert [void.authorisation_key for void in asked(case, "void_authorisation")] == [first.key]
    assert [c.authorisation_id for c in asked(case, "capture_payment")] == ["auth-2"]
