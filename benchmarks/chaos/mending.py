"""The people beside the machine: a reviewer who answers while everything breaks, and the search for every owner."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence

import httpx
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.store import reads
from activities.store.reads import ReviewFilters
from activities.store.store import Store
from apps.api.broken_runs import ASTRAY
from apps.api.invariants import Invariants
from apps.api.runs import Runs
from apps.cli.replay import standings
from apps.simulators.chance import fraction
from benchmarks.chaos.checks import Invariant, Result, Violation
from benchmarks.chaos.evidence import Evidence
from benchmarks.chaos.strikes import ACTOR
from models.errors import NotReachable, OrderwrightError
from models.identifiers import order_of_workflow, order_workflow_id
from models.review import ReviewKind, ReviewTask, Verdict
from models.states import ORDER_TERMINAL, ReviewState
from workers.client import connect
from workers.embedded.published import PublishedStack

_AT_ONCE = 16
_POLL_SECONDS = 1.0
_SITS_SECONDS = 2.0
# The others show that an order which waits for a person is not lost.
_ANSWERED_SHARE = 0.75
_ANSWERS_EACH = 6


class Desk:
    """A reviewer who does what each task recommends."""

    def __init__(self, api: httpx.AsyncClient, store: Store, *, patience: float) -> None:
        self._api = api
        self._store = store
        self._patience = patience
        self.answered = 0

    async def sit(self, seed: int) -> None:
        """Answer tasks until cancelled, also while the stack is being broken; the seed says which are left alone.

        An order whose parcel will not come can ask for ever: after some answers it is left to whoever comes next.
        """
        given: Counter[str] = Counter()
        while True:
            with contextlib.suppress(OrderwrightError):
                for task in await self._open_tasks():
                    wanted = fraction(seed, task.task_id, "is answered") < _ANSWERED_SHARE
                    if wanted and given[task.order_id] < _ANSWERS_EACH:
                        given[task.order_id] += await self._decide(task)
            await asyncio.sleep(_SITS_SECONDS)

    async def mend(self, workflow_ids: Sequence[str]) -> Result:
        """See that each run that was ended from outside became a task, answer it, and wait for its order's end."""
        wrong: list[Violation] = []
        for workflow_id in workflow_ids:
            order_id = order_of_workflow(workflow_id) or workflow_id
            problem = await self._mend(workflow_id, order_id)
            if problem is not None:
                wrong.append(
                    Violation(invariant=Invariant.ENDED_RUNS_MENDED, order_id=order_id, what=problem)
                )
        return Result(
            invariant=Invariant.ENDED_RUNS_MENDED, checked=len(workflow_ids), violations=tuple(wrong)
        )

    async def _mend(self, workflow_id: str, order_id: str) -> str | None:
        deadline = time.monotonic() + self._patience
        asked = False
        while time.monotonic() < deadline:
            with contextlib.suppress(NotReachable):
                standing = (await standings(self._store, [order_id])).get(order_id)
                if standing is not None and standing.finished:
                    # Also one that was ended at its very end, and had nothing left to be asked about.
                    return None
                for task in await self._tasks(order_id):
                    asked = asked or task.kind is ReviewKind.RUN_BROKEN
                    if task.state is ReviewState.OPEN:
                        await self._decide(task)
            await asyncio.sleep(_POLL_SECONDS)
        return (
            f"{workflow_id} was ended, and {'a task about it answered' if asked else 'nobody was asked'}: the order "
            f"has not ended {self._patience:.0f} s later"
        )

    async def _tasks(self, order_id: str) -> Sequence[ReviewTask]:
        async with self._store.transaction() as session:
            page = await reads.reviews(session, ReviewFilters(state=None, order_id=order_id))
        return page.reviews

    async def _open_tasks(self) -> Sequence[ReviewTask]:
        async with self._store.transaction() as session:
            return (await reads.reviews(session, ReviewFilters())).reviews

    async def _decide(self, task: ReviewTask) -> bool:
        """Answer a task, under one request id however often it takes; whether the answer was heard."""
        verdict = task.recommended
        if verdict is Verdict.FINISH:
            # Nobody has done it by hand: what a reviewer can do from here is to have it tried again.
            verdict = next((one for one in (Verdict.APPROVE, Verdict.REJECT) if one in task.options), verdict)
        try:
            answer = await self._api.post(
                f"/v1/reviews/{task.task_id}/decision",
                json={
                    "verdict": verdict,
                    "actor": ACTOR,
                    "reason": "as recommended",
                    "request_id": f"chaos:{task.task_id}"[:100],
                },
            )
        except httpx.HTTPError:
            return False  # it stays open, and is looked at again
        if answer.is_success:
            self.answered += 1
        return answer.is_success


async def owned(store: Store, stack: PublishedStack, evidence: Evidence) -> Result:
    """Every open order has a run with a timer, an activity or a task; the run of an ended one has ended as well."""
    client = await connect(stack.temporal_address, stack.temporal_namespace, from_environment=False, wait=60)
    report = await Invariants(store, Runs(client)).round()
    wrong = [
        Violation(
            invariant=Invariant.EVERY_ORDER_OWNED,
            order_id=finding.order_id,
            what=f"{finding.workflow_id}: {finding.trouble}, {finding.why}",
        )
        for finding in report.findings
        # Goods that went astray are among people, by a task.
        if not (finding.trouble in ASTRAY and finding.task_id)
    ]
    wrong += [
        Violation(
            invariant=Invariant.EVERY_ORDER_OWNED,
            order_id=order_of_workflow(workflow_id),
            what=f"{workflow_id} waits for a worker",
        )
        for workflow_id in report.unserved
    ]
    ended = [order.order_id for order in evidence.orders.values() if order.state in ORDER_TERMINAL]
    wrong += await not_completed(client, ended)
    return Result(
        invariant=Invariant.EVERY_ORDER_OWNED,
        checked=len(evidence.orders) + report.examined,
        violations=tuple(wrong),
    )


async def not_completed(client: Client, order_ids: Sequence[str]) -> list[Violation]:
    """Those of the orders, which have ended in our books, whose runs have not come to their own end in Temporal."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def look(order_id: str) -> Violation | None:
        async with at_once:
            try:
                run = await client.get_workflow_handle(order_workflow_id(order_id)).describe()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise NotReachable(f"Temporal did not answer: {error.message}") from error
                status = "missing"
            else:
                if run.status is WorkflowExecutionStatus.COMPLETED:
                    return None
                status = run.status.name.lower() if run.status else "gone"
        return Violation(
            invariant=Invariant.EVERY_ORDER_OWNED,
            order_id=order_id,
            what=f"it has ended in our books, and its run is {status}",
        )

    return [found for found in await asyncio.gather(*map(look, order_ids)) if found is not None]
