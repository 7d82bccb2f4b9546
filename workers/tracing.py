"""One trace for each run, also for one that was started without: by a Temporal client that traces nothing.

Asked to make spans for such a run all the same (``always_create_workflow_spans``), the SDK's interceptor begins a new
trace with each of its steps, as a workflow cannot remember a span over a replay. So a run without a trace goes on with
one that is derived from its id: the same after a replay, in every worker, and when it continues as new. Its first span
names a parent that nobody has seen.
"""

import hashlib
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from temporalio import workflow
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import WorkflowInterceptorClassInput

_TRACE_OF = "orderwright_trace_of"


class OneTracePerRun(TracingInterceptor):
    """The SDK's interceptor for clients and workers, with a trace for runs that come without one."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - the SDK calls it so
    ) -> type[TracingWorkflowInboundInterceptor]:
        """As the SDK asks for it once per worker."""
        super().workflow_interceptor_class(input)
        # Outside of the workflow's sandbox, where the sampler lives.
        input.unsafe_extern_functions[_TRACE_OF] = _trace_of
        return _TracedWorkflow


class _TracedWorkflow(TracingWorkflowInboundInterceptor):
    def _load_workflow_context_carrier(self) -> Any:
        carried = super()._load_workflow_context_carrier()
        if carried is None:
            derive = workflow.extern_functions()[_TRACE_OF]
            carried = self._workflow_context_carrier = derive(workflow.info().first_execution_run_id)
        return carried


def _trace_of(run_id: str) -> dict[str, str]:
    """A W3C trace context of the run's own, sampled as any other trace of its number would be."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()
    trace_id, parent_id = digest[:32], digest[32:48]
    provider = trace.get_tracer_provider()
    sampled = not isinstance(provider, TracerProvider) or (
        provider.sampler.should_sample(None, int(trace_id, 16), "RunWorkflow").decision
        is Decision.RECORD_AND_SAMPLE
    )
    return {"traceparent": f"00-{trace_id}-{parent_id}-{'01' if sampled else '00'}"}
