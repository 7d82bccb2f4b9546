"""Reconciliation: our books against the neighbours' and against each other, a piece at a time, every hour.

A Temporal Schedule per area starts it (``workers/schedules.py``), and so does whoever cannot wait. It carries ids and
counts; what differs stands in the database. Two runs at once, or a piece that is done twice, change nothing.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    import workflows.steps as steps  # noqa: PLR0402 - the other way it is loaded anew for each run
    from models import reconciliation as r
    from models.base import Contract
    from workflows.case import NO_INPUT
    from workflows.steps import Step

In = TypeVar("In", bound=Contract)
Out = TypeVar("Out", bound=Contract)

# So many pieces of work in one run: far below what a history may hold.
_PIECES_AT_MOST = 200

# What is copied from a neighbour first, and compared then.
_PARTS: Mapping[r.Area, tuple[Step[Any, Any], ...]] = {
    r.Area.MONEY: (steps.READ_PAYMENT_STATEMENT, steps.COMPARE_MONEY),
    r.Area.LABELS: (steps.READ_CARRIER_STATEMENT, steps.COMPARE_LABELS),
    r.Area.STOCK: (steps.COMPARE_RESERVATIONS, steps.COMPARE_STOCK),
}


@workflow.defn
class ReconciliationWorkflow:
    """Reconciles one area. A neighbour that gives no statement for half an hour ends the run as failed; nothing is
    compared with half a statement, and the next run looks as far back as this one would have.
    """

    @workflow.init
    def __init__(self, start: RawValue = NO_INPUT) -> None:
        self._asked = _understood(start)

    @workflow.run
    async def run(self, _start: RawValue = NO_INPUT) -> r.ReconciliationResult:
        """Copy, compare, and note what came of it."""
        asked, run_id = self._asked, workflow.info().workflow_id
        tally = asked.progress.tally if asked.progress else r.Tally()
        try:
            tally = await self._compare_all(asked, run_id)
        except ActivityError as error:
            why = "it was cancelled in Temporal" if is_cancelled_exception(error) else _reason_of(error)
            await self._finish(run_id, tally, failure=why)
            raise ApplicationError(
                f"the reconciliation of {asked.area} did not come to its end: {why}",
                type="reconciliation_failed",
                non_retryable=True,
            ) from error
        finished = await self._finish(run_id, tally)
        return r.ReconciliationResult(run_id=run_id, area=asked.area, tally=tally, open=finished.open)

    async def _compare_all(self, asked: r.ReconciliationRun, run_id: str) -> r.Tally:
        progress = asked.progress
        if progress is None:
            begin = r.BeginReconciliation(run_id=run_id, area=asked.area, everything=asked.everything)
            progress = r.Progress(since=(await _do(steps.BEGIN_RECONCILIATION, begin)).since)
        parts, pieces = _PARTS[asked.area], 0
        while progress.part < len(parts):
            if pieces >= _PIECES_AT_MOST or workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(asked.model_copy(update={"progress": progress}))
            progress = await self._piece(parts[progress.part], progress, run_id)
            pieces += 1
        return progress.tally

    async def _piece(self, step: Step[Any, Any], progress: r.Progress, run_id: str) -> r.Progress:
        asked = step.takes(run_id=run_id, since=progress.since, cursor=progress.cursor)
        answer = await _do(step, asked)
        counted = answer.tally if isinstance(answer, r.PieceCompared) else r.Tally()
        on = (
            {"cursor": answer.cursor}
            if answer.cursor is not None
            else {"part": progress.part + 1, "cursor": ""}
        )
        progress = progress.model_copy(update={"tally": progress.tally + counted, **on})
        workflow.set_current_details(
            f"**{step.summary}**: {progress.tally.checked:,} compared, {progress.tally.differing:,} differ"
        )
        return progress

    async def _finish(self, run_id: str, tally: r.Tally, failure: str | None = None) -> r.Finished:
        return await _do(
            steps.FINISH_RECONCILIATION,
            r.FinishReconciliation(run_id=run_id, area=self._asked.area, tally=tally, failure=failure),
        )


async def _do(step: Step[In, Out], asked: In) -> Out:
    answer: Out = await workflow.execute_activity(
        step.name,
        asked,
        task_queue=step.queue,
        result_type=step.gives,
        start_to_close_timeout=step.start_to_close,
        heartbeat_timeout=step.heartbeat,
        retry_policy=step.retry,
        priority=step.priority,
        summary=step.summary,
    )
    return answer


def _understood(start: RawValue) -> r.ReconciliationRun:
    try:
        run: r.ReconciliationRun = workflow.payload_converter().from_payload(
            start.payload, r.ReconciliationRun
        )
    except (ValidationError, RuntimeError, TypeError) as error:
        raise ApplicationError(
            'the input of ReconciliationWorkflow must be {"area": "money"}, "stock" or "labels"',
            type="refused",
            non_retryable=True,
        ) from error
    return run


def _reason_of(error: ActivityError) -> str:
    cause: BaseException | None = error
    while isinstance(cause, ActivityError):
        cause = cause.cause
    return f"{error.activity_type}: {cause or error}"[:1000]
