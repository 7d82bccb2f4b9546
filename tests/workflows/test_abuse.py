"""What anybody with access to the engine can do to a run: each ends in a clear state, and none keeps it from its work.

What becomes of a run that was ended from outside, and how it is found, is tested in tests/apps/test_invariants.py.
"""

from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from models import effects as e
from models.errors import Problem
from models.states import OrderState
from tests.workflows.engine import Case, eventually
from tests.workflows.scripted import Script
from workflows import steps
from workflows.order import OrderWorkflow

THREE_MB = "x" * 3_000_000
# The server takes payloads of up to 2 MB.
JUST_TAKEN = "x" * 1_900_000


async def goes_on(case: Case) -> None:
    """Whatever was done to it: the order hears what follows, and closes."""
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED


async def refused(call: Any) -> RPCError:
    with pytest.raises(RPCError) as caught:
        await call
    return caught.value


async def test_three_megabytes_are_refused_by_the_server_wherever_they_are_sent(
    case: Case, client: Client
) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    cancel = {"request_id": "c", "actor": "a", "reason": THREE_MB}
    for call in (
        order.signal("cancel_order", cancel),
        client.start_workflow(
            "OrderWorkflow", {"draft": THREE_MB}, id=f"order:web:{uuid4().hex}", task_queue=steps.WORKFLOWS
        ),
    ):
        assert (await refused(call)).status is RPCStatusCode.INVALID_ARGUMENT
    # The server's own limit does not bound it: it would come back with each workflow task, and the run hang for good.
    too_large = await refused(order.execute_update("cancel", cancel))
    assert too_large.status is RPCStatusCode.RESOURCE_EXHAUSTED
    await goes_on(case)


async def test_what_is_just_not_too_large_is_not_kept_and_does_no_harm(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await order.signal("nobody_knows_this", JUST_TAKEN)
    await order.signal("approve", {"actor": "a", "reason": JUST_TAKEN})
    await order.signal("payment_event", {"event_id": JUST_TAKEN})
    await case.shipment().signal("wms_event", {"event_id": "e", "pick_id": JUST_TAKEN, "kind": "picked"})
    await goes_on(case)
    assert max(len(entry.model_dump_json()) for entry in case.script.entries.values()) < 4_000


MALFORMED: list[list[Any]] = [
    ["nonsense"],
    [],
    [1, 2, 3],
    [None],
    [{}],
    [{"request_id": 1, "actor": [], "reason": {}}],
]


@pytest.mark.parametrize("update", ["cancel", "decide_review", "resolve_failure"])
async def test_a_malformed_update_is_refused_and_leaves_no_trace(case: Case, update: str) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    before = await order.query(OrderWorkflow.snapshot)
    for arguments in MALFORMED:
        with pytest.raises(WorkflowUpdateFailedError):
            await order.execute_update(update, args=arguments)
    with pytest.raises(WorkflowUpdateFailedError, match="failed") as unknown:
        await order.execute_update("nobody_knows_this", {"x": 1})
    assert "nobody_knows_this" in str(unknown.value.cause)
    with pytest.raises(WorkflowQueryFailedError):
        await order.query("nobody_knows_this")
    after = await order.query(OrderWorkflow.snapshot)
    assert (after.cancel, after.answers, after.state) == (before.cancel, before.answers, before.state)
    await goes_on(case)


async def test_an_answer_by_hand_of_any_size_is_refused_before_it_is_kept(case: Case) -> None:
    case.script.fail("authorise_payment")
    order = await case.start()
    task = await case.review()
    answer = {"approved": True, "authorisation_id": "a", "amount": {"minor": 5000, "currency": "GBP"}}
    decision = {
        "request_id": "d",
        "actor": "a",
        "task_id": task.task_id,
        "verdict": "finish",
        "reason": "done",
    }
    with pytest.raises(WorkflowUpdateFailedError):
        await order.execute_update("decide_review", decision | {"answer": answer | {"note": "x" * 20_000}})
    await order.execute_update("decide_review", decision | {"answer": answer})
    await goes_on(case)


async def test_a_signal_that_nobody_knows_is_noted_and_nothing_else(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    for arguments in MALFORMED:
        await order.signal("nobody_knows_this", args=arguments)
        await case.shipment().signal("nor_this", args=arguments)
    await goes_on(case)
    assert case.kinds().count("signal.unknown") == 2 * len(MALFORMED)


NONSENSE: list[list[Any]] = [
    [],
    ["a string"],
    [None],
    [[1, 2]],
    [7],
    [{"order_id": 7, "clock": "noon"}],
    [{"memory": {"order_id": "web:1", "state": "no such state"}}],
    [
        {
            "memory": {
                "order_id": "web:1",
                "released": True,
                "reserved": True,
                "captured": {"minor": 1, "currency": "GBP"},
            }
        }
    ],
]


@pytest.mark.parametrize("arguments", NONSENSE, ids=[str(n) for n in range(len(NONSENSE))])
async def test_an_order_started_by_hand_with_nonsense_is_rejected_and_says_why(
    case: Case, arguments: list[Any]
) -> None:
    seen: list[Problem] = []

    def validate(request: e.ValidateOrder) -> e.Validation:
        seen.extend(request.problems)
        return e.Validation(
            problems=request.problems or (Problem(path="draft", code="no", message="is none"),)
        )

    case.script.answers["validate_order"] = validate
    case.order = await case.client.start_workflow(
        "OrderWorkflow", args=arguments, id=case.workflow_id, task_queue=steps.WORKFLOWS
    )
    result: Any = await case.order.result()
    assert result["state"] == OrderState.REJECTED
    assert case.script.names(case.order_id) == ["validate_order"], "nothing is held, and nobody is told"
    assert any(entry.why and "not acceptable" in entry.why for entry in case.script.entries.values())
    if arguments and isinstance(arguments[0], dict) and "memory" in arguments[0]:
        assert [problem.path for problem in seen] and all(p.path.startswith("memory") for p in seen)


async def test_the_check_of_a_start_learns_under_which_id_it_was_made(
    client: Client, scripts: dict[str, Script]
) -> None:
    """One that is not an order's is then refused: tests/activities/test_orders.py."""
    script, order_id = Script(), f"web:{uuid4().hex[:12]}"
    scripts[order_id] = script
    asked: list[e.ValidateOrder] = []

    def validate(request: e.ValidateOrder) -> e.Validation:
        asked.append(request)
        return e.Validation(problems=(Problem(path="workflow_id", code="no", message="is none"),))

    script.answers["validate_order"] = validate
    run: Any = await client.start_workflow(
        "OrderWorkflow", {"draft": {}}, id=order_id, task_queue=steps.WORKFLOWS
    )
    assert (await run.result())["state"] == OrderState.REJECTED
    assert [(request.order_id, request.workflow_id) for request in asked] == [(order_id, order_id)]
    assert script.names(order_id) == ["validate_order"], "nothing is held"


@pytest.mark.parametrize(
    "run", [[], ["nonsense"], [{}], [None], [{"shipment_id": "web:1:1", "order_id": "web:1", "number": 1}]]
)
async def test_a_shipment_started_by_hand_fails_at_once_and_moves_nothing(
    case: Case, client: Client, run: list[Any]
) -> None:
    shipment = f"shipment:{case.order_id}:1"
    by_hand: Any = await client.start_workflow(
        "ShipmentWorkflow", args=run, id=shipment, task_queue=steps.WORKFLOWS
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await by_hand.result()
    assert "started by its order" in str(failed.value.cause)
    assert case.script.calls == []
    # Nor does it stand in the way of the real one.
    await case.start()
    await case.until(OrderState.RELEASED)
    await goes_on(case)


async def test_a_type_that_nobody_registered_waits_for_a_worker_that_has_it_and_harms_nobody(
    case: Case, client: Client
) -> None:
    stranger = f"order:web:{uuid4().hex}"
    handle: Any = await client.start_workflow("NobodyKnowsThisType", id=stranger, task_queue=steps.WORKFLOWS)
    await case.start()
    await goes_on(case)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await handle.terminate()


async def test_a_shipment_goes_on_without_its_orders_run_and_waits_for_the_next(case: Case) -> None:
    order = await case.start()
    await case.until_shipment("pick_requested")
    await order.terminate("by mistake")
    with pytest.raises(WorkflowFailureError):
        await order.result()
    await case.delivered()

    async def unheard() -> bool:
        return "order.unheard" in case.kinds()

    await eventually(unheard, "nobody to hear of the end")
    assert (await case.shipment().describe()).status is WorkflowExecutionStatus.RUNNING
    assert len(case.script.requests("capture_payment", case.order_id)) == 1
    await case.shipment().terminate("the test is over")
