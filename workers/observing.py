"""What every activity of a worker has in common: each attempt leaves a log line, and is counted by how it ended."""

import time

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from models.identifiers import order_of_workflow
from models.journal import SYSTEM
from workers.logging import get_logger
from workers.telemetry import trace_id

_log = get_logger(__name__)

FAILED_ATTEMPTS = "orderwright_step_attempts_failed"
DONE_ATTEMPTS = "orderwright_step_attempts_done"


class Observing(Interceptor):
    """An interceptor for workers."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Put ours before what runs the activity."""
        return _Observed(next)


class _Observed(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002
        info = activity.info()
        workflow_id = info.workflow_id or ""
        # The SDK runs each activity in a task of its own, so this reaches no other.
        structlog.contextvars.bind_contextvars(
            order_id=order_of_workflow(workflow_id),
            workflow_id=workflow_id,
            step=info.activity_type,
            attempt=info.attempt,
            actor=SYSTEM,
            trace_id=trace_id(),
        )
        began, outcome = time.perf_counter(), "interrupted"
        try:
            answer = await super().execute_activity(input)
        except Exception as failure:
            outcome = _code(failure)
            _count_failed(info.activity_type, outcome)
            raise
        else:
            outcome = "done"
            _count_done(info.activity_type)
            return answer
        finally:
            # What it is about is bound above; what it was given and what it answers may name a customer.
            _log.info("step_ended", outcome=outcome, ms=round((time.perf_counter() - began) * 1000, 1))


def _code(failure: Exception) -> str:
    return (failure.type if isinstance(failure, ApplicationError) else None) or "unexpected"


def _count_failed(step: str, code: str) -> None:
    activity.metric_meter().create_counter(
        FAILED_ATTEMPTS, "Attempts at a step that failed, by the code of the error; most are tried again"
    ).add(1, {"step": step, "code": code})
    # Whoever watches sees a series grow only from its second value on: the first success after this is to be one.
    _count_done(step, 0)


def _count_done(step: str, attempts: int = 1) -> None:
    activity.metric_meter().create_counter(DONE_ATTEMPTS, "Attempts at a step that were done").add(
        attempts, {"step": step}
    )
