"""Values of stock: worked out on a schedule from what was ordered lately, for the orders that are routed next.

A Temporal Schedule starts it (``workers/schedules.py``), and so does whoever cannot wait. Two runs at once change
nothing for each other; orders go by the one whose figures are the newest.
"""

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    import workflows.steps as steps  # noqa: PLR0402 - the other way it is loaded anew for each run
    from models import values as v
    from workflows.case import NO_INPUT


@workflow.defn
class StockValuesWorkflow:
    """Works values out once. A run that fails leaves those of the run before in force."""

    @workflow.init
    def __init__(self, start: RawValue = NO_INPUT) -> None:
        self._asked = _understood(start)

    @workflow.run
    async def run(self, _start: RawValue = NO_INPUT) -> v.ValuesWorkedOut:
        """Work out, and say what came of it."""
        step = steps.WORK_OUT_STOCK_VALUES
        found: v.ValuesWorkedOut = await workflow.execute_activity(
            step.name,
            v.WorkOutValues(
                run_id=workflow.info().workflow_id, now=workflow.now(), forced=self._asked.forced
            ),
            task_queue=step.queue,
            result_type=step.gives,
            start_to_close_timeout=step.start_to_close,
            heartbeat_timeout=step.heartbeat,
            retry_policy=step.retry,
            priority=step.priority,
            summary=step.summary,
        )
        workflow.set_current_details(
            found.skipped
            or f"{found.priced:,} of {found.skus:,} SKUs have prices, from {found.orders:,} orders"
        )
        return found


def _understood(start: RawValue) -> v.StockValuesRun:
    try:
        run: v.StockValuesRun = workflow.payload_converter().from_payload(start.payload, v.StockValuesRun)
    except (ValidationError, RuntimeError, TypeError) as error:
        raise ApplicationError(
            'the input of StockValuesWorkflow must be {} or {"forced": true}',
            type="refused",
            non_retryable=True,
        ) from error
    return run
