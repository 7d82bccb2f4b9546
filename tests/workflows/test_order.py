from datetime import timedelta

import pytest
from temporalio.client import WorkflowUpdateFailedError

from models import effects as e
from models.clock import ClockStart
from models.errors import Problem
from models.messages import (
    CancelOrder,
    CancelOutcome,
    CarrierEventKind,
    DecideReview,
    FailureResolution,
    ResolveFailure,
    SignalledDecision,
    StockArrived,
    WmsEventKind,
)
from models.review import Flag, ReviewKind, Verdict
from models.runs import OrderResult, OrderRun
from models.states import OrderState
from tests.workflows.engine import Case, eventually, told_by
from tests.workflows.scripted import pounds, some_facts, some_plan
from workflows import steps
from workflows.order import OrderWorkflow


def flagged(case: Case) -> None:
    case.script.answers["assess_order"] = lambda r: e.RiskAssessment(
        decision=e.RiskDecision.REVIEW,
        flags=(Flag(code="high_value", reason="too much"),),
        policy_version="risk-1",
    )


def decision(task_id: str, verdict: Verdict = Verdict.APPROVE, request_id: str = "req-1") -> DecideReview:
    return DecideReview(
        request_id=request_id, actor="ana", task_id=task_id, verdict=verdict, reason="checked"
    )


@pytest.mark.fingerprint
async def test_a_happy_order_runs_twelve_steps_and_closes(case: Case) -> None:
    order = await case.start()
    await case.delivered()
    result = await order.result()
    assert result.state is OrderState.CLOSED
    # The order's run and the shipment's go on side by side, so only the set of steps is fixed.
    assert sorted(name for name, _ in case.script.calls) == sorted(
        [
            "validate_order",
            "assess_order",
            "authorise_payment",
            "route_order",
            "reserve_stock",
            "notify",
            "request_pick",
            "buy_label",
            "capture_payment",
            "notify",
            "record_progress",
            "settle_order",
        ]
    )
    assert case.told() == ["order_confirmed", "shipped"]
    assert case.script.orders[case.order_id].state is OrderState.CLOSED


async def test_every_state_of_a_happy_order_reaches_the_timeline_once(case: Case) -> None:
    order = await case.start()
    await case.delivered()
    await order.result()
    states = [kind for kind in case.kinds() if kind.startswith("order.") and kind not in _NOT_STATES]
    assert states == [
        f"order.{s}"
        for s in [
            "validating",
            "assessing",
            "authorising",
            "routing",
            "reserving",
            "released",
            "shipped",
            "delivered",
            "closed",
        ]
    ]


_HAPPY_STATES = (
    "validating",
    "assessing",
    "authorising",
    "routing",
    "reserving",
    "released",
    "shipped",
    "delivered",
    "closed",
)
_NOT_STATES = {"order.validated", "order.assessed", "order.routed"}


async def test_a_document_with_problems_is_rejected_with_all_of_them(case: Case) -> None:
    case.script.answers["validate_order"] = lambda r: e.Validation(
        problems=(
            Problem(path="currency", code="x", message="unknown currency"),
            Problem(path="totals", code="y", message="does not add up"),
        )
    )
    order = await case.start(draft={"channel": "web"})
    assert (await order.result()).state is OrderState.REJECTED
    rejected = next(entry for entry in case.script.entries.values() if entry.kind == "order.rejected")
    assert "unknown currency" in (rejected.why or "") and "does not add up" in (rejected.why or "")


async def test_gate_a_holds_nothing_until_a_person_approves(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    await case.until(OrderState.IN_REVIEW)
    assert "authorise_payment" not in case.script.names(case.order_id)
    answer = await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    assert answer.verdict is Verdict.APPROVE
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    closed = case.script.reviews[task.task_id]
    assert (closed.state, closed.decided_by, closed.reason) == ("decided", "ana", "checked")


async def test_gate_a_asks_what_the_assessment_advises(case: Case) -> None:
    flagged(case)
    found = case.script.answers["assess_order"]
    case.script.answers["assess_order"] = lambda r: found(r).model_copy(
        update={"recommended": Verdict.REJECT, "recommendation": "Find out which price was agreed."}
    )
    await case.start()
    task = await case.review()
    assert (task.recommended, task.recommendation) == (Verdict.REJECT, "Find out which price was agreed.")
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    assert (await case.order.result()).state is OrderState.REJECTED


async def test_gate_a_rejection_tells_the_customer_and_holds_nothing(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    assert (await order.result()).state is OrderState.REJECTED
    assert case.told() == ["order_rejected"]
    assert "authorise_payment" not in case.script.names(case.order_id)


async def test_approve_signal_from_any_client_decides_like_the_update(case: Case) -> None:
    flagged(case)
    order = await case.start()
    await case.review()
    await order.signal("approve", {"actor": "ben", "reason": "known customer"})
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED


async def test_a_malformed_or_unknown_signal_is_noted_and_harms_nothing(case: Case) -> None:
    flagged(case)
    order = await case.start()
    await case.review()
    await order.signal("approve", ["nonsense"])
    await order.signal("approve")
    await order.signal("cancel_order", {"actor": ""})
    await order.signal("payment_event", 7)
    await order.signal("reject", SignalledDecision(actor="cy", reason="no", task_id="another:r1"))
    await order.signal("no_such_signal", {"a": 1})
    await order.signal("approve", {"actor": "ben", "reason": "fine"})
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.kinds().count("signal.refused") == 5
    assert case.kinds().count("signal.unknown") == 1


async def test_the_same_request_gets_the_same_answer_and_another_is_refused_as_stale(case: Case) -> None:
    flagged(case)
    held = case.script.hold("authorise_payment")
    order = await case.start()
    task = await case.review()
    first = await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    again = await order.execute_update(
        OrderWorkflow.decide_review, decision(task.task_id), id="another-update"
    )
    assert first == again
    with pytest.raises(WorkflowUpdateFailedError):
        await order.execute_update(
            OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT, request_id="req-2")
        )
    held.set()
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED


async def test_a_review_is_reminded_escalated_and_decided_by_policy_at_its_deadline(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    await case.skip(timedelta(hours=49))
    assert (await order.result()).state is OrderState.REJECTED
    assert "review_reminder" in case.told() and "review_escalated" in case.told()
    assert case.script.reviews[task.task_id].state == "expired"


async def test_a_declined_payment_rejects_the_order_and_reserves_nothing(case: Case) -> None:
    case.script.answers["authorise_payment"] = lambda r: e.Authorisation(
        approved=False, amount=r.amount, decline_code="do_not_honour", decline_is_final=True
    )
    order = await case.start()
    assert (await order.result()).state is OrderState.REJECTED
    assert "route_order" not in case.script.names(case.order_id)
    assert case.told() == ["order_rejected"]


async def test_cancel_before_release_undoes_in_reverse_order(case: Case) -> None:
    held = case.script.hold("reserve_stock")
    order = await case.start()
    await case.script.reached["reserve_stock"].wait()
    answer = await order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c1", actor="ana", reason="changed my mind")
    )
    assert answer.outcome is CancelOutcome.CANCELLING
    held.set()
    assert (await order.result()).state is OrderState.CANCELLED
    names = case.script.names(case.order_id)
    assert (
        names.index("release_reservation") < names.index("void_authorisation") < names.index("settle_order")
    )
    assert case.told() == ["order_cancelled"]


async def test_cancelling_the_run_in_temporal_compensates_like_a_cancel(case: Case) -> None:
    flagged(case)
    order = await case.start()
    await case.review()
    await order.cancel()
    assert (await order.result()).state is OrderState.CANCELLED


async def test_cancel_withdraws_the_open_review(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c1", actor="a", reason="r"))
    assert (await order.result()).state is OrderState.CANCELLED
    assert case.script.reviews[task.task_id].state == "withdrawn"


async def test_cancel_after_release_calls_the_shipments_off_and_frees_everything(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.until(OrderState.RELEASED)
    answer = await order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c1", actor="a", reason="r")
    )
    assert answer.outcome is CancelOutcome.CANCELLING
    assert (await order.result()).state is OrderState.CANCELLED
    names = case.script.names(case.order_id)
    assert "cancel_pick" in names and "void_authorisation" in names
    assert "capture_payment" not in names


async def test_cancel_with_one_parcel_gone_calls_off_the_rest_and_closes(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(shipments=2))
    order = await case.start()
    await case.handed_over(1)
    await case.until(OrderState.PARTIALLY_SHIPPED)
    wish = CancelOrder(request_id="c1", actor="a", reason="r")
    await order.execute_update(OrderWorkflow.cancel, wish)
    await case.until_recalled()
    await case.until_shipment("cancelled", 2)
    answer = await order.execute_update(OrderWorkflow.cancel, wish)
    assert answer.outcome is CancelOutcome.PARTLY
    assert "shipment 1: the carrier brings it back" in answer.message
    assert "shipment 2: it is called off" in answer.message
    await case.scanned(CarrierEventKind.RETURNED)
    result = await order.result()
    assert result.state is OrderState.COMPENSATED
    assert len(case.script.requests("capture_payment", case.order_id)) == 1
    assert len(case.script.requests("refund_payment", case.order_id)) == 1


async def test_a_failed_step_goes_to_an_operator_and_is_tried_again_under_the_same_key(case: Case) -> None:
    case.script.fail("authorise_payment", "provider says no such merchant")
    order = await case.start()
    task = await case.review()
    await case.until(OrderState.NEEDS_OPERATOR)
    assert "no such merchant" in task.why_flagged[0].reason
    await order.execute_update(
        OrderWorkflow.resolve_failure,
        ResolveFailure(
            request_id="x",
            actor="op",
            task_id=task.task_id,
            resolution=FailureResolution.RETRY,
            reason="mended",
        ),
    )
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert len({request.key for request in case.script.requests("authorise_payment", case.order_id)}) == 1


async def test_giving_up_a_failed_step_compensates(case: Case) -> None:
    case.script.fail("route_order", times=99)
    order = await case.start()
    task = await case.review()
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    assert (await order.result()).state is OrderState.CANCELLED
    assert "void_authorisation" in case.script.names(case.order_id)


@pytest.mark.fingerprint
async def test_a_compensation_that_fails_is_put_before_an_operator_and_never_dropped(case: Case) -> None:
    case.script.fail("void_authorisation")
    held = case.script.hold("route_order")
    order = await case.start()
    await case.script.reached["route_order"].wait()
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c1", actor="a", reason="r"))
    held.set()
    task = await case.review()
    assert task.kind == "compensation_failed"
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    assert (await order.result()).state is OrderState.CANCELLED
    assert case.script.names(case.order_id).count("void_authorisation") == 2


@pytest.mark.fingerprint
async def test_a_step_that_was_done_by_hand_is_not_done_again(case: Case) -> None:
    case.script.fail("authorise_payment", times=1)
    order = await case.start()
    task = await case.review()
    assert "authorisation_id" in task.options[Verdict.FINISH]

    def finishing(request_id: str, answer: dict[str, object] | None) -> ResolveFailure:
        return ResolveFailure(
            request_id=request_id,
            actor="ana",
            task_id=task.task_id,
            resolution=FailureResolution.FINISH,
            reason="called the provider",
            answer=answer,
        )

    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await order.execute_update(OrderWorkflow.resolve_failure, finishing("f1", {"approved": "perhaps"}))
    assert "does not fit" in str(refused.value.cause)
    with pytest.raises(WorkflowUpdateFailedError):
        await order.execute_update(OrderWorkflow.resolve_failure, finishing("f2", None))
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await order.execute_update(
            OrderWorkflow.resolve_failure,
            finishing("f2b", {"approved": True, "amount": {"minor": 5_000, "currency": "GBP"}}),
        )
    assert "lacks authorisation_id" in str(refused.value.cause)
    by_hand = {
        "approved": True,
        "authorisation_id": "by-phone",
        "amount": {"minor": 5_000, "currency": "GBP"},
    }
    await order.execute_update(OrderWorkflow.resolve_failure, finishing("f3", by_hand))
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    first, second = case.script.requests("authorise_payment", case.order_id)
    assert (first.by_hand, second.by_hand, first.key) == (None, by_hand, second.key)
    assert {r.by_hand for r in case.script.requests("capture_payment", case.order_id)} == {None}


async def test_books_that_do_not_balance_can_be_closed_as_they_are_by_a_person(case: Case) -> None:
    case.script.answers["settle_order"] = lambda r: e.Settlement(
        balanced=r.accepted,
        captured=pounds(4_900),
        refunded=pounds(0),
        voided=pounds(0),
        explanation="1.00 short",
    )
    order = await case.start()
    await case.delivered()
    task = await case.review()
    assert task.kind is ReviewKind.SETTLEMENT
    await order.execute_update(
        OrderWorkflow.resolve_failure,
        ResolveFailure(
            request_id="s",
            actor="ana",
            task_id=task.task_id,
            resolution=FailureResolution.SKIP,
            reason="written off",
        ),
    )
    assert (await order.result()).state is OrderState.CLOSED
    assert case.script.reviews[task.task_id].verdict is Verdict.FINISH


async def test_a_settlement_that_cannot_be_done_can_be_finished_by_a_signal(case: Case) -> None:
    case.script.fail("settle_order")
    order = await case.start()
    await case.delivered()
    task = await case.review()
    await order.signal("finish", {"actor": "ana", "reason": "the provider is gone", "task_id": task.task_id})
    assert (await order.result()).state is OrderState.CLOSED
    assert [r.accepted for r in case.script.requests("settle_order", case.order_id)] == [False, True]


async def test_a_compensation_can_be_skipped_with_a_reason(case: Case) -> None:
    case.script.fail("void_authorisation")
    held = case.script.hold("route_order")
    order = await case.start()
    await case.script.reached["route_order"].wait()
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c1", actor="a", reason="r"))
    held.set()
    task = await case.review()
    await order.execute_update(
        OrderWorkflow.resolve_failure,
        ResolveFailure(
            request_id="s",
            actor="ana",
            task_id=task.task_id,
            resolution=FailureResolution.SKIP,
            reason="the hold has run out",
        ),
    )
    assert (await order.result()).state is OrderState.CANCELLED
    (asked,) = case.script.requests("void_authorisation", case.order_id)
    assert not asked.by_hand, "nobody said that it was undone, so our books are not told so"
    assert "undo.skipped" in case.kinds()


async def test_stock_that_went_meanwhile_is_routed_again(case: Case) -> None:
    short = e.Reservation(
        reserved=False, shortages=(e.Shortage(node="n", sku="s", requested=2, available=1),)
    )
    answers = [short, e.Reservation(reserved=True)]
    case.script.answers["reserve_stock"] = lambda r: answers.pop(0)
    order = await case.start()
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert [r.attempt for r in case.script.requests("route_order", case.order_id)] == [1, 2]
    assert len({r.key for r in case.script.requests("reserve_stock", case.order_id)}) == 2


async def test_stock_that_others_take_three_times_is_waited_for(case: Case) -> None:
    short = e.Reservation(
        reserved=False, shortages=(e.Shortage(node="n", sku="s", requested=2, available=1),)
    )
    answers = [short, short, short, e.Reservation(reserved=True)]
    case.script.answers["reserve_stock"] = lambda r: answers.pop(0)
    order = await case.start(clock=ClockStart(speed=86_400))
    await case.until(OrderState.BACKORDERED)
    await case.delivered()  # a day lasts five seconds here, the floor of that wait
    assert (await order.result()).state is OrderState.CLOSED
    assert not case.script.reviews
    assert "order.backordered" in case.kinds()


async def test_an_order_called_off_before_it_was_read_is_closed_in_the_store_and_its_sender_told(
    case: Case,
) -> None:
    order = await case.client.start_workflow(
        "OrderWorkflow",
        OrderRun(order_id=case.order_id),
        id=case.workflow_id,
        task_queue=steps.WORKFLOWS,
        result_type=OrderResult,
        start_signal="cancel_order",
        start_signal_args=[CancelOrder(request_id="c", actor="ana", reason="a mistake")],
    )
    assert (await order.result()).state is OrderState.CANCELLED
    assert case.script.names(case.order_id) == ["validate_order", "settle_order", "notify"]
    assert case.told() == ["order_cancelled"]
    assert case.script.orders[case.order_id].state is OrderState.CANCELLED


async def test_an_order_that_cannot_be_read_can_be_given_up(case: Case) -> None:
    case.script.fail("validate_order", times=2)
    order = await case.start()
    task = await case.review()
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    assert (await order.result()).state is OrderState.CANCELLED


async def test_cancelling_the_run_in_temporal_is_refused_like_any_other_when_it_is_too_late(
    case: Case,
) -> None:
    closing = case.script.hold("settle_order")
    order = await case.start()
    await case.delivered()
    await case.script.reached["settle_order"].wait()
    await order.cancel()

    async def refused() -> bool:
        return "cancel.refused" in [entry.kind for entry in await told_by(order, OrderWorkflow.timeline)]

    await eventually(refused, "the refusal on the timeline")
    closing.set()
    assert (await order.result()).state is OrderState.CLOSED
    assert "cancel.refused" in case.kinds()


async def test_a_shipment_whose_run_was_ended_from_outside_is_noticed(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.until(OrderState.RELEASED)
    await case.shipment().terminate("by mistake")
    await case.skip(timedelta(days=7, hours=1))
    task = await case.review()
    assert f"shipment:{case.order_id}:1" in task.what_happened
    assert (await told_by(order, OrderWorkflow.snapshot)).state is OrderState.NEEDS_OPERATOR
    await order.terminate()


async def test_a_shipment_that_answers_the_roll_call_bothers_nobody(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await case.until(OrderState.RELEASED)
    # Time cannot be skipped here while a shipment runs: let the next run of the order find that a week has passed.
    memory = await told_by(order, OrderWorkflow.snapshot)
    memory.deadlines["shipments"] = memory.deadlines["shipments"] - timedelta(days=8)
    await order.terminate()
    order = await case.resume(memory)

    async def answered() -> bool:
        calls = (await told_by(case.shipment(), "snapshot"))["roll_calls"]
        return calls == 1 and not (await told_by(order, OrderWorkflow.snapshot)).silent

    await eventually(answered, "the answer to the roll call")
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert not case.script.reviews


async def test_an_order_that_waits_for_goods_looks_again_when_they_arrive_and_asks_nobody_sooner(
    case: Case,
) -> None:
    answers = [e.RouteAnswer(unfillable=("no node holds any",))] * 4 + [e.RouteAnswer(plan=some_plan())]
    case.script.answers["route_order"] = lambda r: answers.pop(0)

    async def asked(left: int) -> None:
        async def so() -> bool:
            return len(answers) == left

        await eventually(so, f"the plan to be asked for until {left} answers are left")
        await case.until(OrderState.BACKORDERED)

    order = await case.start()
    for number in (1, 2, 3):
        await asked(5 - number)
        arrival = StockArrived(event_id=f"stock-arrived-{number}", actor="warehouse", reason="A at north")
        await order.signal("stock_arrived", arrival)
        await order.signal("stock_arrived", arrival)
        await order.signal("stock_arrived", {"nonsense": 1})
    await asked(1)
    assert not case.script.reviews
    await order.signal("stock_arrived", StockArrived(event_id="last", actor="warehouse", reason="A at north"))
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.kinds().count("stock.arrived") == 4


@pytest.mark.fingerprint
async def test_an_unfillable_order_is_back_ordered_then_reviewed_then_cancelled(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(unfillable=("no node holds any",))
    order = await case.start()
    await case.until(OrderState.BACKORDERED)
    await case.skip(timedelta(days=3))
    task = await case.review()
    assert task.kind == "backorder"
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    assert (await order.result()).state is OrderState.CANCELLED
    assert len(case.script.requests("route_order", case.order_id)) == 3


async def test_gate_b_reviews_a_plan_that_costs_too_much(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(cost=4_900))
    order = await case.start()
    task = await case.review()
    assert task.kind == "plan" and task.why_flagged[0].code == "thin_margin"
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED


async def test_money_that_does_not_add_up_waits_for_an_operator_and_does_not_close(case: Case) -> None:
    answers = [
        e.Settlement(
            balanced=False,
            captured=pounds(1),
            refunded=pounds(0),
            voided=pounds(0),
            explanation="a penny is missing",
        )
    ]
    usual = case.script.answers["settle_order"]
    case.script.answers["settle_order"] = lambda r: answers.pop(0) if answers else usual(r)
    order = await case.start()
    await case.delivered()
    task = await case.review()
    assert task.kind == "settlement" and "order.closed" not in case.kinds()
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    assert (await order.result()).state is OrderState.CLOSED


async def test_the_business_clock_stands_still_while_a_person_decides(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    await case.skip(timedelta(hours=3))
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    await case.script.reached["route_order"].wait()
    memory = await told_by(order, OrderWorkflow.snapshot)
    assert memory.clock is not None and memory.clock.paused >= timedelta(hours=3)
    await case.delivered()
    await order.result()


async def test_a_message_that_cannot_be_sent_does_not_hold_up_the_order(case: Case) -> None:
    case.script.fail("notify", "no such gateway", times=99)
    order = await case.start()
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert "notify.failed" in case.kinds()


async def test_high_value_facts_reach_the_search_attributes(case: Case) -> None:
    case.script.answers["validate_order"] = lambda r: e.Validation(
        facts=some_facts(r.order_id, total=123_456)
    )
    flagged(case)
    order = await case.start()
    await case.review()
    description = await order.describe()
    attributes = {pair.key.name: pair.value for pair in description.typed_search_attributes}
    assert attributes["OwTotalMinor"] == 123_456
    assert attributes["OwState"] == "in_review" and attributes["OwNeedsReview"] is True
    await order.terminate()


async def test_a_gateway_that_is_away_holds_up_neither_a_cancellation_nor_its_parcels(case: Case) -> None:
    held = case.script.hold("notify")
    order = await case.start()
    await case.script.reached["notify"].wait()
    await case.until(OrderState.RELEASED)
    await case.until_shipment("pick_requested")
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    await case.until(OrderState.CANCELLED)
    assert case.script.orders[case.order_id].state is OrderState.CANCELLED
    held.set()
    await order.result()
    assert case.told() == ["order_confirmed", "order_cancelled"]


async def test_a_message_that_is_answered_after_all_was_written_does_not_stop_the_order(case: Case) -> None:
    held = case.script.hold("notify")
    order = await case.start()
    await case.script.reached["notify"].wait()
    await case.picked(kind=WmsEventKind.SHORT)
    await case.review(1)
    await case.skip(timedelta(seconds=10))

    async def written_without_the_message() -> bool:
        return any(
            name == "record_progress" and request.carried.order is not None
            for name, request in case.script.calls
        )

    await eventually(written_without_the_message, "the order's row to be written beside the message")
    held.set()

    async def answered() -> bool:
        return not (await told_by(order, OrderWorkflow.snapshot)).unsent

    await eventually(answered, "the message to be answered")
    await case.skip(timedelta(seconds=10))

    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    assert (await order.result()).state is OrderState.CANCELLED


async def test_a_store_that_refuses_to_write_is_asked_again_and_the_order_goes_on(case: Case) -> None:
    flagged(case)
    case.script.fail("record_progress", times=2)
    order = await case.start()
    task = await case.review()
    await case.skip(timedelta(minutes=3))

    async def written() -> bool:
        return task.task_id in case.script.reviews

    await eventually(written, "the review to be written")
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED


async def test_a_signal_that_names_no_task_is_taken_for_the_first_review_only(case: Case) -> None:
    flagged(case)
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(cost=4_900))
    order = await case.start()
    first = await case.review()
    await order.signal("approve", {"actor": "ana", "reason": "checked"})

    async def asked_again() -> bool:
        return (await case.review()).task_id != first.task_id

    await eventually(asked_again, "gate B")
    second = await case.review()
    await order.signal("approve", {"actor": "bob", "reason": "checked"})
    await order.signal("approve", {"actor": "bob", "task_id": first.task_id, "reason": "checked"})
    assert (await case.review()).task_id == second.task_id
    await order.signal("approve", {"actor": "bob", "task_id": second.task_id, "reason": "checked"})
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.kinds().count("signal.refused") == 2


async def test_a_repeated_cancel_gets_the_same_answer(case: Case) -> None:
    case.script.hold("void_authorisation")
    case.script.hold("reserve_stock")
    order = await case.start()
    await case.script.reached["reserve_stock"].wait()
    request = CancelOrder(request_id="c", actor="a", reason="r")
    first = await order.execute_update(OrderWorkflow.cancel, request)
    again = await order.execute_update(OrderWorkflow.cancel, request)
    other = await order.execute_update(OrderWorkflow.cancel, request.model_copy(update={"request_id": "d"}))
    assert first == again and first.outcome == "cancelling" and other.outcome == "already"
    for held in case.script.holds.values():
        held.set()
    await order.result()
    asked = next(entry for entry in case.script.entries.values() if entry.kind == "cancel.requested")
    assert asked.details["request_id"] == "c"


async def test_the_customer_is_not_told_our_rules(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.REJECT))
    await order.result()
    (message,) = case.script.requests("notify", case.order_id)
    assert message.facts == {"reason": "the order could not be accepted"}
    assert "not approved at gate A" in (case.script.orders[case.order_id].exit_reason or "")


async def test_books_that_are_closed_at_the_second_try_are_closed_in_the_store_too(case: Case) -> None:
    case.script.fail("settle_order")
    order = await case.start()
    await case.delivered()
    task = await case.review()
    assert task.kind is ReviewKind.STEP_FAILED
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    assert (await order.result()).state is OrderState.CLOSED
    row = case.script.orders[case.order_id]
    assert (row.state, row.needs_review) == (OrderState.CLOSED, False)


async def test_a_signal_without_a_payload_or_with_too_many_harms_nothing(case: Case) -> None:
    flagged(case)
    order = await case.start()
    task = await case.review()
    for name in ("approve", "reject", "cancel_order", "payment_event", "shipment_progress"):
        await order.signal(name)
        await order.signal(name, args=[{"nonsense": 1}, "and more"])
    await order.signal("renew", args=[1, 2])
    again = await case.review()
    assert again.task_id == task.task_id
    await order.execute_update(OrderWorkflow.decide_review, decision(task.task_id))
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.kinds().count("signal.refused") == 10


async def test_a_request_id_that_was_another_decision_is_refused(case: Case) -> None:
    flagged(case)
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(cost=4_900))
    order = await case.start()
    first = await case.review()
    await order.execute_update(OrderWorkflow.decide_review, decision(first.task_id), id="u1")

    async def asked_again() -> bool:
        return (await case.review()).task_id != first.task_id

    await eventually(asked_again, "gate B")
    second = await case.review()
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await order.execute_update(OrderWorkflow.decide_review, decision(second.task_id), id="u2")
    assert "another decision" in str(refused.value.cause)
    assert (await case.review()).task_id == second.task_id


async def test_an_order_without_a_plan_and_without_a_reason_is_back_ordered_too(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer()
    order = await case.start()
    await case.until(OrderState.BACKORDERED)
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    assert (await order.result()).state is OrderState.CANCELLED
    assert len(case.script.requests("route_order", case.order_id)) == 1


async def test_units_that_were_not_in_the_parcel_are_paid_back_before_the_books_are_closed(
    case: Case,
) -> None:
    usual = case.script.answers["settle_order"]
    short = e.ShortParcel(
        shipment_id=f"{case.order_id}:1", number=1, units=1, capture_id="cap-1", amount=pounds(700)
    )
    case.script.answers["settle_order"] = lambda r: usual(r).model_copy(
        update={}
        if case.script.requests("refund_payment", case.order_id)
        else {"balanced": False, "short": (short,)}
    )
    order = await case.start()
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    (refund,) = case.script.requests("refund_payment", case.order_id)
    assert (refund.capture_id, refund.amount, refund.cause) == ("cap-1", pounds(700), "short_parcel")
    told = [r.facts for r in case.script.requests("notify", case.order_id) if r.template == "refunded"]
    assert [facts["shipment"] for facts in told] == ["1"]
    assert "review.opened" not in case.kinds()
