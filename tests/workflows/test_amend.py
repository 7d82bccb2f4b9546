from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError

from models import effects as e
from models.errors import Problem
from models.memory import OrderMemory
from models.messages import (
    AmendAnswer,
    AmendOrder,
    AmendOutcome,
    CancelOrder,
    CarrierEventKind,
    DecideReview,
    StockLost,
)
from models.review import Verdict
from models.states import OrderState, ReviewState
from tests.workflows.engine import Case, eventually, told_by
from tests.workflows.scripted import pounds, some_plan
from tests.workflows.test_order import decision, flagged
from workflows.order import OrderWorkflow


def amendment(total: int = 7_000, number: int = 2) -> AmendOrder:
    return AmendOrder(
        request_id=f"amend-{number}",
        actor="ana",
        reason="the customer asked",
        amendment_id=f"amendment-{number}",
        number=number,
        total=pounds(total),
    )


async def amend(case: Case, total: int = 7_000, number: int = 2) -> AmendAnswer:
    case.script.amended_total = total
    answer: AmendAnswer = await case.order.execute_update(
        "amend_order", amendment(total, number), result_type=AmendAnswer
    )
    return answer


async def applied(case: Case, number: int = 2) -> AmendAnswer:
    found: list[AmendAnswer] = []

    async def answered() -> bool:
        answer = (await memory(case)).amend_answers.get(f"amend-{number}")
        found[:] = [answer] if answer is not None else []
        return bool(found)

    await eventually(answered, "the amendment to be answered")
    return found[0]


async def memory(case: Case) -> OrderMemory:
    found: OrderMemory = await told_by(case.order, OrderWorkflow.snapshot)
    return found


def asked(case: Case, step: str) -> list[Any]:
    return case.script.requests(step, case.order_id)


async def released(case: Case, shipments: int = 1) -> None:
    """Each of the first plan's shipments waits for its warehouse."""
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(
            shipments if r.first_number == 1 and not r.kept and case.script.total == 5_000 else 1,
            first=r.first_number,
            total=r.outstanding.minor if r.outstanding else case.script.total,
        )
    )
    await case.start()
    for number in range(1, shipments + 1):
        await case.until_shipment("pick_requested", number)
    await case.until(OrderState.RELEASED)


@pytest.mark.fingerprint
async def test_an_order_that_is_not_packed_is_called_off_and_planned_anew(case: Case) -> None:
    await released(case)
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.until_shipment("cancelled", 1)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    route = asked(case, "route_order")[-1]
    assert (route.first_number, route.kept, route.outstanding) == (2, (), None)
    assert [(a.amount, a.key.rpartition(":")[2]) for a in asked(case, "authorise_payment")] == [
        (pounds(5_000), "1"),
        (pounds(7_000), "2"),
    ]
    assert [void.authorisation_key for void in asked(case, "void_authorisation")] == [
        asked(case, "authorise_payment")[0].key
    ]
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(7_000)]
    assert asked(case, "settle_order")[-1].total == pounds(7_000)
    # What the customer hears: that the order was changed, not that a parcel of it was called off.
    assert sorted(set(case.told())) == ["order_amended", "order_confirmed", "shipped"]
    assert "order.assessed" in case.kinds() and len(asked(case, "assess_order")) == 2


@pytest.mark.fingerprint
async def test_what_is_packed_goes_on_and_only_the_rest_is_planned_anew(case: Case) -> None:
    await released(case, shipments=2)
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.until_shipment("cancelled", 2)
    await case.shipment_exists(3)
    route = asked(case, "route_order")[-1]
    assert [(kept.plan_id, kept.number) for kept in route.kept] == [("plan-1", 1)]
    assert (route.first_number, route.outstanding) == (3, pounds(4_500))
    # The first hold pays for what was packed, so it stays; the second is for the rest alone.
    first, second = asked(case, "authorise_payment")
    assert second.amount == pounds(4_500)
    # So that a tender of ours makes no room for it out of what the packed parcel is to be paid from.
    (held,) = second.drawn
    assert (first.drawn, second.drawn) == ({}, {held: pounds(2_500)})
    assert not asked(case, "void_authorisation")
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.until(OrderState.PARTIALLY_SHIPPED)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert sorted(c.amount.minor for c in asked(case, "capture_payment")) == [2_500, 4_500]
    assert len(asked(case, "assess_order")) == 1


async def test_a_cheaper_order_is_paid_from_what_is_held(case: Case) -> None:
    await released(case)
    await amend(case, total=3_000)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(asked(case, "authorise_payment")) == 1
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(3_000)]


@pytest.mark.fingerprint
async def test_an_amendment_whose_money_is_declined_changes_nothing(case: Case) -> None:
    await released(case)
    case.script.answers["authorise_payment"] = lambda r: e.Authorisation(
        approved=False, amount=r.amount, decline_code="insufficient_funds"
    )
    await amend(case)
    answer = await applied(case)
    assert (answer.outcome, answer.code) == (AmendOutcome.REFUSED, "payment_declined")
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert asked(case, "settle_order")[-1].total == pounds(5_000)
    assert asked(case, "apply_amendment")[-1].refused.code == "payment_declined"
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(5_000)]


async def test_an_amendment_below_what_is_packed_is_refused(case: Case) -> None:
    await released(case, shipments=2)
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    case.script.answers["apply_amendment"] = lambda r: e.AmendmentApplied(
        refusal=Problem(path="", code="below_shipped", message="more is packed")
    )
    await amend(case, total=2_000)
    answer = await applied(case)
    assert (answer.outcome, answer.code) == (AmendOutcome.REFUSED, "below_shipped")
    # What was called off for it is planned again as it was ordered.
    await case.delivered(3)
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert sum(c.amount.minor for c in asked(case, "capture_payment")) == 5_000


async def test_when_everything_is_packed_a_refused_amendment_leaves_all_as_it_is(case: Case) -> None:
    case.script.answers["apply_amendment"] = lambda r: e.AmendmentApplied(
        refusal=r.refused or Problem(path="lines", code="below_shipped", message="packed")
    )
    await released(case)
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    await amend(case, total=6_000)
    assert (await applied(case)).outcome is AmendOutcome.REFUSED
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(asked(case, "route_order")) == 1


async def test_an_amendment_that_leaves_nothing_to_plan_waits_for_what_is_packed(case: Case) -> None:
    await released(case, shipments=2)
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    usual = case.script.answers["apply_amendment"]
    case.script.answers["apply_amendment"] = lambda r: usual(r).model_copy(update={"units_left": 0})
    await amend(case, total=2_500)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(asked(case, "route_order")) == 1
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(2_500)]
    assert [r.shipment_id for r in asked(case, "release_reservation")] == [f"{case.order_id}:2"]


@pytest.mark.fingerprint
async def test_an_amendment_withdraws_the_question_at_gate_a_and_asks_about_the_new_order(case: Case) -> None:
    flagged(case)
    await case.start()
    first = await case.review()
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED

    async def another() -> bool:
        task = await told_by(case.order, OrderWorkflow.pending_review)
        return task is not None and task.task_id != first.task_id

    await eventually(another, "the question about the amended order")
    assert case.script.reviews[first.task_id].state is ReviewState.WITHDRAWN
    task = await case.review()
    assert "70.00" in task.what_happened
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    # Nothing was held before: one authorisation, of the new total.
    assert [a.amount for a in asked(case, "authorise_payment")] == [pounds(7_000)]


@pytest.mark.fingerprint
async def test_an_amendment_while_back_ordered_is_planned_at_once(case: Case) -> None:
    usual = case.script.answers["route_order"]
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(unfillable=("none on hand",)) if case.script.total == 5_000 else usual(r)
    )
    await case.start()
    await case.until(OrderState.BACKORDERED)
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_units_that_were_reserved_for_the_plan_before_stay_until_the_next_one_has_reserved(
    case: Case,
) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(cost=9_000, first=r.first_number, total=case.script.total)
    )
    await case.start()
    task = await case.review()
    assert task.kind == "plan"
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED

    async def asked_again() -> bool:
        return len(asked(case, "reserve_stock")) == 2

    await eventually(asked_again, "the second reservation")
    first, second = asked(case, "reserve_stock")
    assert first.key != second.key
    assert not asked(case, "release_reservation")
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="enough")
    )
    assert (await case.order.result()).state is OrderState.CANCELLED
    # The first was swapped for the second by reserving that.
    assert [r.reservation_key for r in asked(case, "release_reservation")] == [second.key]


async def test_an_order_that_waits_for_more_keeps_what_it_holds_until_it_is_called_off(case: Case) -> None:
    usual = case.script.answers["route_order"]
    await released(case)
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(unfillable=("one too few",)) if case.script.total == 7_000 else usual(r)
    )
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.until_shipment("cancelled", 1)
    await case.until(OrderState.BACKORDERED)
    assert asked(case, "cancel_pick") and not asked(case, "release_reservation")
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="enough")
    )
    assert (await case.order.result()).state is OrderState.CANCELLED
    (reserved,) = asked(case, "reserve_stock")
    assert [(r.reservation_key, r.shipment_id) for r in asked(case, "release_reservation")] == [
        (reserved.key, f"{case.order_id}:1")
    ]


async def test_an_order_that_waits_and_is_amended_back_is_planned_with_what_it_held(case: Case) -> None:
    await released(case)
    usual = case.script.answers["route_order"]
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(unfillable=("one too few",)) if case.script.total == 7_000 else usual(r)
    )
    await amend(case)
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.until(OrderState.BACKORDERED)
    await amend(case, total=5_000, number=3)
    assert (await applied(case, 3)).outcome is AmendOutcome.APPLIED
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert not asked(case, "release_reservation")


async def test_a_refused_amendment_leaves_an_order_that_waits_for_its_rest_waiting(case: Case) -> None:
    await released(case, shipments=2)
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(unfillable=("none on hand",))
    await amend(case)
    await case.until(OrderState.BACKORDERED)
    case.script.answers["apply_amendment"] = lambda r: e.AmendmentApplied(
        refusal=Problem(path="", code="stale_version", message="another came first")
    )
    await amend(case, total=7_500, number=3)
    assert (await applied(case, 3)).outcome is AmendOutcome.REFUSED
    # It is planned once more, in vain, before it waits again.
    await case.until(OrderState.BACKORDERED)
    assert not (await memory(case)).rest_dropped
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(first=r.first_number, total=r.outstanding.minor)
    )

    def a_day_later(memory: OrderMemory) -> None:
        memory.deadlines["backorder"] -= timedelta(days=3)

    await case.in_other_times(a_day_later)
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_amendments_that_cannot_be_are_refused_with_a_reason(case: Case) -> None:
    await released(case)
    held = case.script.hold("apply_amendment")
    await amend(case)
    with pytest.raises(WorkflowUpdateFailedError) as busy:
        await amend(case, number=3)
    assert "being applied" in str(busy.value.cause)
    held.set()
    answer = await applied(case)
    # A repeat is answered as the first was.
    assert await amend(case) == answer
    await case.handed_over(2)

    async def heard() -> bool:
        progress = (await memory(case)).shipments.get(2)
        return progress is not None and progress.captured is not None

    await eventually(heard, "the order to hear that all has left")
    with pytest.raises(WorkflowUpdateFailedError) as late:
        await amend(case, number=4)
    assert "past the cut-off" in str(late.value.cause)
    await case.order.signal("amend_order", {"nonsense": 1})
    await case.order.signal("amend_order", amendment(number=5).model_dump(mode="json"))
    await case.scanned(CarrierEventKind.DELIVERED, 2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert "signal.refused" in case.kinds() and "amend.refused" in case.kinds()
    # Nobody hears the refusal of a signal: it is written down where the amendment is stored.
    assert asked(case, "apply_amendment")[-1].amendment_id == "amendment-5"
    assert asked(case, "apply_amendment")[-1].refused.code == "refused"


async def test_an_amendment_that_comes_before_the_order_was_read_is_applied(case: Case) -> None:
    held = case.script.hold("validate_order")
    await case.start()
    await case.script.reached["validate_order"].wait()
    case.script.amended_total = 7_000
    await case.order.signal("amend_order", amendment().model_dump(mode="json"))
    held.set()
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [a.amount for a in asked(case, "authorise_payment")] == [pounds(7_000)]


async def test_an_amendment_of_an_order_that_cannot_be_read_is_refused(case: Case) -> None:
    held = case.script.hold("validate_order")
    case.script.answers["validate_order"] = lambda r: e.Validation(
        problems=(Problem(path="currency", code="x", message="unknown currency"),)
    )
    await case.start()
    await case.script.reached["validate_order"].wait()
    await case.order.signal("amend_order", amendment().model_dump(mode="json"))
    held.set()
    assert (await case.order.result()).state is OrderState.REJECTED
    assert asked(case, "apply_amendment")[-1].refused.code == "called_off"


async def test_an_amendment_can_be_sent_as_a_signal(case: Case) -> None:
    await released(case)
    case.script.amended_total = 7_000
    await case.order.signal("amend_order", amendment().model_dump(mode="json"))
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED


@pytest.mark.fingerprint
async def test_calling_off_while_warehouses_are_asked_wins_over_the_amendment(case: Case) -> None:
    case.script.hold("cancel_pick")
    await released(case)
    await amend(case)
    await case.script.reached["cancel_pick"].wait()
    await case.order.signal("cancel_order", CancelOrder(request_id="c", actor="ana", reason="enough"))
    assert (await applied(case)).code == "called_off"
    case.script.holds["cancel_pick"].set()
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert not asked(case, "capture_payment")
    # Stopped to be planned anew, and then called off: its units are given back all the same.
    assert f"{case.order_id}:1" in {r.shipment_id for r in asked(case, "release_reservation")}


async def test_an_order_goes_on_with_what_is_packed_when_the_rest_cannot_be_supplied(case: Case) -> None:
    await released(case, shipments=2)
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(unfillable=("none on hand",))
    await amend(case)
    await case.until(OrderState.BACKORDERED)

    def three_days_later(memory: OrderMemory) -> None:
        memory.deadlines["backorder"] -= timedelta(days=3)
        memory.fruitless_plans = 2

    await case.in_other_times(three_days_later)
    task = await case.review()
    assert task.kind == "backorder"
    await case.order.execute_update(
        OrderWorkflow.decide_review,
        DecideReview(
            request_id="d", actor="ana", task_id=task.task_id, verdict=Verdict.REJECT, reason="no goods"
        ),
    )
    await case.until(OrderState.RELEASED)
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(2_500)]
    assert "order.rest_dropped" in case.kinds()
    # What it still held for what will not be shipped is given back, and nothing of what is packed.
    assert [r.shipment_id for r in asked(case, "release_reservation")] == [f"{case.order_id}:2"]


async def test_a_run_that_continues_as_new_while_it_waits_for_warehouses_applies_the_amendment(
    case: Case,
) -> None:
    case.script.hold("cancel_pick")
    await released(case)
    await amend(case)
    await case.script.reached["cancel_pick"].wait()
    first = (await case.order.describe()).run_id
    await case.order.signal(OrderWorkflow.renew)

    async def renewed() -> bool:
        return (await case.order.describe()).run_id != first

    await eventually(renewed, "the run to continue as new")
    case.script.holds["cancel_pick"].set()
    assert (await applied(case)).outcome is AmendOutcome.APPLIED
    await case.delivered(2)
    assert (await case.client.get_workflow_handle(case.workflow_id).result())["state"] == "closed"


@pytest.mark.fingerprint
async def test_lost_stock_of_a_released_order_is_planned_from_elsewhere(case: Case) -> None:
    await released(case)
    loss = StockLost(event_id="l1", actor="counter", reason="counted less", shipments=(1,))
    await case.order.signal("stock_lost", loss)
    await case.order.signal("stock_lost", loss)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(asked(case, "reserve_stock")) == 2 and not asked(case, "apply_amendment")
    assert "shipment_cancelled" not in case.told()


async def test_lost_stock_of_an_order_at_gate_b_is_planned_again(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(cost=9_000 if r.attempt == 1 else 600)
    )
    await case.start()
    await case.review()
    await case.order.signal(
        "stock_lost", StockLost(event_id="l1", actor="counter", reason="counted", shipments=(1,))
    )
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(asked(case, "reserve_stock")) == 2 and not asked(case, "release_reservation")


async def packed(case: Case) -> None:
    await released(case)
    await case.picked(1)
    await case.until_shipment("labelled", 1)


async def lose(case: Case) -> None:
    await case.order.signal(
        "stock_lost", StockLost(event_id="l1", actor="counter", reason="counted", shipments=(1,))
    )


@pytest.mark.fingerprint
async def test_a_parcel_whose_goods_are_not_all_there_is_unpacked_and_planned_anew(case: Case) -> None:
    await packed(case)
    await lose(case)
    await case.until_shipment("cancelled", 1)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(asked(case, "void_label")) == len(asked(case, "cancel_pick")) == 1
    # Its units stay the order's until the next plan has reserved.
    assert not asked(case, "release_reservation") and len(asked(case, "reserve_stock")) == 2
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(5_000)]
    assert "shipment_cancelled" not in case.told()


async def test_a_parcel_that_has_left_is_not_unpacked_and_changes_nothing(case: Case) -> None:
    await packed(case)
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.until_shipment("handed_over", 1)
    await lose(case)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert not asked(case, "void_label") and len(asked(case, "reserve_stock")) == 1


async def test_a_parcel_that_leaves_while_it_is_to_be_unpacked_goes_on_and_is_not_called_back(
    case: Case,
) -> None:
    case.script.answers["void_label"] = lambda r: e.Undone(undone=False, reason="the carrier has it")
    await packed(case)
    await lose(case)
    await case.until_shipment("handed_over", 1)
    await case.scanned(CarrierEventKind.COLLECTED, 1)
    await case.scanned(CarrierEventKind.DELIVERED, 1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert not asked(case, "intercept_parcel") and not asked(case, "cancel_pick")
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(5_000)]
    assert len(asked(case, "reserve_stock")) == 1


async def test_calling_the_order_off_while_a_parcel_is_unpacked_calls_it_off(case: Case) -> None:
    unpacking = case.script.hold("void_label")
    await packed(case)
    await lose(case)
    await case.script.reached["void_label"].wait()
    await case.order.signal(
        "cancel_order", CancelOrder(request_id="c", actor="ana", reason="enough").model_dump(mode="json")
    )
    unpacking.set()
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert not asked(case, "capture_payment")
