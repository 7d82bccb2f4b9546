"""A run that continues as new forgets nothing: what was asked, what was decided, what is still to be said."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from models import effects as e
from models.messages import CancelOrder, CarrierEventKind, DecideReview, WmsEventKind
from models.plan import PlanLimits
from models.review import Flag, ReviewKind, ReviewTask, Verdict
from models.states import OrderState, ReviewState
from tests.workflows.engine import Case, eventually, told_by
from tests.workflows.scripted import some_plan
from workflows.order import OrderWorkflow


async def renew(handle: WorkflowHandle[Any, Any]) -> None:
    """Let the run continue as new, and wait until the next one has taken over."""
    before = (await handle.describe()).run_id
    await handle.signal("renew")

    async def taken_over() -> bool:
        now = await handle.describe()
        return now.run_id != before and now.status is WorkflowExecutionStatus.RUNNING

    await eventually(taken_over, "the next run")


async def decide(handle: WorkflowHandle[Any, Any], task: ReviewTask, verdict: Verdict) -> None:
    await handle.execute_update(
        OrderWorkflow.decide_review,
        DecideReview(
            request_id=task.task_id, actor="ana", task_id=task.task_id, verdict=verdict, reason="looked at it"
        ),
    )


async def renewed_review(case: Case, number: int = 0) -> tuple[WorkflowHandle[Any, Any], ReviewTask]:
    """The review that was open before and is open still after continue-as-new."""
    handle = case.shipment(number) if number else case.order
    task = await case.review(number)
    await renew(handle)
    after = await case.review(number)
    assert after.task_id == task.task_id, "nobody is asked twice"
    return handle, after


def at_gate_a(case: Case) -> None:
    case.script.answers["assess_order"] = lambda r: e.RiskAssessment(
        decision=e.RiskDecision.REVIEW,
        flags=(Flag(code="value", reason="too much"),),
        policy_version="risk-1",
    )


def at_gate_b(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(cost=4_900))


def with_a_step_that_failed(case: Case) -> None:
    case.script.fail("reserve_stock")


GATES: list[Callable[[Case], None]] = [at_gate_a, at_gate_b, with_a_step_that_failed]


@pytest.mark.parametrize("stopped", GATES)
async def test_an_approval_after_a_renewal_goes_on_where_the_order_stood(
    case: Case, stopped: Callable[[Case], None]
) -> None:
    stopped(case)
    await case.start()
    handle, task = await renewed_review(case)
    await decide(handle, task, Verdict.APPROVE)
    await case.delivered()
    assert (await handle.result()).state is OrderState.CLOSED
    assert len(case.script.reviews) == 1
    for name in ("authorise_payment", "reserve_stock", "capture_payment"):
        assert len({request.key for request in case.script.requests(name, case.order_id)}) == 1, name


@pytest.mark.parametrize(
    ("stopped", "ends"),
    [
        (at_gate_a, OrderState.REJECTED),
        (at_gate_b, OrderState.CANCELLED),
        (with_a_step_that_failed, OrderState.CANCELLED),
    ],
)
async def test_a_rejection_after_a_renewal_undoes_what_the_last_run_did(
    case: Case, stopped: Callable[[Case], None], ends: OrderState
) -> None:
    stopped(case)
    await case.start()
    handle, task = await renewed_review(case)
    await decide(handle, task, Verdict.REJECT)
    assert (await handle.result()).state is ends
    names = case.script.names(case.order_id)
    assert ("authorise_payment" in names) == ("void_authorisation" in names)
    assert ("reserve_stock" in names) == ("release_reservation" in names)


async def test_a_back_ordered_order_goes_on_waiting_and_hears_its_cancellation(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(unfillable=("none anywhere",))
    order = await case.start()
    await case.until(OrderState.BACKORDERED)
    until = (await told_by(order, OrderWorkflow.snapshot)).deadlines["backorder"]
    await renew(order)
    assert (await told_by(order, OrderWorkflow.snapshot)).deadlines["backorder"] == until
    await case.skip(timedelta(days=1, minutes=1))
    await case.skip(timedelta(days=1, minutes=1))
    handle, task = await renewed_review(case)
    assert len(case.script.requests("route_order", case.order_id)) == 3
    await decide(handle, task, Verdict.REJECT)
    assert (await handle.result()).state is OrderState.CANCELLED
    assert len(case.script.requests("route_order", case.order_id)) == 3


async def test_a_pick_that_is_asked_for_again_after_a_renewal_is_called_off_first(case: Case) -> None:
    await case.start()
    await case.picked(kind=WmsEventKind.SHORT)
    handle, task = await renewed_review(case, 1)
    await decide(handle, task, Verdict.APPROVE)

    async def asked_again() -> bool:
        return len(case.script.requests("request_pick", case.order_id)) == 2

    await eventually(asked_again, "the second pick")
    names = case.script.names(case.order_id)
    first, second = [i for i, name in enumerate(names) if name == "request_pick"]
    assert first < names.index("cancel_pick") < second


async def test_a_label_refused_before_a_renewal_is_not_bought_after_a_rejection(case: Case) -> None:
    case.script.answers["buy_label"] = lambda r: e.Label(accepted=False, reason="does not go there")
    await case.start()
    await case.picked()
    handle, task = await renewed_review(case, 1)
    case.script.answers["buy_label"] = lambda r: e.Label(accepted=True, label_id="l", tracking="T")
    await decide(handle, task, Verdict.REJECT)
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert len(case.script.requests("buy_label", case.order_id)) == 1


async def test_a_parcel_given_up_after_a_renewal_is_paid_back_once(case: Case) -> None:
    await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.LOST)
    handle, task = await renewed_review(case, 1)
    await decide(handle, task, Verdict.APPROVE)
    assert (await case.order.result()).state is OrderState.COMPENSATED
    assert len(case.script.requests("refund_payment", case.order_id)) == 1


async def test_a_refund_under_way_is_finished_though_the_parcel_turns_up(case: Case) -> None:
    await case.start()
    await case.handed_over()
    await case.scanned(CarrierEventKind.LOST)
    case.script.fail("refund_payment")
    lost = await case.review(1)
    await decide(case.shipment(), lost, Verdict.APPROVE)

    async def failed() -> bool:
        task = await told_by(case.shipment(), OrderWorkflow.pending_review)
        return task is not None and task.task_id != lost.task_id

    await eventually(failed, "the refund to fail")
    handle, task = await renewed_review(case, 1)
    await case.scanned(CarrierEventKind.DELIVERED)
    await decide(handle, task, Verdict.APPROVE)
    assert (await case.order.result()).state is OrderState.COMPENSATED
    assert len({request.key for request in case.script.requests("refund_payment", case.order_id)}) == 1


async def test_the_document_of_a_foreign_start_is_kept_until_it_was_read(case: Case) -> None:
    case.script.fail("validate_order")
    await case.start(draft={"anything": "at all"})
    handle, task = await renewed_review(case)
    await decide(handle, task, Verdict.APPROVE)
    await case.delivered()
    assert (await handle.result()).state is OrderState.CLOSED
    assert [request.draft for request in case.script.requests("validate_order", case.order_id)] == [
        {"anything": "at all"},
        {"anything": "at all"},
    ]


async def test_a_compensation_by_hand_after_a_renewal_is_not_tried_again(case: Case) -> None:
    case.script.fail("void_authorisation", times=1)
    held = case.script.hold("reserve_stock")
    order = await case.start()
    await case.script.reached["reserve_stock"].wait()
    await order.execute_update(OrderWorkflow.cancel, CancelOrder(request_id="c", actor="a", reason="r"))
    held.set()
    handle, task = await renewed_review(case)
    await decide(handle, task, Verdict.FINISH)
    assert (await handle.result()).state is OrderState.CANCELLED
    asked = [request.by_hand for request in case.script.requests("void_authorisation", case.order_id)]
    assert asked == [False, True], "the provider is not asked again, our books are told"


async def test_a_shipment_waiting_for_its_carrier_keeps_its_deadlines(case: Case) -> None:
    await case.start()
    await case.handed_over()
    shipment = case.shipment()

    async def deadlines() -> dict[str, Any]:
        return dict((await told_by(shipment, "snapshot"))["deadlines"])

    async def follows() -> bool:
        return "lost" in await deadlines()

    await eventually(follows, "the deadlines")
    before = await deadlines()
    await renew(shipment)
    await renew(case.order)
    assert await deadlines() == before
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_a_message_that_was_on_its_way_is_sent_under_the_same_key_whichever_run_sends_it(
    case: Case,
) -> None:
    held = case.script.hold("notify")
    await case.start()
    await case.script.reached["notify"].wait()
    before = (await case.order.describe()).run_id
    await case.order.signal("renew")
    held.set()

    async def taken_over() -> bool:
        return (await case.order.describe()).run_id != before

    await eventually(taken_over, "the next run")
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    messages = {
        request.key: str(request.template) for request in case.script.requests("notify", case.order_id)
    }
    assert sorted(messages.values()) == ["order_confirmed", "shipped"]


async def test_a_renewal_while_an_order_is_being_rejected_lets_it_end_and_say_so(case: Case) -> None:
    case.script.answers["authorise_payment"] = lambda r: e.Authorisation(
        approved=False, decline_is_final=True, decline_code="card_declined", amount=r.amount
    )
    held = case.script.hold("authorise_payment")
    order = await case.start()
    await case.script.reached["authorise_payment"].wait()
    await order.signal("renew")
    held.set()
    assert (await order.result()).state is OrderState.REJECTED
    assert case.told() == ["order_rejected"]


async def test_a_review_names_the_policy_whose_limits_were_passed(case: Case) -> None:
    limits = PlanLimits(policy="policy/7", max_shipments=0, max_cost_percent=60, cost_floor_minor=2_000)
    plan = some_plan().model_copy(update={"limits": limits})
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=plan)
    await case.start()
    order, task = await renewed_review(case)
    assert (task.kind, task.policy_version) == (ReviewKind.PLAN, "policy/7")
    await decide(order, task, Verdict.APPROVE)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    about = [entry for entry in case.script.entries.values() if entry.kind.startswith("review.")]
    assert [(entry.kind, entry.policy_version) for entry in about] == [
        ("review.opened", "policy/7"),
        ("review.decided", "policy/7"),
    ]
    assert {task.policy_version for task in case.script.reviews.values()} == {"policy/7"}


async def test_a_review_waits_as_long_as_the_policy_had_it_when_it_was_asked(case: Case) -> None:
    at_gate_b(case)
    hours = iter((1, 9))

    def written(request: e.RecordProgress) -> e.Recorded:
        asked = [one for one in request.carried.reviews if one.kind is ReviewKind.PLAN and not one.reminders]
        if not asked or asked[-1].state is not ReviewState.OPEN:
            return e.Recorded()
        every = timedelta(hours=next(hours))
        return e.Recorded(
            patience=e.Patience(task_id=asked[-1].task_id, remind_after=every, escalate_after=2.5 * every)
        )

    case.script.answers["record_progress"] = written
    await case.start()
    order, task = await renewed_review(case)
    assert task.remind_at == task.opened_at + timedelta(hours=1) and task.deadline_at is not None
    assert task.deadline_at == task.opened_at + timedelta(hours=24)
    # Twice reminded, and escalated after two hours and a half.
    await case.skip(timedelta(hours=2, minutes=45))

    async def escalated() -> bool:
        return (await case.review()).escalated

    await eventually(escalated, "the review to be escalated")
    assert (await case.review()).reminders == 2
    await decide(order, task, Verdict.APPROVE)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert case.told().count("review_reminder") == 2
