"""What a person did in our place: written down before anything else, and undone by a person only."""

from typing import Any

from models import effects as e
from models.messages import CancelOrder, CarrierEventKind, DecideReview, WmsEventKind
from models.review import ReviewKind, ReviewTask, Verdict
from models.states import OrderState
from tests.workflows.engine import Case, eventually, told_by
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow

HELD = {"approved": True, "authorisation_id": "by-phone", "amount": {"minor": 5_000, "currency": "GBP"}}


async def answer(
    case: Case, verdict: Verdict, number: int = 0, said: dict[str, Any] | None = None
) -> ReviewTask:
    task = await case.review(number)
    handle = case.shipment(number) if number else case.order
    await handle.execute_update(
        ShipmentWorkflow.decide_review if number else OrderWorkflow.decide_review,
        DecideReview(
            request_id=f"{task.task_id}-{verdict}",
            actor="ana",
            task_id=task.task_id,
            verdict=verdict,
            reason="by telephone",
            answer=said,
        ),
    )

    async def closed() -> bool:
        now = await told_by(handle, OrderWorkflow.pending_review)
        return now is None or now.task_id != task.task_id

    await eventually(closed, f"{task.task_id} to be closed")
    return task


async def call_off(case: Case) -> None:
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="r")
    )


async def test_money_held_by_hand_is_given_back_by_a_person(case: Case) -> None:
    case.script.fail("authorise_payment")
    routing = case.script.hold("route_order")
    order = await case.start()
    await answer(case, Verdict.FINISH, said=HELD)
    await case.script.reached["route_order"].wait()
    await call_off(case)
    routing.set()
    task = await answer(case, Verdict.APPROVE)
    assert task.kind is ReviewKind.COMPENSATION_FAILED and task.why_flagged[0].code == "done_by_hand"
    assert "void_authorisation" not in case.script.names(case.order_id), "our key would undo nothing"
    await answer(case, Verdict.FINISH)
    assert (await order.result()).state is OrderState.CANCELLED
    (void,) = case.script.requests("void_authorisation", case.order_id)
    assert void.by_hand, "our books are told, the provider is not asked"


async def test_calling_off_does_not_drop_what_was_just_done_by_hand(case: Case) -> None:
    case.script.fail("authorise_payment")
    order = await case.start()
    task = await case.review()

    async def written() -> bool:
        return task.task_id in case.script.reviews

    await eventually(written, "the question to be written down, which must not be held")
    # Both are in one workflow task: the wish to call off is there before the hand-made answer was written down.
    writing = case.script.hold("authorise_payment")
    writing.set()
    holding = case.script.hold("record_progress")
    await answer(case, Verdict.FINISH, said=HELD)
    await case.order.signal("cancel_order", CancelOrder(request_id="c", actor="ana", reason="r"))
    holding.set()
    await answer(case, Verdict.FINISH)
    assert (await order.result()).state is OrderState.CANCELLED
    asked = [r.by_hand for r in case.script.requests("authorise_payment", case.order_id)]
    assert asked == [None, HELD], "it was written down although the order is called off"
    assert [r.by_hand for r in case.script.requests("void_authorisation", case.order_id)] == [True]
    assert task.kind is ReviewKind.STEP_FAILED


async def test_a_pick_made_by_hand_is_called_off_by_hand_before_it_is_asked_for_again(case: Case) -> None:
    case.script.fail("request_pick")
    order = await case.start()
    await case.shipment_exists()
    await answer(case, Verdict.FINISH, 1, {"accepted": True, "pick_id": "pick-1"})
    await case.picked(kind=WmsEventKind.SHORT)
    assert (await answer(case, Verdict.APPROVE, 1)).why_flagged[0].code == "short_pick"

    async def asked() -> bool:
        return (await case.review(1)).why_flagged[0].code == "done_by_hand"

    await eventually(asked, "the question about the pick made by hand")
    case.script.answers["request_pick"] = lambda r: e.PickRequested(accepted=True, pick_id="pick-2")
    await answer(case, Verdict.FINISH, 1)

    async def asked_for_again() -> bool:
        return len(case.script.requests("request_pick", case.order_id)) == 3

    await eventually(asked_for_again, "the second pick")
    await case.picked(event="again", pick="pick-2")
    await case.until_shipment("labelled")
    assert [r.by_hand for r in case.script.requests("cancel_pick", case.order_id)] == [True]
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED


async def test_a_compensation_that_a_person_did_is_written_down(case: Case) -> None:
    case.script.fail("void_authorisation")
    routing = case.script.hold("route_order")
    order = await case.start()
    await case.script.reached["route_order"].wait()
    await call_off(case)
    routing.set()
    await answer(case, Verdict.FINISH)
    assert (await order.result()).state is OrderState.CANCELLED
    assert [r.by_hand for r in case.script.requests("void_authorisation", case.order_id)] == [False, True]


async def test_money_held_by_hand_can_be_left_held_with_a_reason(case: Case) -> None:
    case.script.fail("authorise_payment")
    routing = case.script.hold("route_order")
    order = await case.start()
    await answer(case, Verdict.FINISH, said=HELD)
    await case.script.reached["route_order"].wait()
    await call_off(case)
    routing.set()
    assert (await answer(case, Verdict.REJECT)).why_flagged[0].code == "done_by_hand"
    assert (await order.result()).state is OrderState.CANCELLED
    assert "void_authorisation" not in case.script.names(case.order_id)
    assert "undo.skipped" in case.kinds()


async def test_a_pick_made_by_hand_can_be_left_as_it_is_with_a_reason(case: Case) -> None:
    case.script.fail("request_pick")
    order = await case.start()
    await case.shipment_exists()
    await answer(case, Verdict.FINISH, 1, {"accepted": True, "pick_id": "pick-1"})
    await call_off(case)
    assert (await answer(case, Verdict.REJECT, 1)).why_flagged[0].code == "done_by_hand"
    assert (await order.result()).state is OrderState.CANCELLED
    names = case.script.names(case.order_id)
    assert "cancel_pick" not in names and "release_reservation" in names
