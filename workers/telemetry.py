"""How a process is watched from outside: traces to an OpenTelemetry collector, metrics for Prometheus.

Both are off unless the settings ask for them. One trace leads from the HTTP request through the workflow and its
activities to the call of a neighbour: the SDK's interceptor carries the context in Temporal's own headers, which are no
part of what a replay compares, and makes its spans outside of the workflow's sandbox and never while replaying.

Of the SDK's two interceptors this is the one whose workflow spans end as soon as they begin. The newer one ends them
with the run, which for an order is weeks later and in another process, and calls itself experimental.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio.client import Interceptor
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from models.errors import Refused
from workers.settings import Settings

_SDK_LOGGER = "temporalio.core"
_TRACE_CONTEXT = TraceContextTextMapPropagator()


@asynccontextmanager
async def tracing(service: str, settings: Settings) -> AsyncIterator[None]:
    """Trace this process as ``orderwright-{service}`` while inside; does nothing without ``otlp_endpoint``.

    What was not sent yet is sent at the end, for at most ten seconds.
    """
    if not settings.otlp_endpoint:
        yield
        return
    # Imported here: a process that traces nothing does not pay for the SDK.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    from workers.discreet import DiscreetExporter  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"orderwright-{service}"}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(DiscreetExporter(exporter)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # Processes of ours leave without running exit handlers; see workers.exit.
        await asyncio.to_thread(provider.shutdown)


def client_interceptors() -> Sequence[Interceptor]:
    """What a Temporal client of this process is connected with; its workers take it over."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return ()  # nobody has set up a real one
    from workers.tracing import OneTracePerRun  # noqa: PLC0415

    return (OneTracePerRun(),)


def current_traceparent() -> str | None:
    """The current span in the form of W3C Trace Context, to go on with later; None outside of any."""
    carrier: dict[str, str] = {}
    _TRACE_CONTEXT.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def going_on_with(traceparent: str | None) -> Iterator[None]:
    """Inside, what is begun belongs to that trace; to the current one without a ``traceparent``."""
    if traceparent is None:
        yield
        return
    token = context.attach(_TRACE_CONTEXT.extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        context.detach(token)


def trace_id() -> str | None:
    """The current trace in hexadecimal, for the log; None outside of any."""
    current = trace.get_current_span().get_span_context()
    return trace.format_trace_id(current.trace_id) if current.is_valid else None


def worker_runtime(settings: Settings) -> Runtime:
    """The SDK's runtime of a worker: its log goes through our logger, its metrics to ``metrics_port`` if there is one.

    Metrics that activities make with ``activity.metric_meter()`` are shown there, too.

    Raises:
        Refused: the port cannot be listened on.
    """
    metrics = None
    if settings.metrics_port:
        metrics = PrometheusConfig(
            bind_address=f"{settings.monitoring_host}:{settings.metrics_port}",
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
    forwarding = LogForwardingConfig(
        logger=logging.getLogger(_SDK_LOGGER),
        # The fields of a failure quote it word for word; workers.logging takes over those that are only ids.
        append_log_fields_to_message=False,
        prepend_target_on_message=False,
    )
    watched = TelemetryConfig(
        logging=LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding),
        metrics=metrics,
    )
    try:
        return Runtime(telemetry=watched)
    except (RuntimeError, ValueError) as refused:
        raise Refused(
            f"the metrics cannot be shown on {settings.monitoring_host}:{settings.metrics_port}"
            f" (ORDERWRIGHT_METRICS_PORT): {refused}"
        ) from refused
