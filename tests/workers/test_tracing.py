"""The trace of a run that was started by somebody who traces nothing."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, Worker

from tests.workers.rehearsed_traces import QUEUE, TracedOrder, TracedParcel, take_a_step
from workers.client import connect
from workers.embedded.temporal import EmbeddedTemporal
from workers.tracing import OneTracePerRun


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTemporal]:
    with EmbeddedTemporal(tmp_path_factory.mktemp("temporal"), in_memory=True) as server:
        yield server


async def run_an_order(
    temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch, order_id: str, sampler: Sampler
) -> tuple[Client, InMemorySpanExporter]:
    """Run one to its end, on a worker that traces and remembers nothing between two of its tasks."""
    untraced = await connect(temporal.address)
    spans, provider = InMemorySpanExporter(), TracerProvider(sampler=ParentBased(sampler))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with monkeypatch.context() as tracing:
        tracing.setattr(trace, "get_tracer_provider", lambda: provider)
        traced = await connect(temporal.address)
        async with Worker(
            traced,
            task_queue=QUEUE,
            workflows=[TracedOrder, TracedParcel],
            activities=[take_a_step],
            max_cached_workflows=0,
        ):
            await untraced.execute_workflow(TracedOrder.run, 1, id=order_id, task_queue=QUEUE)
    return untraced, spans


async def test_run_without_a_trace_has_one_over_replays_children_and_continuing_as_new(
    temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, spans = await run_an_order(temporal, monkeypatch, "sampled", ALWAYS_ON)
    seen = [span.name for span in spans.get_finished_spans()]
    assert seen.count("RunWorkflow:TracedOrder") == seen.count("RunWorkflow:TracedParcel") == 2
    assert seen.count("RunActivity:take_a_step") == 6
    assert len({span.context.trace_id for span in spans.get_finished_spans() if span.context}) == 1
    history = await client.get_workflow_handle("sampled").fetch_history()
    # A process that traces nothing plays it too.
    for interceptors in ((), (OneTracePerRun(TracerProvider().get_tracer("tests")),)):
        await Replayer(
            workflows=[TracedOrder], data_converter=pydantic_data_converter, interceptors=interceptors
        ).replay_workflow(history)


async def test_run_without_a_trace_is_sampled_like_any_other(
    temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spans = await run_an_order(temporal, monkeypatch, "unsampled", ALWAYS_OFF)
    assert spans.get_finished_spans() == ()
