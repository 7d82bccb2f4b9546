"""Goods that are short are replaced by the policy's substitutes, as an amendment that nobody asked for."""

import pytest
from temporalio.client import WorkflowUpdateStage

from models import effects as e
from models.errors import Problem
from models.messages import AmendOrder, CancelOrder
from models.review import ReviewKind, Verdict
from models.states import OrderState
from tests.workflows.engine import Case
from tests.workflows.scripted import pounds, some_plan
from tests.workflows.test_amend import amendment, asked, memory
from tests.workflows.test_order import decision, flagged
from workflows.order import OrderWorkflow

_ACCEPTED = WorkflowUpdateStage.ACCEPTED

TOLD = "2 × pink instead of red, which is short (policy/1)"


def substitution(attempt: int) -> AmendOrder:
    return AmendOrder(
        request_id=f"substitute:{attempt}",
        actor="orderwright",
        reason=TOLD,
        amendment_id=f"amendment-{attempt + 1}",
        number=attempt + 1,
        total=pounds(5_000),
        told=TOLD,
    )


def short_once(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(unfillable=("red is short",), substitution=substitution(r.attempt))
        if r.attempt == 1
        else e.RouteAnswer(plan=some_plan(first=r.first_number))
    )


@pytest.mark.fingerprint
async def test_what_is_short_is_replaced_and_the_customer_told(case: Case) -> None:
    short_once(case)
    await case.start()
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [a.amendment_id for a in asked(case, "apply_amendment")] == ["amendment-2"]
    # At the same total nothing is held anew, and nobody looks at the order a second time.
    assert [a.amount for a in asked(case, "authorise_payment")] == [pounds(5_000)]
    assert len(asked(case, "assess_order")) == 1
    (told,) = [r.facts for r in asked(case, "notify") if r.template == "order_amended"]
    assert told == {"total": "50.00 GBP", "why": TOLD}
    assert "amend.applied" in case.kinds()


async def test_an_order_that_a_person_has_approved_is_not_asked_about_again(case: Case) -> None:
    flagged(case)
    short_once(case)
    await case.start()
    task = await case.review()
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.APPROVE))
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(case.script.reviews) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"actor": "ana"},
        {"request_id": "cheaper-for-us"},
        {"total": pounds(6_000)},
    ],
)
async def test_whoever_else_says_what_the_customer_is_told_does_not_get_past_the_first_gate(
    case: Case, changes: dict[str, object]
) -> None:
    flagged(case)
    case.script.amended_total = 6_000 if "total" in changes else 5_000
    held = case.script.hold("route_order")
    await case.start()
    task = await case.review()
    await case.order.execute_update(OrderWorkflow.decide_review, decision(task.task_id, Verdict.APPROVE))
    await case.script.reached["route_order"].wait()
    await case.order.signal("amend_order", substitution(1).model_copy(update=changes))
    held.set()
    again = await case.review()
    assert (len(asked(case, "assess_order")), again.kind) == (2, ReviewKind.RISK)
    await case.order.execute_update(
        OrderWorkflow.decide_review, decision(again.task_id, Verdict.APPROVE, "req-2")
    )
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_one_that_is_refused_again_and_again_lets_the_order_wait(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        unfillable=("red is short",), substitution=substitution(r.attempt) if r.substitute else None
    )
    stale = Problem(path="", code="stale_version", message="another document is in force")
    case.script.answers["apply_amendment"] = lambda r: e.AmendmentApplied(refusal=stale)
    await case.start()
    await case.until(OrderState.BACKORDERED)
    assert [r.substitute for r in asked(case, "route_order")] == [True, True, True, False]
    assert len((await memory(case)).amend_answers) == 3
    await case.order.execute_update(
        OrderWorkflow.cancel, CancelOrder(request_id="c", actor="ana", reason="enough")
    )
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert "order_amended" not in case.told()


async def test_what_the_customer_asks_for_meanwhile_comes_first(case: Case) -> None:
    held = case.script.hold("route_order")
    short_once(case)
    await case.start()
    await case.script.reached["route_order"].wait()
    case.script.amended_total = 4_000
    asking = await case.order.start_update(
        "amend_order", amendment(4_000), wait_for_stage=_ACCEPTED, result_type=object
    )
    held.set()
    await asking.result()
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [a.amendment_id for a in asked(case, "apply_amendment")] == ["amendment-2"]
    assert asked(case, "apply_amendment")[0].refused is None
    assert (await memory(case)).amend_answers.keys() == {"amend-2"}


@pytest.mark.fingerprint
async def test_substitutes_for_the_rest_call_no_parcel_of_the_first_part_back(case: Case) -> None:
    """It is not packed yet when the rest is replaced, and goes on all the same."""
    case.script.amended_total = 5_000

    def plan(request: e.RouteOrder) -> e.RouteAnswer:
        if request.attempt == 1:
            ahead = some_plan(total=2_500)
            return e.RouteAnswer(plan=ahead.model_copy(update={"left_out": 2}))
        if request.attempt == 2:
            return e.RouteAnswer(unfillable=("red is short",), substitution=substitution(2))
        return e.RouteAnswer(plan=some_plan(first=request.first_number, total=2_500))

    case.script.answers["route_order"] = plan
    await case.start()
    await case.until_shipment("pick_requested", 1)
    await case.until(OrderState.BACKORDERED)
    await case.order.signal("stock_arrived", {"event_id": "s1", "actor": "warehouse", "reason": "a receipt"})
    await case.until_shipment("pick_requested", 2)
    await case.delivered(1)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert not asked(case, "cancel_pick") and len(asked(case, "request_pick")) == 2
    assert [one.number for one in asked(case, "apply_amendment")[0].kept] == [1]
    assert len(asked(case, "capture_payment")) == 2
