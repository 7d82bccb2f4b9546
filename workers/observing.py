"""What every activity of a worker has in common: its log lines say what they are about, its failures are counted."""

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from models.identifiers import order_of_workflow
from models.journal import SYSTEM
from workers.telemetry import trace_id

FAILED_ATTEMPTS = "orderwright_step_attempts_failed"


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
        try:
            return await super().execute_activity(input)
        except Exception as failure:
            _count(info.activity_type, failure)
            raise


def _count(step: str, failure: Exception) -> None:
    code = failure.type if isinstance(failure, ApplicationError) else None
    activity.metric_meter().create_counter(
        FAILED_ATTEMPTS, "Attempts at a step that failed, by the code of the error; most are tried again"
    ).add(1, {"step": step, "code": code or "unexpected"})
