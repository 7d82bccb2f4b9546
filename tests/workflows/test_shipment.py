from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError

from models import effects as e
from models.base import Contract
from models.messages import CancelOrder, CarrierEvent, CarrierEventKind, DecideReview, WmsEvent, WmsEventKind
from models.review import ReviewKind, Verdict
from models.states import OrderState, ShipmentState
from tests.workflows.engine import Case, eventually, told_by
from tests.workflows.scripted import some_plan
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow


async def decide(case: Case, verdict: Verdict, number: int = 1) -> None:
    task = await case.review(number)
    await case.shipment(number).execute_update(
        ShipmentWorkflow.decide_review,
        DecideReview(
            request_id=task.task_id, actor="ana", task_id=task.task_id, verdict=verdict, reason="looked at it"
        ),
    )


async def test_money_is_taken_only_once_the_parcel_is_handed_over(case: Case) -> None:
    order = await case.start()
    await case.labelled()
    assert "capture_payment" not in case.script.names(case.order_id)
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.script.reached["capture_payment"].wait()
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED


async def test_two_shipments_capture_shares_that_add_up_to_the_total(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(shipments=3))
    order = await case.start()
    for number in (1, 2, 3):
        await case.delivered(number)
    assert (await order.result()).state is OrderState.CLOSED
    taken = [request.amount.minor for request in case.script.requests("capture_payment", case.order_id)]
    assert len(taken) == 3 and sum(taken) == 5_000


async def test_events_that_come_twice_late_or_out_of_order_change_nothing(case: Case) -> None:
    order = await case.start()
    await case.labelled()
    await case.picked(event="w-again")
    await case.scanned(CarrierEventKind.OUT_FOR_DELIVERY)
    await case.scanned(CarrierEventKind.OUT_FOR_DELIVERY)
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.scanned(CarrierEventKind.IN_TRANSIT)
    await case.shipment().signal("carrier_event", {"event_id": "x", "kind": "nonsense"})
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED
    assert len(case.script.requests("capture_payment", case.order_id)) == 1
    assert "signal.refused" in case.kinds()


async def test_a_delivery_as_the_first_scan_still_captures(case: Case) -> None:
    order = await case.start()
    await case.labelled()
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED
    assert len(case.script.requests("capture_payment", case.order_id)) == 1


async def test_a_short_pick_is_put_before_a_person_and_picked_again(case: Case) -> None:
    picks = iter(["pick-1", "pick-2"])
    case.script.answers["request_pick"] = lambda r: e.PickRequested(accepted=True, pick_id=next(picks))
    order = await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    task = await case.review(1)
    assert task.kind is ReviewKind.SHIPMENT_EXCEPTION and task.why_flagged[0].code == "short_pick"
    await decide(case, Verdict.APPROVE)

    async def asked_again() -> bool:
        return len(case.script.requests("request_pick", case.order_id)) == 2

    await eventually(asked_again, "the second pick")
    await case.picked(event="second", pick="pick-2")
    await case.until_shipment("labelled")
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED
    assert len({request.key for request in case.script.requests("request_pick", case.order_id)}) == 2


async def test_goods_found_before_a_short_pick_was_called_off_are_not_picked_again(case: Case) -> None:
    order = await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    task = await case.review(1)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.script.reviews[task.task_id].state == "withdrawn"
    assert len(case.script.requests("request_pick", case.order_id)) == 1


async def test_a_refused_label_can_end_in_a_cancelled_shipment_that_frees_everything(case: Case) -> None:
    case.script.answers["buy_label"] = lambda r: e.Label(accepted=False, reason="does not go there")
    order = await case.start()
    await case.picked()
    await decide(case, Verdict.REJECT)
    assert (await order.result()).state is OrderState.CANCELLED
    names = case.script.names(case.order_id)
    assert names.index("cancel_pick") < names.index("release_reservation") < names.index("void_authorisation")
    assert "void_label" not in names, "nothing was bought"
    assert "capture_payment" not in names


@pytest.mark.fingerprint
async def test_cancel_after_label_voids_label_then_pick_then_frees_stock(case: Case) -> None:
    order = await case.start()
    await case.labelled()
    await case.until(OrderState.RELEASED)
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    assert (await order.result()).state is OrderState.CANCELLED
    names = case.script.names(case.order_id)
    assert names.index("void_label") < names.index("cancel_pick") < names.index("release_reservation")


async def test_cancel_that_meets_a_collected_parcel_goes_on_to_delivery(case: Case) -> None:
    case.script.answers["void_label"] = lambda r: e.Undone(undone=False, reason="collected an hour ago")
    order = await case.start()
    await case.labelled()
    await case.until(OrderState.RELEASED)
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    await case.script.reached["intercept_parcel"].wait()
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.scanned(CarrierEventKind.RETURNED)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert "cancel_pick" not in case.script.names(case.order_id)


async def test_a_late_parcel_is_marked_told_and_still_delivered(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.skip(timedelta(days=4), number=1)
    await case.script.reached["notify"].wait()
    await case.scanned(CarrierEventKind.DELIVERED, at=datetime.now(UTC) + timedelta(days=4))
    assert (await order.result()).state is OrderState.CLOSED
    assert "late" in case.told()
    assert case.script.shipments[f"{case.order_id}:1"].late


async def test_a_late_parcel_whose_delivery_nobody_told_of_is_found_within_a_day(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.skip(timedelta(days=3, hours=1), number=1)
    delivered = CarrierEvent(
        event_id="lost-on-the-way",
        kind=CarrierEventKind.DELIVERED,
        occurred_at=datetime.now(UTC) + timedelta(days=4),
        tracking="TRK-1",
    )
    case.script.answers["track_parcel"] = lambda r: e.ParcelProgress(events=(delivered,))
    await case.skip(timedelta(days=1, hours=1), number=1)
    assert (await order.result()).state is OrderState.CLOSED
    assert len(case.script.requests("track_parcel", case.order_id)) == 2, "when it was late, and a day later"
    assert not case.script.reviews


@pytest.mark.fingerprint
async def test_a_parcel_that_never_arrives_is_refunded_when_a_person_gives_it_up(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.skip(timedelta(days=14), number=1)
    task = await case.review(1)
    assert task.kind is ReviewKind.SHIPMENT_LOST and task.recommended is Verdict.APPROVE
    await decide(case, Verdict.APPROVE)
    result = await order.result()
    assert result.state is OrderState.COMPENSATED
    assert [request.cause for request in case.script.requests("refund_payment", case.order_id)] == [
        "lost_parcel"
    ]
    assert case.script.shipments[f"{case.order_id}:1"].state is ShipmentState.LOST


async def test_a_parcel_that_turns_up_before_a_person_decides_is_not_refunded(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.LOST)
    task = await case.review(1)
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED
    assert case.script.reviews[task.task_id].state == "withdrawn"
    assert "refund_payment" not in case.script.names(case.order_id)


async def test_a_warehouse_that_stays_silent_is_noticed(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.skip(timedelta(days=2, hours=1), number=1)
    task = await case.review(1)
    assert task.why_flagged[0].code == "pick_overdue"
    await decide(case, Verdict.APPROVE)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED


@pytest.mark.fingerprint
async def test_a_pick_whose_webhook_was_lost_is_found_by_asking(case: Case) -> None:
    case.script.answers["check_pick"] = lambda r: e.PickProgress(events=(picked_event(),))
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.skip(timedelta(days=2, hours=1), number=1)
    await case.until_shipment("labelled")
    await case.picked(event="the-same")  # the lost one, late: it is the same event and changes nothing
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await order.result()).state is OrderState.CLOSED
    assert not case.script.reviews
    assert "wms.unexpected" not in case.kinds()


async def test_a_collection_and_a_delivery_without_webhooks_are_found_by_asking(case: Case) -> None:
    now = datetime.now(UTC)
    seen = [scan_event(CarrierEventKind.COLLECTED, now + timedelta(hours=5))]
    case.script.answers["track_parcel"] = lambda r: e.ParcelProgress(events=tuple(seen))
    order = await case.start()
    await case.labelled()
    await case.skip(timedelta(days=2, hours=1), number=1)
    await case.until_shipment("handed_over")
    seen += [
        scan_event(CarrierEventKind.IN_TRANSIT, now + timedelta(days=1)),
        scan_event(CarrierEventKind.DELIVERED, now + timedelta(days=2)),
    ]
    await case.skip(timedelta(days=4), number=1)
    assert (await order.result()).state is OrderState.CLOSED
    assert not case.script.reviews
    assert "late" not in case.told(), "it was delivered in time, only nobody had said so"
    assert not case.script.shipments[f"{case.order_id}:1"].late


async def test_a_lost_parcel_whose_webhook_was_lost_too_is_found_by_asking(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    case.script.answers["track_parcel"] = lambda r: e.ParcelProgress(
        events=(scan_event(CarrierEventKind.DAMAGED, datetime.now(UTC), "crushed"),)
    )
    await case.skip(timedelta(days=4), number=1)
    task = await case.review(1)
    assert task.kind is ReviewKind.SHIPMENT_EXCEPTION and task.recommended is Verdict.APPROVE
    assert "crushed" in task.why_flagged[0].reason
    await decide(case, Verdict.APPROVE)
    assert (await order.result()).state is OrderState.COMPENSATED


async def test_a_warehouse_that_cannot_be_asked_either_is_put_before_a_person(case: Case) -> None:
    case.script.fail("check_pick", times=10)
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.skip(timedelta(days=2, hours=1), number=1)
    task = await case.review(1)
    assert task.why_flagged[0].code == "pick_overdue"
    assert (await told_by(case.shipment(), "snapshot"))["state"] == "in_review", "a look is no failed step"
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert "look.failed" in case.kinds()


async def test_an_overdue_pick_that_comes_after_all_needs_nobody_any_more(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.skip(timedelta(days=2, hours=1), number=1)
    task = await case.review(1)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.script.reviews[task.task_id].state == "withdrawn"
    assert len(case.script.requests("request_pick", case.order_id)) == 1


async def test_a_review_of_a_shipment_shows_on_its_order(case: Case) -> None:
    order = await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    await case.review(1)
    attributes: dict[str, object] = {}
    while not attributes.get("OwNeedsReview"):
        attributes = {p.key.name: p.value for p in (await order.describe()).typed_search_attributes}
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.script.orders[case.order_id].needs_review is False


async def test_a_review_of_a_shipment_shows_on_its_order_in_the_store_while_it_is_open(case: Case) -> None:
    await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    await case.review(1)
    await case.skip(timedelta(seconds=10))

    async def shown() -> bool:
        return case.script.orders[case.order_id].needs_review

    await eventually(shown, "the order's row to say so")


async def test_a_pick_that_the_warehouse_calls_off_is_put_before_a_person(case: Case) -> None:
    order = await case.start()
    await case.picked(kind=WmsEventKind.CANCELLED)
    task = await case.review(1)
    assert task.why_flagged[0].code == "pick_cancelled"
    await decide(case, Verdict.REJECT)
    assert (await order.result()).state is OrderState.CANCELLED


async def test_the_old_pick_is_called_off_before_a_second_and_its_events_count_no_more(case: Case) -> None:
    picks = iter(["pick-1", "pick-2"])
    case.script.answers["request_pick"] = lambda r: e.PickRequested(accepted=True, pick_id=next(picks))
    await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    await case.review(1)
    held = case.script.hold("request_pick")
    await decide(case, Verdict.APPROVE)

    async def asked_again() -> bool:
        return len(case.script.requests("request_pick", case.order_id)) == 2

    await eventually(asked_again, "the second pick")
    names = case.script.names(case.order_id)
    assert names.index("cancel_pick") < len(names) - 1 - names[::-1].index("request_pick")
    await case.picked(event="late")
    held.set()

    async def taken_on() -> bool:
        return (
            (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).pick or _NO_PICK
        ).pick_id == "pick-2"

    await eventually(taken_on, "the second pick's answer")
    assert (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).picked is None
    assert "buy_label" not in case.script.names(case.order_id)
    await case.picked(event="second", pick="pick-2")
    await case.until_shipment("labelled")


async def test_an_old_pick_that_is_done_while_it_is_called_off_does_not_stand_for_the_new_one(
    case: Case,
) -> None:
    picks = iter(["pick-1", "pick-2"])
    case.script.answers["request_pick"] = lambda r: e.PickRequested(accepted=True, pick_id=next(picks))
    await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    await case.review(1)
    held = case.script.hold("cancel_pick")
    await decide(case, Verdict.APPROVE)
    await case.script.reached["cancel_pick"].wait()
    await case.picked(event="after all")

    async def heard() -> bool:
        return (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).picked is not None

    await eventually(heard, "the old pick's end")
    held.set()

    async def taken_on() -> bool:
        return (
            (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).pick or _NO_PICK
        ).pick_id == "pick-2"

    await eventually(taken_on, "the second pick's answer")
    await case.picked(event="second", pick="pick-2")
    await case.until_shipment("labelled")
    picked = (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).picked
    assert picked is not None and picked.event_id == "second"


@pytest.mark.fingerprint
async def test_a_label_whose_answer_was_lost_and_whose_parcel_left_is_found_again(case: Case) -> None:
    case.script.fail("buy_label")
    case.script.answers["void_label"] = lambda r: e.Undone(undone=False, reason="collected an hour ago")
    order = await case.start()
    await case.picked()
    await decide(case, Verdict.REJECT)  # give up: but the carrier has the parcel
    await case.until_shipment("handed_over")
    await case.until_recalled()
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.REJECT)  # it was called off too late, and the customer keeps it
    assert (await order.result()).state is OrderState.CLOSED
    assert len({request.key for request in case.script.requests("buy_label", case.order_id)}) == 1
    assert len(case.script.requests("capture_payment", case.order_id)) == 1


async def test_a_parcel_that_leaves_while_it_is_called_off_is_delivered_and_paid(case: Case) -> None:
    order = await case.start()
    await case.labelled()
    await case.until(OrderState.RELEASED)
    held = case.script.hold("cancel_pick")
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    await case.script.reached["cancel_pick"].wait()
    await case.scanned(CarrierEventKind.COLLECTED)
    held.set()
    await case.until_shipment("handed_over")
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.REJECT)  # it was called off too late, and the customer keeps it
    assert (await order.result()).state is OrderState.CLOSED
    names = case.script.names(case.order_id)
    assert names.count("capture_payment") == 1
    assert "release_reservation" not in names, "what left is not free to be sold again"


async def test_a_pick_that_cannot_be_called_off_frees_no_stock_before_a_person_has_looked(case: Case) -> None:
    answers = [e.Undone(undone=False, reason="packed"), e.Undone(undone=True)]
    case.script.answers["cancel_pick"] = lambda r: answers.pop(0)
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.until(OrderState.RELEASED)
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    task = await case.review(1)
    assert task.kind is ReviewKind.COMPENSATION_FAILED and task.why_flagged[0].reason == "packed"
    assert "release_reservation" not in case.script.names(case.order_id)
    await decide(case, Verdict.APPROVE)
    assert (await order.result()).state is OrderState.CANCELLED
    keys = [request.key for request in case.script.requests("cancel_pick", case.order_id)]
    assert len(set(keys)) == 2, "the first answer stands under its key for ever"


async def test_a_warehouse_that_could_not_call_a_pick_off_is_asked_anew_the_next_time(case: Case) -> None:
    answers = [e.Undone(undone=False, reason="on the trolley"), e.Undone(undone=True)]
    picks = iter(["pick-1", "pick-2"])
    case.script.answers["cancel_pick"] = lambda r: answers.pop(0)
    case.script.answers["request_pick"] = lambda r: e.PickRequested(accepted=True, pick_id=next(picks))
    await case.start()
    for event in ("first", "second"):
        await case.picked(kind=WmsEventKind.SHORT, event=event)
        await decide(case, Verdict.APPROVE)

    async def taken_on() -> bool:
        return (
            (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).pick or _NO_PICK
        ).pick_id == "pick-2"

    await eventually(taken_on, "the second pick's answer")
    first, second = [request.key for request in case.script.requests("cancel_pick", case.order_id)]
    assert second == f"{first}:again:1"


async def test_a_scan_before_any_label_is_noted_and_changes_nothing(case: Case) -> None:
    answers = [
        e.PickRequested(accepted=False, reason="closed today"),
        e.PickRequested(accepted=True, pick_id="pick-1"),
    ]
    case.script.answers["request_pick"] = lambda r: answers.pop(0)
    order = await case.start()
    await case.shipment_exists()
    await case.review(1)
    await case.scanned(CarrierEventKind.COLLECTED, event="stray")
    await decide(case, Verdict.REJECT)
    assert (await order.result()).state is OrderState.CANCELLED
    assert "capture_payment" not in case.script.names(case.order_id)
    assert "carrier.unexpected" in case.kinds()


async def test_a_parcel_is_looked_for_once_more_before_it_is_paid_back(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.LOST)
    await case.review(1)
    case.script.answers["track_parcel"] = lambda r: e.ParcelProgress(
        events=(scan_event(CarrierEventKind.DELIVERED, datetime.now(UTC)),)
    )
    await decide(case, Verdict.APPROVE)
    assert (await order.result()).state is OrderState.CLOSED
    assert "refund_payment" not in case.script.names(case.order_id)


async def test_a_parcel_that_arrives_after_it_was_paid_back_is_put_down_while_its_run_still_lives(
    case: Case,
) -> None:
    """The invariant job reads it from there; the order's run is away, so that the shipment's goes on reporting."""
    order = await case.start()
    await case.handed_over()
    await order.terminate("by mistake")
    await case.scanned(CarrierEventKind.LOST)
    await decide(case, Verdict.APPROVE)
    await case.until_shipment("lost")
    await case.scanned(CarrierEventKind.DELIVERED)

    async def noted() -> bool:
        return "carrier.unexpected" in case.kinds()

    await eventually(noted, "the delivery on the timeline")
    await case.shipment().terminate("the test is over")


async def test_a_damaged_parcel_is_paid_back_though_it_was_brought(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.DAMAGED)
    await case.review(1)
    held = case.script.hold("refund_payment")
    await decide(case, Verdict.APPROVE)
    await case.script.reached["refund_payment"].wait()
    await case.scanned(CarrierEventKind.DELIVERED)
    held.set()
    assert (await order.result()).state is OrderState.COMPENSATED
    assert "track_parcel" not in case.script.names(case.order_id)


async def test_a_parcel_that_left_without_a_scan_goes_on_by_a_persons_word(case: Case) -> None:
    case.script.answers["void_label"] = lambda r: e.Undone(undone=False, reason="collected an hour ago")
    order = await case.start()
    await case.labelled()
    await case.until(OrderState.RELEASED)
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    await case.until_shipment("handed_over")
    await case.skip(timedelta(days=2, hours=1), number=1)
    task = await case.review(1)
    assert "with the carrier" in task.options[Verdict.REJECT]
    await decide(case, Verdict.REJECT)
    await case.script.reached["capture_payment"].wait()
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.REJECT)  # it was called off too late, and the customer keeps it
    assert (await order.result()).state is OrderState.CLOSED


async def test_an_old_pick_that_cannot_be_called_off_is_waited_for(case: Case) -> None:
    case.script.answers["cancel_pick"] = lambda r: e.Undone(undone=False, reason="on the trolley")
    order = await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    await decide(case, Verdict.APPROVE)
    await case.script.reached["cancel_pick"].wait()
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert len(case.script.requests("request_pick", case.order_id)) == 1


async def test_a_parcel_that_could_not_be_called_back_is_not_offered_to_be_called_off_again(
    case: Case,
) -> None:
    case.script.answers["void_label"] = lambda r: e.Undone(undone=False, reason="collected an hour ago")
    order = await case.start()
    await case.labelled()
    await case.until(OrderState.RELEASED)
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    await case.until_shipment("handed_over")
    await case.skip(timedelta(days=2, hours=1), number=1)
    task = await case.review(1)
    assert "free its units" not in " ".join(task.options.values())
    await decide(case, Verdict.APPROVE)
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(case, Verdict.REJECT)  # it was called off too late, and the customer keeps it
    assert (await order.result()).state is OrderState.CLOSED


async def test_the_customer_hears_of_one_parcel_of_several_that_will_not_come(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(shipments=3))
    order = await case.start()
    await case.picked(1, kind=WmsEventKind.SHORT)
    await decide(case, Verdict.REJECT, 1)
    await case.handed_over(2)
    await case.scanned(CarrierEventKind.LOST, 2)
    await decide(case, Verdict.APPROVE, 2)
    await case.delivered(3)
    assert (await order.result()).state is OrderState.CLOSED
    told = case.told()
    assert told.count("shipment_cancelled") == 1 and told.count("shipment_lost") == 1
    assert told.count("shipped") == 2


async def test_a_lost_parcel_that_nobody_looks_at_is_paid_back_at_the_deadline(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.LOST)
    task = await case.review(1)
    await case.skip(timedelta(days=3, minutes=1), number=1)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert case.script.reviews[task.task_id].state == "expired"
    assert case.told().count("review_escalated") == 1


async def test_a_gateway_that_is_away_holds_up_no_report_of_a_late_parcel(case: Case) -> None:
    send = case.script.answers["notify"]

    def away_for_the_late(request: e.Notify) -> Contract:
        if request.template is e.Template.LATE:
            raise ApplicationError("away", type="neighbour_unavailable")
        return send(request)

    case.script.answers["notify"] = away_for_the_late
    order = await case.start()
    await case.handed_over()
    await case.skip(timedelta(days=3, minutes=1), number=1)
    await case.scanned(CarrierEventKind.DELIVERED, at=datetime.now(UTC) + timedelta(days=4))
    assert (await order.result()).state is OrderState.CLOSED
    unsent = (await told_by(case.shipment(), ShipmentWorkflow.snapshot)).unsent
    assert [message.template for message in unsent] == [e.Template.LATE]
    await case.shipment().terminate()


async def test_a_parcel_of_free_goods_leaves_the_stock_too(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(total=0))
    order = await case.start()
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    (request,) = case.script.requests("capture_payment", case.order_id)
    assert request.amount.minor == 0


_NO_PICK = e.PickRequested(accepted=False)


def picked_event() -> WmsEvent:
    return WmsEvent(
        event_id="the-same", kind=WmsEventKind.PICKED, occurred_at=datetime.now(UTC), pick_id="pick-1"
    )


def scan_event(kind: CarrierEventKind, at: datetime, detail: str = "") -> CarrierEvent:
    return CarrierEvent(event_id=f"scan-{kind}", kind=kind, occurred_at=at, tracking="TRK-1", detail=detail)


async def test_damage_that_was_reported_is_asked_about_also_after_the_delivery(case: Case) -> None:
    order = await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.DAMAGED)
    task = await case.review(1)
    assert task.why_flagged[0].code == "damaged"
    await case.scanned(CarrierEventKind.DELIVERED)
    await case.scanned(CarrierEventKind.IN_TRANSIT, event="late scan")
    await decide(case, Verdict.APPROVE)
    assert (await order.result()).state is OrderState.COMPENSATED
    assert case.script.reviews[task.task_id].state == "decided", "a delivery does not answer it"
