from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from workers.discreet import DiscreetExporter


class Collector(SpanExporter):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def exported(attributes: dict[str, str]) -> dict[str, object]:
    collector = Collector()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(DiscreetExporter(collector)))
    with provider.get_tracer(__name__).start_as_current_span("GET", attributes=attributes):
        pass
    (span,) = collector.spans
    return dict(span.attributes or {})


@pytest.mark.parametrize("name", ["url.path", "url.full", "http.target", "http.url"])
def test_a_pay_link_leaves_no_trace_of_its_token(name: str) -> None:
    sent = exported({name: "http://api/v1/pay/d2Vi.c2ln", "http.route": "/v1/pay/{token}"})
    assert sent == {"http.route": "/v1/pay/{token}"}


def test_other_paths_are_told_and_query_strings_are_not() -> None:
    sent = exported({"url.path": "/v1/orders/web:1001", "url.query": "name=somebody"})
    assert sent == {"url.path": "/v1/orders/web:1001"}
