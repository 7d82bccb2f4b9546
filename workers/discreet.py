"""Spans on their way out, without what may quote a customer: the words of exceptions, and query strings.

Nor the tokens of pay links: who reads one can use it.
"""

from collections.abc import Sequence

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_TYPE
from opentelemetry.semconv.attributes.url_attributes import URL_FULL, URL_PATH, URL_QUERY
from opentelemetry.trace import Status

_PAY = "/v1/pay/"
# By their older names, too: a library may still use them.
_ADDRESSES = (URL_PATH, URL_FULL, "http.target", "http.url")


class DiscreetExporter(SpanExporter):
    """Hands spans on to ``exporter``; of an exception only its type is told, of a status only its code, of a URL only
    its path, of a pay link not even that.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch."""
        return self._exporter.export([_discreet(span) for span in spans])

    def shutdown(self) -> None:
        """Nothing more will come."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is held back, within ``timeout_millis``."""
        return self._exporter.force_flush(timeout_millis)


def _discreet(span: ReadableSpan) -> ReadableSpan:
    attributes = span.attributes or {}
    by_pay_link = any(_PAY in str(attributes.get(name, "")) for name in _ADDRESSES)
    hidden = {URL_QUERY, *(_ADDRESSES if by_pay_link else ())}
    if not span.events and not span.status.description and hidden.isdisjoint(attributes):
        return span
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={name: value for name, value in attributes.items() if name not in hidden},
        events=[_only_the_type(event) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _only_the_type(event: Event) -> Event:
    kept = {name: value for name, value in (event.attributes or {}).items() if name == EXCEPTION_TYPE}
    return Event(event.name, attributes=kept, timestamp=event.timestamp)
