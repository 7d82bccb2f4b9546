"""Calling off what is with the carrier: it is brought back or becomes a return, and the caller is told which."""

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowUpdateFailedError

from models import effects as e
from models.messages import (
    CancelAnswer,
    CancelOrder,
    CancelOutcome,
    CarrierEvent,
    CarrierEventKind,
    DecideReview,
    FailureResolution,
    ResolveFailure,
)
from models.review import ReviewKind, Verdict
from models.states import OrderState, ReviewState
from tests.workflows.engine import Case, eventually, told_by
from tests.workflows.scripted import some_plan
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow


async def ask_to_stop(case: Case, request_id: str = "c") -> CancelAnswer:
    return await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id=request_id, actor="ana", reason="not wanted any more")
    )


async def call_off(case: Case) -> CancelAnswer:
    """What calling off leads to. On a busy machine the first answer may only say that the carrier is asked."""
    answers = [await ask_to_stop(case)]

    async def settled() -> bool:
        answers.append(await ask_to_stop(case))
        return "asked" not in answers[-1].message.replace("the customer is asked to", "")

    await eventually(settled, "every shipment to have answered")
    return answers[-1]


async def decide(case: Case, verdict: Verdict, about: ReviewKind = ReviewKind.RETURN) -> None:
    task = await case.review(1)
    assert task.kind is about
    await case.shipment().execute_update(
        ShipmentWorkflow.decide_review,
        DecideReview(
            request_id=task.task_id, actor="ana", task_id=task.task_id, verdict=verdict, reason="looked at it"
        ),
    )


def too_late(case: Case) -> None:
    case.script.answers["intercept_parcel"] = lambda r: e.Interception(accepted=False, reason="in the van")


@pytest.mark.fingerprint
async def test_a_parcel_that_is_brought_back_is_paid_back_once_it_is_back(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.until(OrderState.SHIPPED)
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    await case.until(OrderState.CANCELLING)
    await case.scanned(CarrierEventKind.RETURNING)
    await case.until_shipment("returning")
    assert "refund_payment" not in case.script.names(case.order_id), "it is not back yet"
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    (refund,) = case.script.requests("refund_payment", case.order_id)
    assert (refund.cause, refund.amount.minor) == ("returned", 5_000)
    await case.shipment().result()
    # In no order: some are sent by the shipment's run, the others by the order's.
    assert {"parcel_recalled", "refunded"} <= set(case.told())
    assert len(set(case.told())) == len(case.told())


async def test_a_parcel_that_cannot_be_brought_back_becomes_a_return(case: Case) -> None:
    too_late(case)
    order = await case.start()
    await case.handed_over()
    await case.until(OrderState.SHIPPED)
    answer = await call_off(case)
    assert answer.outcome is CancelOutcome.RETURN and "refuse or return" in answer.message
    assert "return_requested" in case.told()
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.APPROVE)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert len(case.script.requests("refund_payment", case.order_id)) == 1


async def test_a_customer_may_keep_what_was_called_off_too_late(case: Case) -> None:
    too_late(case)
    order = await case.start()
    await case.handed_over()
    assert (await call_off(case)).outcome is CancelOutcome.RETURN
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.REJECT)
    assert (await order.result()).state is OrderState.CLOSED
    assert "refund_payment" not in case.script.names(case.order_id)


async def test_a_parcel_refused_at_the_door_is_paid_back_though_nobody_called_it_off(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.RETURNING)
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert len(case.script.requests("refund_payment", case.order_id)) == 1
    assert "intercept_parcel" not in case.script.names(case.order_id)


async def test_a_parcel_that_was_to_come_back_and_is_delivered_is_a_return(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.APPROVE)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_a_recalled_parcel_that_never_comes_back_is_put_before_a_person(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await call_off(case)
    await case.skip(timedelta(days=15), number=1)
    task = await case.review(1)
    assert task.kind is ReviewKind.SHIPMENT_LOST
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert case.script.reviews[task.task_id].state == "withdrawn"


async def test_a_carrier_that_does_not_answer_leaves_a_return(case: Case) -> None:
    case.script.fail("intercept_parcel", "no such service")
    order = await case.start()
    await case.handed_over()
    assert (await call_off(case)).outcome is CancelOutcome.RETURN
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_an_answer_that_takes_long_is_said_to_be_under_way_and_told_when_asked_again(
    case: Case,
) -> None:
    carrier = case.script.hold("intercept_parcel")
    order = await case.start()
    await case.handed_over()
    assert (await ask_to_stop(case)).outcome is CancelOutcome.INTERCEPTING
    carrier.set()
    await case.until_recalled()
    assert (await ask_to_stop(case)).outcome is CancelOutcome.INTERCEPTED
    another = await ask_to_stop(case, "another")
    assert another.outcome is CancelOutcome.ALREADY and "brings" in another.message
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert len(case.script.requests("intercept_parcel", case.order_id)) == 1


async def test_what_has_arrived_everywhere_cannot_be_called_off(case: Case) -> None:
    closing = case.script.hold("settle_order")
    order = await case.start()
    await case.delivered()
    await case.until(OrderState.DELIVERED)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask_to_stop(case)
    assert "arrange a return" in str(refused.value.cause)
    closing.set()
    assert (await order.result()).state is OrderState.CLOSED


async def test_one_delivered_and_one_called_off_close_the_order_with_what_was_kept(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(shipments=2))
    order = await case.start()
    await case.delivered(1)
    await case.handed_over(2)
    await case.until_shipment("delivered", 1)
    await case.until(OrderState.SHIPPED)
    answer = await call_off(case)
    assert answer.outcome is CancelOutcome.PARTLY
    assert "shipment 1: it has arrived" in answer.message and "shipment 2: the carrier" in answer.message
    await case.scanned(CarrierEventKind.RETURNED, 2)
    assert (await order.result()).state is OrderState.CLOSED
    assert "shipment_returned" in case.told()


async def test_a_parcel_nobody_heard_of_is_asked_back_without_waiting_for_the_reviewer(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.skip(timedelta(days=4), 1)
    await case.skip(timedelta(days=11), 1)
    lost = await case.review(1)
    assert lost.kind is ReviewKind.SHIPMENT_LOST
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert case.script.reviews[lost.task_id].state is ReviewState.WITHDRAWN
    assert case.script.names(case.order_id).count("refund_payment") == 1


async def test_the_carrier_is_asked_at_once_though_a_person_is_being_asked_about_the_parcel(
    case: Case,
) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.EXCEPTION)
    await case.review(1)
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    assert (await case.review(1)).state is ReviewState.OPEN
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_the_carrier_is_asked_at_once_though_the_money_cannot_be_taken(case: Case) -> None:
    case.script.fail("capture_payment", "hold expired")
    order = await case.start()
    await case.handed_over()
    task = await case.review(1)
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    await case.shipment().execute_update(
        ShipmentWorkflow.resolve_failure,
        ResolveFailure(
            request_id="f",
            actor="ana",
            task_id=task.task_id,
            resolution=FailureResolution.RETRY,
            reason="renewed",
        ),
    )
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_the_carriers_answer_is_awaited_by_the_next_run_when_the_history_was_long(case: Case) -> None:
    carrier = case.script.hold("intercept_parcel")
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.EXCEPTION)
    await case.review(1)
    assert (await ask_to_stop(case)).outcome is CancelOutcome.INTERCEPTING
    await case.script.reached["intercept_parcel"].wait()
    before = (await case.shipment().describe()).run_id
    await case.shipment().signal("renew")
    carrier.set()

    async def taken_over() -> bool:
        return (await case.shipment().describe()).run_id != before

    await eventually(taken_over, "the next run")
    await case.until_recalled()
    assert len({r.key for r in case.script.requests("intercept_parcel", case.order_id)}) == 1
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_a_parcel_that_is_given_up_is_not_said_to_be_brought_back(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.LOST)
    refund = case.script.hold("refund_payment")
    await decide(case, Verdict.APPROVE, ReviewKind.SHIPMENT_LOST)
    await case.script.reached["refund_payment"].wait()
    answer = await ask_to_stop(case)
    assert answer.outcome is CancelOutcome.ENDED and "being paid back" in answer.message
    refund.set()
    assert (await order.result()).state is OrderState.COMPENSATED
    assert "intercept_parcel" not in case.script.names(case.order_id)


async def test_a_parcel_that_was_paid_back_is_not_said_to_have_arrived(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(shipments=2))
    order = await case.start()
    await case.handed_over(1)
    await case.scanned(CarrierEventKind.LOST, 1)
    await decide(case, Verdict.APPROVE, ReviewKind.SHIPMENT_LOST)
    await case.until_shipment("lost", 1)
    await case.handed_over(2)
    await case.until(OrderState.SHIPPED)
    answer = await call_off(case)
    assert answer.outcome is CancelOutcome.PARTLY
    assert "shipment 1: it was given up, and its amount is paid back" in answer.message
    await case.scanned(CarrierEventKind.RETURNED, 2)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_an_order_that_is_being_rejected_is_not_said_to_have_been_called_off(case: Case) -> None:
    case.script.answers["authorise_payment"] = lambda r: e.Authorisation(
        approved=False, amount=r.amount, decline_code="do_not_honour", decline_is_final=True
    )
    closing = case.script.hold("settle_order")
    order = await case.start()
    await case.script.reached["settle_order"].wait()
    answer = await ask_to_stop(case)
    assert answer.outcome is CancelOutcome.ALREADY
    assert "will be rejected anyhow" in answer.message
    closing.set()
    assert (await order.result()).state is OrderState.REJECTED


async def test_a_parcel_that_leaves_before_its_run_hears_the_cancellation_is_asked_back(case: Case) -> None:
    """Both come while the label is being bought; the way forward finds the parcel gone, and remembers the wish."""
    buying = case.script.hold("buy_label")
    order = await case.start()
    await case.picked()
    await case.script.reached["buy_label"].wait()
    await ask_to_stop(case)

    async def heard() -> bool:
        return (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).cancel is not None

    await eventually(heard, "the shipment to hear of it")
    await case.scanned(CarrierEventKind.COLLECTED)
    buying.set()
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert len(case.script.requests("intercept_parcel", case.order_id)) == 1
    assert len(case.script.requests("refund_payment", case.order_id)) == 1
    assert "void_label" not in case.script.names(case.order_id)


async def test_nobody_is_asked_for_a_parcel_that_is_back(case: Case) -> None:
    case.script.fail("capture_payment")
    order = await case.start()
    await case.labelled()
    await case.scanned(CarrierEventKind.COLLECTED)
    task = await case.review(1)
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    assert "intercept_parcel" not in case.script.names(case.order_id)
    assert not {"return_requested", "parcel_recalled"} & set(case.told())
    await decide(case, Verdict.APPROVE, about=task.kind)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert len(case.script.requests("refund_payment", case.order_id)) == 1


async def test_a_recalled_parcel_whose_return_nobody_told_of_is_found_within_a_day(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    assert (await call_off(case)).outcome is CancelOutcome.INTERCEPTED
    back = CarrierEvent(
        event_id="lost-on-the-way",
        kind=CarrierEventKind.RETURNED,
        occurred_at=datetime.now(UTC),
        tracking="TRK-1",
    )
    case.script.answers["track_parcel"] = lambda r: e.ParcelProgress(events=(back,))
    await case.skip(timedelta(days=1, hours=1), number=1)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert not case.script.reviews
