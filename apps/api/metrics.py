"""What Prometheus can ask of this process, and of the orders as a whole."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from models.states import OrderState

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """The API's own registry, so that several applications can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "orderwright_http_requests",
            "Answered HTTP requests",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "orderwright_http_request_seconds",
            "Time from request to the end of the answer",
            ["method", "route"],
            registry=self.registry,
        )
        self.intake = Counter(
            "orderwright_intake",
            "Documents sent to POST /v1/orders by what became of them",
            ["result"],
            registry=self.registry,
        )
        self.swept = Counter(
            "orderwright_sweeper_starts",
            "Runs started by the sweeper for accepted orders that had none",
            registry=self.registry,
        )
        self.without_run = Counter(
            "orderwright_orders_without_run",
            "Times that an open order was found to have lost its run; orderwright doctor lists them",
            registry=self.registry,
        )
        self.webhooks = Counter(
            "orderwright_webhooks",
            "Verified webhooks by kind and what became of them",
            ["kind", "result"],
            registry=self.registry,
        )
        self._orders = Gauge(
            "orderwright_orders",
            "Orders by state, counted in the database when asked",
            ["state"],
            registry=self.registry,
        )
        self._late_events = Gauge(
            "orderwright_late_events",
            "Events of neighbours that found no run and are kept for reconciliation",
            registry=self.registry,
        )

    def render(self, orders_by_state: dict[OrderState, int], late_events: int) -> bytes:
        """The text exposition, with the gauges set to what the database holds; a missing state counts zero."""
        self._late_events.set(late_events)
        for state in OrderState:
            self._orders.labels(state.value).set(orders_by_state.get(state, 0))
        return generate_latest(self.registry)
