"""How the API reaches the runs: start one, ask one and wait for the answer, or leave a message for it.

Workflows and messages go by name, so that the API imports none of them and any other client could do the same.
"""

import asyncio
from datetime import timedelta
from enum import Enum, auto
from typing import Any, TypeVar

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
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
from models.base import Contract
from models.clock import ClockStart
from models.errors import NeighbourRefused, NotReachable, Refused
from models.identifiers import order_workflow_id
from models.memory import OrderMemory
from models.money import Money
from models.order import CustomerType
from models.runs import OrderRun
from models.states import OrderState
from workers.client import connect
from workers.logging import get_logger

# By name: the API knows no workflow code, so that it can be deployed apart from the workers.
WORKFLOW_QUEUE = "oms-workflows"
ANSWER_WITHIN = timedelta(seconds=5)
CALL_WITHIN = timedelta(seconds=5)

_log = get_logger(__name__)

Answer = TypeVar("Answer", bound=Contract)


class RunStart(Contract):
    """What starting an order's run takes.

    ``customer_type`` None: it is classified by the run. ``first_entry``: the number of its first timeline entry, where
    an earlier run of the same id has left some.
    """

    order_id: str
    document_hash: str
    channel: str
    customer_type: CustomerType | None
    total: Money
    line_count: int
    clock: ClockStart
    first_entry: int = 0


class Told(Enum):
    """What became of a one-way message."""

    DELIVERED = auto()
    NO_RUN = auto()


class Runs:
    """The runs behind one Temporal client.

    All methods raise ``NotReachable`` while Temporal does not answer, ``NeighbourRefused`` when it says no for good.
    """

    def __init__(self, client: Client | None = None) -> None:
        self._client = client

    async def keep_trying_to_connect(self) -> None:
        """Connect in the background: the API takes orders even while Temporal is down. Ends once connected."""
        while self._client is None:
            try:
                self._client = await connect(wait=10)
            except NotReachable as unreachable:
                _log.warning("temporal_not_reachable", reason=unreachable.message)
                # Settings that cannot be used fail at once, and would otherwise fill the log.
                await asyncio.sleep(2)

    async def start(self, order: RunStart, *, again: bool = False) -> bool:
        """Make sure that the order has a run: one that is running is as good as a new one.

        False when one of its id has already ended; with ``again`` another one is started then.
        """
        reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE if again else WorkflowIDReusePolicy.REJECT_DUPLICATE
        # Both policies together make a repeat harmless, whoever else starts the same order at the same time.
        try:
            await self._connected().start_workflow(
                "OrderWorkflow",
                _run_of(order),
                id=order_workflow_id(order.order_id),
                task_queue=WORKFLOW_QUEUE,
                id_reuse_policy=reuse,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                search_attributes=_search_attributes(order),
                static_summary=f"{order.order_id}: {order.line_count} lines, {order.total}",
                rpc_timeout=CALL_WITHIN,
            )
        except WorkflowAlreadyStartedError:
            return False
        except RPCError as error:
            raise _failed(error) from error
        return True

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

    async def ask(
        self, workflow_id: str, update: str, question: Contract, gives: type[Answer]
    ) -> Answer | None:
        """Send an update and wait for its answer; None when nobody answered in time (no worker is up).

        Raises ``Refused`` with the run's own sentence, or when the run has ended.
        """
        handle = self._connected().get_workflow_handle(workflow_id)
        request_id = getattr(question, "request_id", None)
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
            if _no_such_run(error):
                raise Refused(
                    "its run has already ended, or has not started yet: look at its state"
                ) from error
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


def _run_of(order: RunStart) -> OrderRun:
    memory = None
    if order.first_entry:
        memory = OrderMemory(order_id=order.order_id, entry_count=order.first_entry)
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
