"""How the API reaches the runs: start one, ask one and wait for the answer, or leave a message for it.

Workflows and messages go by name, so that the API imports none of them and any other client could do the same.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, TypeVar

from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType, WorkflowTaskFailedCause
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest, SignalWorkflowExecutionRequest
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from models import search
from models.base import Contract, storable
from models.clock import ClockStart
from models.errors import NeighbourRefused, NotReachable, Refused
from models.identifiers import order_of_shipment, order_workflow_id
from models.memory import OrderMemory
from models.messages import CancelOrder
from models.money import Money
from models.order import CustomerType
from models.reconciliation import Area, ReconciliationRun
from models.review import ReviewTask
from models.runs import OrderRun
from models.states import OrderState
from models.values import StockValuesRun
from workers.client import connect
from workers.logging import get_logger
from workers.telemetry import going_on_with

# By name: the API knows no workflow code, so that it can be deployed apart from the workers.
WORKFLOW_QUEUE = "oms-workflows"
# One that takes longer hangs.
RECONCILED_WITHIN = timedelta(hours=12)
ANSWER_WITHIN = timedelta(seconds=5)
CALL_WITHIN = timedelta(seconds=5)
# A workflow task may fail once or twice because a worker went away; more often is a fault.
_PATIENCE = 3
# A workflow task that waits longer than this waits for a worker that is not there.
TAKEN_WITHIN = timedelta(minutes=2)
# Executions that Temporal lists at once; whoever asks gets all of them, so many at a time.
_PAGE = 1_000
_LONGEST_NAME = 100
_OUR_CODE_FAILED = (
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR,
)
_WHAT_IT_WAS_SENT = (
    ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL,
    ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE,
)
_OUR_TYPES = "'OrderWorkflow', 'ShipmentWorkflow'"

_log = get_logger(__name__)

Answer = TypeVar("Answer", bound=Contract)


class RunStart(Contract):
    """What starting an order's run takes.

    ``customer_type`` None: it is classified by the run. ``first_entry``: the number of its first timeline entry, where
    an earlier run of the same id has left some; ``reviews`` and ``plans``: how many such a run has made.
    ``traceparent``: the trace that it goes on with; None: the current one.
    """

    order_id: str
    document_hash: str
    channel: str
    customer_type: CustomerType | None
    total: Money
    line_count: int
    clock: ClockStart
    first_entry: int = 0
    reviews: int = 0
    plans: int = 0
    traceparent: str | None = None


class Standing(Enum):
    """How a run stands in Temporal. HANGS: its workflow task fails again and again, so that it does nothing more."""

    MISSING = auto()
    RUNNING = auto()
    HANGS = auto()
    ENDED = auto()


class RunView(Contract):
    """A run as Temporal describes it.

    ``busy``: an activity or a workflow task is under way. ``unserved_since``: when the workflow task was ready that no
    worker has taken for minutes; ``queue`` is where it waits for one. ``parent``: the workflow id of whoever started it
    as a child, "" for nobody, None where that was not asked.
    """

    standing: Standing
    run_id: str = ""
    status: str = ""
    failed_tasks: int = 0
    busy: bool = False
    unserved_since: datetime | None = None
    queue: str = ""
    length: int = 0
    parent: str | None = None


@dataclass
class _Sent:
    """Signals since the last completed step (its event; None: none was): those before the first failure, and the rest.

    What came later cannot be what the run hangs on.
    """

    completed: int | None = None
    suspect: list[HistoryEvent] = field(default_factory=list)
    harmless: list[HistoryEvent] = field(default_factory=list)


class Told(Enum):
    """What became of a one-way message."""

    DELIVERED = auto()
    NO_RUN = auto()


class NoRun(Refused):
    """There is no run to ask: it has ended, is gone, or has never been started."""


class Runs:
    """The runs behind one Temporal client.

    All methods raise ``NotReachable`` while Temporal does not answer, ``NeighbourRefused`` when it says no for good.
    """

    def __init__(self, client: Client | None = None) -> None:
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether there is a client already."""
        return self._client is not None

    async def keep_trying_to_connect(self) -> None:
        """Connect in the background: the API takes orders even while Temporal is down. Ends once connected."""
        while self._client is None:
            try:
                self._client = await connect(wait=10)
            except NotReachable as unreachable:
                _log.warning("temporal_not_reachable", reason=unreachable.message)
                # Settings that cannot be used fail at once, and would otherwise fill the log.
                await asyncio.sleep(2)

    async def start(self, order: RunStart, *, again: bool = False, wish: CancelOrder | None = None) -> bool:
        """Make sure that the order has a run: one that is running is as good as a new one.

        False when one of its id has already ended; with ``again`` another one is started then. The run hears of a
        ``wish`` to call the order off before it does anything.
        """
        reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE if again else WorkflowIDReusePolicy.REJECT_DUPLICATE
        # Both policies together make a repeat harmless, whoever else starts the same order at the same time.
        try:
            with going_on_with(order.traceparent):
                await self._connected().start_workflow(
                    "OrderWorkflow",
                    _run_of(order),
                    id=order_workflow_id(order.order_id),
                    task_queue=WORKFLOW_QUEUE,
                    id_reuse_policy=reuse,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    search_attributes=_search_attributes(order),
                    static_summary=f"{order.order_id}: {order.line_count} lines, {order.total}",
                    start_signal="cancel_order" if wish else None,
                    start_signal_args=[wish] if wish else [],
                    rpc_timeout=CALL_WITHIN,
                )
        except WorkflowAlreadyStartedError:
            return False
        except RPCError as error:
            raise _failed(error) from error
        return True

    async def reconcile(self, area: Area, *, request_id: str, everything: bool) -> str:
        """Start a run of the reconciliation of ``area``; answers its workflow id. The same request starts one."""
        run_id = f"reconciliation:{area}:{request_id}"
        with suppress(WorkflowAlreadyStartedError):
            try:
                await self._connected().start_workflow(
                    "ReconciliationWorkflow",
                    ReconciliationRun(area=area, everything=everything),
                    id=run_id,
                    task_queue=WORKFLOW_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    execution_timeout=RECONCILED_WITHIN,
                    static_summary=f"reconciliation of {area}",
                    rpc_timeout=CALL_WITHIN,
                )
            except RPCError as error:
                raise _failed(error) from error
        return run_id

    async def work_out_values(self, request_id: str) -> str:
        """Start a run that works values of stock out; answers its workflow id. The same request starts one."""
        run_id = f"stock-values:{request_id}"
        with suppress(WorkflowAlreadyStartedError):
            try:
                await self._connected().start_workflow(
                    "StockValuesWorkflow",
                    StockValuesRun(forced=True),
                    id=run_id,
                    task_queue=WORKFLOW_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    execution_timeout=RECONCILED_WITHIN,
                    static_summary="what stock is worth where it lies",
                    rpc_timeout=CALL_WITHIN,
                )
            except RPCError as error:
                raise _failed(error) from error
        return run_id

    async def is_running(self, workflow_id: str) -> bool:
        """Whether a run of this id is there and has not ended."""
        try:
            description = await (
                self._connected().get_workflow_handle(workflow_id).describe(rpc_timeout=CALL_WITHIN)
            )
        except RPCError as error:
            if _no_such_run(error):
                return False
            raise _failed(error) from error
        return description.status not in _ENDED

    async def view(self, workflow_id: str) -> RunView:
        """How the newest run of this id stands."""
        try:
            found = await self._connected().get_workflow_handle(workflow_id).describe(rpc_timeout=CALL_WITHIN)
        except RPCError as error:
            if _no_such_run(error):
                return RunView(standing=Standing.MISSING)
            raise _failed(error) from error
        raw = found.raw_description
        failed = max(raw.pending_workflow_task.attempt - 1, 0)
        standing = (
            Standing.ENDED
            if found.status in _ENDED
            else Standing.HANGS
            if failed >= _PATIENCE
            else Standing.RUNNING
        )
        task = raw.pending_workflow_task
        waits_since = task.scheduled_time.ToDatetime(UTC) if task.HasField("scheduled_time") else None
        unserved = waits_since is not None and datetime.now(UTC) - waits_since > TAKEN_WITHIN
        return RunView(
            standing=standing,
            run_id=found.run_id,
            status=found.status.name.lower() if found.status else "",
            failed_tasks=failed,
            busy=bool(raw.pending_activities) or raw.HasField("pending_workflow_task"),
            unserved_since=waits_since if unserved else None,
            queue=found.task_queue,
            length=found.history_length,
            parent=found.parent_id or "",
        )

    async def has_timer(self, workflow_id: str, run_id: str) -> bool:
        """Whether a timer of the run is under way, by its history: Temporal tells it nowhere else."""
        open_timers = set[int]()
        handle = self._connected().get_workflow_handle(workflow_id, run_id=run_id)
        try:
            async for event in handle.fetch_history_events(rpc_timeout=CALL_WITHIN):
                if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED:
                    open_timers.add(event.event_id)
                elif event.event_type == EventType.EVENT_TYPE_TIMER_FIRED:
                    open_timers.discard(event.timer_fired_event_attributes.started_event_id)
                elif event.event_type == EventType.EVENT_TYPE_TIMER_CANCELED:
                    open_timers.discard(event.timer_canceled_event_attributes.started_event_id)
        except RPCError as error:
            if _no_such_run(error):
                return False
            raise _failed(error) from error
        return bool(open_timers)

    async def question(self, workflow_id: str) -> ReviewTask | None:
        """The review that the run asks for now; None also when no worker is up to say."""
        try:
            found: ReviewTask | None = await (
                self._connected()
                .get_workflow_handle(workflow_id)
                .query("pending_review", result_type=ReviewTask | None, rpc_timeout=ANSWER_WITHIN)  # type: ignore[arg-type]
            )
        except WorkflowQueryFailedError as failed:
            raise Refused(f"the run does not say what it asks: {failed.message}") from failed
        except RPCError as error:
            if error.status in _PASSING:
                return None
            raise _failed(error) from error
        return found

    async def asks(self, task: ReviewTask) -> bool | None:
        """Whether the run of ``task`` asks it, or is about to write down what became of it; None: no worker says."""
        try:
            memory: dict[str, Any] = await (
                self._connected()
                .get_workflow_handle(task.workflow_id)
                .query("snapshot", result_type=dict, rpc_timeout=ANSWER_WITHIN)
            )
        except WorkflowQueryFailedError:
            return None
        except RPCError as error:
            if error.status in _PASSING or _no_such_run(error):
                return None
            raise _failed(error) from error
        known = [memory.get("open_review"), *(memory.get("pending_reviews") or ())]
        return any(one is not None and one.get("task_id") == task.task_id for one in known)

    def others_on_our_queue(self) -> AsyncIterator[list[str]]:
        """Workflow ids of what runs on our queue and is of no type of ours: nothing there can ever carry it on."""
        return self._pages(
            f"TaskQueue = '{WORKFLOW_QUEUE}' AND WorkflowType NOT IN ({_OUR_TYPES}) AND ExecutionStatus = 'Running'"
        )

    def started_since(self, since: datetime) -> AsyncIterator[list[str]]:
        """Workflow ids of the running executions of our types that began since then."""
        return self._pages(
            f"WorkflowType IN ({_OUR_TYPES}) AND ExecutionStatus = 'Running' AND StartTime > '{_moment(since)}'"
        )

    def broken_since(self, since: datetime) -> AsyncIterator[list[str]]:
        """Workflow ids of orders and shipments that ended since then, and not by coming to their own end."""
        return self._pages(
            f"WorkflowType IN ({_OUR_TYPES})"
            " AND ExecutionStatus IN ('Terminated', 'Failed', 'TimedOut', 'Canceled')"
            f" AND CloseTime > '{_moment(since)}'"
        )

    async def served_between(self, after: datetime, until: datetime) -> datetime | None:
        """When, then, the workers of our queue last carried a run to its end, or on to its next; None: they did not."""
        listing = self._connected().list_workflows(
            f"TaskQueue = '{WORKFLOW_QUEUE}' AND WorkflowType IN ({_OUR_TYPES})"
            " AND ExecutionStatus IN ('Completed', 'ContinuedAsNew')"
            f" AND CloseTime > '{_moment(after)}' AND CloseTime <= '{_moment(until)}'",
            page_size=1,
            rpc_timeout=CALL_WITHIN,
        )
        try:
            await listing.fetch_next_page()
        except RPCError as error:
            raise _failed(error) from error
        return next((run.close_time for run in listing.current_page or ()), None)

    async def _pages(self, query: str) -> AsyncIterator[list[str]]:
        """Every workflow id that ``query`` finds, a page at a time."""
        listing = self._connected().list_workflows(query, page_size=_PAGE, rpc_timeout=CALL_WITHIN)
        more = True
        while more:
            try:
                await listing.fetch_next_page()
            except RPCError as error:
                raise _failed(error) from error
            yield [run.id for run in listing.current_page or ()]
            more = listing.next_page_token is not None

    async def sent_before_it_hung(self, workflow_id: str, run_id: str) -> tuple[str, ...]:
        """The signals that a run whose workflow task fails may hang on, each by its name and the id that it carries."""
        try:
            return tuple(
                [await self._named(event) for event in (await self._sent(workflow_id, run_id)).suspect]
            )
        except RPCError as error:
            if _no_such_run(error):
                return ()
            raise _failed(error) from error

    async def reset(
        self,
        workflow_id: str,
        *,
        first_run_id: str | None,
        request_id: str,
        reason: str,
        forgetting: bool = False,
    ) -> bool:
        """Let the order's (or shipment's) own run go on from its last completed step. It ends whatever runs instead.

        It hears again what it was sent since; with ``forgetting`` only what came after it had begun to hang. False when
        its history is gone, or holds no completed step. With the same ``request_id`` it is reset once.
        """
        client = self._connected()
        try:
            run_id = await self._own_run(workflow_id, first_run_id)
            sent = None if run_id is None else await self._sent(workflow_id, run_id)
            if run_id is None or sent is None or sent.completed is None:
                return False
            # Else the server sends all of it again by itself, and nothing is lost should we die on the way.
            forgetting = forgetting and bool(sent.suspect)
            await client.workflow_service.reset_workflow_execution(
                ResetWorkflowExecutionRequest(
                    namespace=client.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                    reason=reason,
                    workflow_task_finish_event_id=sent.completed,
                    request_id=request_id,
                    reset_reapply_exclude_types=_WHAT_IT_WAS_SENT if forgetting else (),
                ),
                timeout=CALL_WITHIN,
            )
            if forgetting:
                await self.hand_on(workflow_id)
        except RPCError as error:
            if _no_such_run(error):
                return False
            raise _failed(error) from error
        return True

    async def start_child_again(
        self, workflow_id: str, child_id: str, *, first_run_id: str | None, request_id: str, reason: str
    ) -> bool:
        """Let an order's own run go on from before it started ``child_id``, an id that somebody else has used up.

        What runs under it is ended; what the order was sent since, it hears again. False when its history is gone, or
        does not hold that start.
        """
        client = self._connected()
        try:
            run_id = await self._own_run(workflow_id, first_run_id)
            begun = None if run_id is None else await self._before_child(workflow_id, run_id, child_id)
            if run_id is None or begun is None:
                return False
            await self._free(child_id, reason)
            await client.workflow_service.reset_workflow_execution(
                ResetWorkflowExecutionRequest(
                    namespace=client.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                    reason=reason,
                    workflow_task_finish_event_id=begun,
                    request_id=request_id,
                ),
                timeout=CALL_WITHIN,
            )
        except RPCError as error:
            if _no_such_run(error):
                return False
            raise _failed(error) from error
        return True

    async def _free(self, workflow_id: str, reason: str) -> None:
        """Let the newest run of this id be one that was terminated: over one that has completed no child is started."""
        placeholder = await self._connected().start_workflow(
            "Placeholder",
            id=workflow_id,
            task_queue=WORKFLOW_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
            # No worker ever sees it.
            start_delay=timedelta(days=1),
            rpc_timeout=CALL_WITHIN,
        )
        await placeholder.terminate(reason=reason, rpc_timeout=CALL_WITHIN)

    async def _before_child(self, workflow_id: str, run_id: str, child_id: str) -> int | None:
        """The workflow task of the run that started ``child_id``."""
        begun = None
        handle = self._connected().get_workflow_handle(workflow_id, run_id=run_id)
        async for event in handle.fetch_history_events(rpc_timeout=CALL_WITHIN):
            child = event.start_child_workflow_execution_initiated_event_attributes
            if (
                event.event_type == EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
                and child.workflow_id == child_id
            ):
                begun = child.workflow_task_completed_event_id
        return begun

    async def hand_on(self, workflow_id: str) -> None:
        """Send a run that was reset what came for the one before after that had begun to hang; twice is harmless."""
        client = self._connected()
        try:
            before = await self._reset_from(workflow_id)
            sent = await self._sent(workflow_id, before) if before is not None else _Sent()
            for event in sent.harmless:
                signal = event.workflow_execution_signaled_event_attributes
                await client.workflow_service.signal_workflow_execution(
                    SignalWorkflowExecutionRequest(
                        namespace=client.namespace,
                        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
                        signal_name=signal.signal_name,
                        # As it came: what is encoded is not encoded twice.
                        input=signal.input if signal.HasField("input") else Payloads(),
                        header=signal.header,
                        identity=signal.identity,
                        request_id=f"{before}/{event.event_id}",
                    ),
                    timeout=CALL_WITHIN,
                )
        except RPCError as error:
            if not _no_such_run(error):
                raise _failed(error) from error

    async def terminate(self, workflow_id: str, reason: str) -> None:
        """End whatever runs under this id. Nothing there is fine."""
        try:
            handle = self._connected().get_workflow_handle(workflow_id)
            await handle.terminate(reason=reason, rpc_timeout=CALL_WITHIN)
        except RPCError as error:
            if not _no_such_run(error):
                raise _failed(error) from error

    async def _own_run(self, workflow_id: str, first_run_id: str | None) -> str | None:
        """The newest run that is the order's (or shipment's) own, and not what somebody started under its id."""
        client = self._connected()
        kind, _, subject = workflow_id.partition(":")
        parent = order_workflow_id(order_of_shipment(subject)) if kind == "shipment" else None

        async def own(run_id: str | None) -> WorkflowExecutionDescription | None:
            found = await client.get_workflow_handle(workflow_id, run_id=run_id).describe(
                rpc_timeout=CALL_WITHIN
            )
            first = found.raw_description.workflow_execution_info.first_run_id
            ours = first == first_run_id if first_run_id else parent is not None and found.parent_id == parent
            return found if ours else None

        if (newest := await own(None)) is not None:
            return newest.run_id
        quoted = workflow_id.replace("\\", "\\\\").replace("'", "\\'")
        listed = client.list_workflows(f"WorkflowId = '{quoted}'", page_size=_PAGE, rpc_timeout=CALL_WITHIN)
        newest = None
        async for run in listed:
            if (newest is None or run.start_time > newest.start_time) and (found := await own(run.run_id)):
                newest = found
        return None if newest is None else newest.run_id

    async def _sent(self, workflow_id: str, run_id: str) -> _Sent:
        """What the run was sent since its last completed step."""
        sent, hung = _Sent(), False
        handle = self._connected().get_workflow_handle(workflow_id, run_id=run_id)
        async for event in handle.fetch_history_events(rpc_timeout=CALL_WITHIN):
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                sent, hung = _Sent(completed=event.event_id), False
            elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
                # Only the first attempt that fails is in the history.
                hung = hung or event.workflow_task_failed_event_attributes.cause in _OUR_CODE_FAILED
            elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                # A run that took no step is not reset, but started anew: that one hears nothing of all this.
                (sent.harmless if hung and sent.completed else sent.suspect).append(event)
        return sent

    async def _reset_from(self, workflow_id: str) -> str | None:
        """The run that the newest one was reset from."""
        before = None
        handle = self._connected().get_workflow_handle(workflow_id)
        async for event in handle.fetch_history_events(rpc_timeout=CALL_WITHIN):
            failed = event.workflow_task_failed_event_attributes
            if (
                event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
                and failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
            ):
                before = failed.base_run_id
        return before

    async def _named(self, event: HistoryEvent) -> str:
        signal = event.workflow_execution_signaled_event_attributes
        said: Any = None
        try:
            (said, *_) = await self._connected().data_converter.decode(signal.input.payloads)
        except Exception:
            said = None
        ids = (
            [said.get(key) for key in ("event_id", "request_id", "task_id")] if isinstance(said, dict) else []
        )
        own = next((f" {one}" for one in ids if one), "")
        name: str = storable(f"{signal.signal_name}{own}")
        return name[:_LONGEST_NAME]

    async def ask(
        self, workflow_id: str, update: str, question: Contract, gives: type[Answer], *, afresh: bool = False
    ) -> Answer | None:
        """Send an update and wait for its answer; None when nobody answered in time.

        A repeat with the same ``request_id`` gets the answer of the first; with ``afresh`` the run itself knows it for
        a repeat, and says how things stand by now.

        No worker is up then, or the run was just continuing as new: a message that waits for it gets through.

        Raises ``Refused`` with the run's own sentence, ``NoRun`` when it has ended or was never there.
        """
        handle = self._connected().get_workflow_handle(workflow_id)
        request_id = None if afresh else getattr(question, "request_id", None)
        try:
            async with asyncio.timeout(ANSWER_WITHIN.total_seconds()):
                answer: Answer = await handle.execute_update(
                    update,
                    question,
                    id=request_id and f"{update}:{request_id}",
                    result_type=gives,
                    rpc_timeout=ANSWER_WITHIN,
                )
                return answer
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            return None
        except WorkflowUpdateFailedError as failed:
            raise Refused(_sentence(failed.cause)) from failed
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:
                return None
            if _no_such_run(error):
                raise NoRun("its run has already ended, or has not started yet: look at its state") from error
            raise _failed(error) from error

    async def tell(self, workflow_id: str, signal: str, message: Contract) -> Told:
        """Leave a message that the run reads as soon as a worker is up."""
        try:
            await (
                self._connected()
                .get_workflow_handle(workflow_id)
                .signal(signal, message, rpc_timeout=CALL_WITHIN)
            )
        except RPCError as error:
            if _no_such_run(error):
                return Told.NO_RUN
            raise _failed(error) from error
        return Told.DELIVERED

    async def check(self) -> None:
        """Raise ``NotReachable`` unless Temporal answers."""
        try:
            healthy = await self._connected().service_client.check_health(timeout=timedelta(seconds=2))
        except RPCError as error:
            raise _failed(error) from error
        if not healthy:
            raise NotReachable("Temporal answers, but says that it is not healthy")

    def _connected(self) -> Client:
        if self._client is None:
            raise NotReachable("Temporal does not answer; try again in a few seconds")
        return self._client


# A run that continued as new goes on in its successor.
_ENDED = frozenset(
    {
        WorkflowExecutionStatus.COMPLETED,
        WorkflowExecutionStatus.FAILED,
        WorkflowExecutionStatus.CANCELED,
        WorkflowExecutionStatus.TERMINATED,
        WorkflowExecutionStatus.TIMED_OUT,
    }
)


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _run_of(order: RunStart) -> OrderRun:
    memory = None
    if order.first_entry or order.reviews or order.plans:
        memory = OrderMemory(
            order_id=order.order_id,
            entry_count=order.first_entry,
            review_count=order.reviews,
            # The last plan is asked for again under its number, so that its reservation is found and not made twice.
            attempts={"route": order.plans - 1} if order.plans > 1 else {},
        )
    return OrderRun(
        order_id=order.order_id, document_hash=order.document_hash, clock=order.clock, memory=memory
    )


def _search_attributes(order: RunStart) -> TypedSearchAttributes:
    pairs: list[SearchAttributePair[Any]] = [
        SearchAttributePair(search.STATE, OrderState.RECEIVED.value),
        SearchAttributePair(search.CHANNEL, order.channel),
        SearchAttributePair(search.TOTAL_MINOR, order.total.minor),
        SearchAttributePair(search.NEEDS_REVIEW, False),
    ]
    if order.customer_type is not None:
        pairs.append(SearchAttributePair(search.CUSTOMER_TYPE, order.customer_type.value))
    return TypedSearchAttributes(pairs)


# What another moment may change. Anything else is a no that trying again will not turn into a yes.
_PASSING = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.UNKNOWN,
        RPCStatusCode.INTERNAL,
        # The run continues as new at this very moment, or its workflow task fails for now.
        RPCStatusCode.FAILED_PRECONDITION,
    }
)


def _no_such_run(error: RPCError) -> bool:
    return error.status is RPCStatusCode.NOT_FOUND and not _no_such_namespace(error)


def _no_such_namespace(error: RPCError) -> bool:
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details)


def _failed(error: RPCError) -> NotReachable | NeighbourRefused:
    status = error.status.name.lower()
    if _no_such_namespace(error):
        # A wrong setting, or a server that is just being set up: nothing is known about any run, so nothing is said.
        _log.error("temporal_namespace_missing", reason=error.message)
        return NotReachable(
            "Temporal does not know our namespace; whoever runs this server has to look at it"
        )
    if error.status in _PASSING:
        return NotReachable(f"Temporal did not take the call ({status}); try again in a few seconds")
    _log.error("temporal_refused", status=status, reason=error.message)
    return NeighbourRefused(
        f"Temporal refused the call ({status}); whoever runs this server has to look at it"
    )


def _sentence(cause: BaseException) -> str:
    return cause.message if isinstance(cause, FailureError) else str(cause)
