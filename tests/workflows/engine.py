"""A real Temporal dev server with our workflows on it, and a case: one order that a test drives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from models.identifiers import order_workflow_id, shipment_id, shipment_workflow_id
from models.memory import OrderMemory
from models.messages import CarrierEvent, CarrierEventKind, Recall, WmsEvent, WmsEventKind
from models.review import ReviewTask
from models.runs import OrderResult, OrderRun
from tests.workflows.scripted import Script, scripted_activities
from workflows import steps
from workflows.order import OrderWorkflow
from workflows.reconciliation import ReconciliationWorkflow
from workflows.shipment import ShipmentWorkflow
from workflows.stock_values import StockValuesWorkflow


class Case:
    """One order under test, with its script and the world's answers."""

    def __init__(self, client: Client, script: Script) -> None:
        self.client = client
        self.script = script
        self.order_id = f"web:{uuid4().hex[:12]}"
        self.workflow_id = order_workflow_id(self.order_id)

    async def start(self, **run: Any) -> WorkflowHandle[OrderWorkflow, OrderResult]:
        self.order = await self.client.start_workflow(
            "OrderWorkflow",
            OrderRun(**run),
            id=self.workflow_id,
            task_queue=steps.WORKFLOWS,
            result_type=OrderResult,
        )
        return self.order

    async def resume(self, memory: OrderMemory) -> WorkflowHandle[OrderWorkflow, OrderResult]:
        """Go on as a run that was handed ``memory`` by one that continued as new: only then is it believed."""
        await self.client.start_workflow(
            "Predecessor", OrderRun(memory=memory), id=self.workflow_id, task_queue=steps.WORKFLOWS
        )
        self.order = self.client.get_workflow_handle_for(OrderWorkflow.run, self.workflow_id)

        async def handed_on() -> bool:
            return (await self.order.describe()).workflow_type == "OrderWorkflow"

        await eventually(handed_on, "the order's run to begin")
        return self.order

    def shipment(self, number: int = 1) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(shipment_workflow_id(shipment_id(self.order_id, number)))

    async def shipment_exists(self, number: int = 1) -> None:
        async def there() -> bool:
            try:
                await self.shipment(number).describe()
            except RPCError:
                return False
            return True

        await eventually(there, f"shipment {number} to start")

    async def picked(
        self,
        number: int = 1,
        kind: WmsEventKind = WmsEventKind.PICKED,
        event: str = "",
        pick: str = "pick-1",
    ) -> None:
        await self.shipment_exists(number)
        await self.shipment(number).signal(
            "wms_event",
            WmsEvent(event_id=event or f"w-{number}-{kind}", kind=kind, occurred_at=_now(), pick_id=pick),
        )

    async def scanned(
        self, kind: CarrierEventKind, number: int = 1, *, at: datetime | None = None, event: str = ""
    ) -> None:
        await self.shipment(number).signal(
            "carrier_event",
            CarrierEvent(
                event_id=event or f"c-{number}-{kind}",
                kind=kind,
                occurred_at=at or _now(),
                tracking=f"TRK-{number}",
            ),
        )

    async def labelled(self, number: int = 1) -> None:
        await self.picked(number)
        await self.until_shipment("labelled", number)

    async def handed_over(self, number: int = 1) -> None:
        await self.labelled(number)
        await self.scanned(CarrierEventKind.COLLECTED, number)
        await self.until_shipment("handed_over", number)

    async def delivered(self, number: int = 1) -> None:
        await self.handed_over(number)
        await self.scanned(CarrierEventKind.DELIVERED, number)

    async def until(self, state: str) -> None:
        async def there() -> bool:
            return bool((await told_by(self.order, OrderWorkflow.snapshot)).state == state)

        await eventually(there, f"the order to be {state}")

    async def until_shipment(self, state: str, number: int = 1) -> None:
        await self.shipment_exists(number)

        async def there() -> bool:
            return bool((await told_by(self.shipment(number), ShipmentWorkflow.snapshot)).state == state)

        await eventually(there, f"shipment {number} to be {state}")

    async def until_recalled(self, number: int = 1) -> None:
        """Until the carrier has answered whether it brings the parcel back, and the order has heard."""

        async def there() -> bool:
            progress = (await told_by(self.order, OrderWorkflow.snapshot)).shipments.get(number)
            return progress is not None and progress.recall not in (None, Recall.ASKED)

        await eventually(there, "the carrier's answer")

    async def review(self, number: int = 0) -> ReviewTask:
        """The open review of the order, or of a shipment."""
        handle = self.shipment(number) if number else self.order
        found: list[ReviewTask] = []

        async def there() -> bool:
            task = await told_by(handle, OrderWorkflow.pending_review)
            found[:] = [task] if task is not None else []
            return bool(found)

        await eventually(there, "a review to open")
        return found[0]

    async def skip(self, duration: timedelta, number: int = 0) -> None:
        """Let the run's clock pass ``duration``; timers on the way fire. It ends with a run that continues as new."""
        run = self.shipment(number) if number else self.order
        try:
            await TimeSkipper(self.client).fast_forward(run, duration)
        except RPCError as ended:
            went_on = (await run.describe()).status is WorkflowExecutionStatus.RUNNING
            if ended.status is not RPCStatusCode.NOT_FOUND or not went_on:
                raise

    async def in_other_times(self, change: Callable[[OrderMemory], None]) -> None:
        """Let the order go on with a changed memory: time cannot be skipped here while a shipment runs."""
        memory = await told_by(self.order, OrderWorkflow.snapshot)
        change(memory)
        await self.order.terminate()
        await self.resume(memory)

    def told(self) -> list[str]:
        return [str(request.template) for request in self.script.requests("notify", self.order_id)]

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.script.entries.values() if entry.order_id == self.order_id]


@workflow.defn
class Predecessor:
    """A run that continues as an order at once."""

    @workflow.run
    async def run(self, run: OrderRun) -> None:
        """Hand on what came in."""
        workflow.continue_as_new(workflow="OrderWorkflow", args=[run])


@asynccontextmanager
async def serving(client: Client, scripts: Mapping[str, Script]) -> AsyncIterator[None]:
    """Our workflows and the scripted activities, served from this process."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            Worker(
                client,
                task_queue=steps.WORKFLOWS,
                workflows=[
                    OrderWorkflow,
                    ShipmentWorkflow,
                    ReconciliationWorkflow,
                    StockValuesWorkflow,
                    Predecessor,
                ],
                # On a busy machine a workflow task may take longer than two seconds, and is no deadlock.
                debug_mode=True,
            )
        )
        for queue, activities in scripted_activities(scripts).items():
            await stack.enter_async_context(Worker(client, task_queue=queue, activities=activities))
        yield


_NO_ANSWER_YET = (
    # Between two runs of a case that continues as new.
    RPCStatusCode.FAILED_PRECONDITION,
    # A busy machine.
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.UNAVAILABLE,
)


async def told_by(handle: WorkflowHandle[Any, Any], query: Any) -> Any:
    """The answer to a query, once the run has heard all that was sent: who sends waits for nobody."""
    answers: list[Any] = []

    async def answers_now() -> bool:
        try:
            answers.append(await handle.query(query))
        except RPCError as not_now:
            if not_now.status not in _NO_ANSWER_YET:
                raise
        return bool(answers)

    await eventually(answers_now, f"{handle.id} to answer")
    return answers[0]


async def eventually(there: Callable[[], Awaitable[bool]], what: str, seconds: float = 300.0) -> None:
    """Poll until ``there`` is true; fail with ``what`` was waited for."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await there():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        await asyncio.sleep(0.03)


def _now() -> datetime:
    return datetime.now(UTC)
