"""What Prometheus can ask of this process, and of the orders as a whole."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from activities.store.measures import Measures, Waiting
from models.operations import PaymentKind, ShippingKind
from models.reconciliation import DifferenceKind
from models.review import ReviewKind
from models.states import OrderState, ShipmentState

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """The API's own registries, so that several applications can live in one process.

    What the database says has one of its own: it is not shown while the database does not say it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counted = CollectorRegistry()
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
        self.broken_runs = Gauge(
            "orderwright_broken_runs",
            "Runs of open orders that ended from outside, hang or are missing; each has an open review",
            registry=self.registry,
        )
        self.parcels_astray = Gauge(
            "orderwright_parcels_astray",
            "Parcels that move although cancelled or paid back as lost; each has an open review",
            registry=self.registry,
        )
        self.expired = Counter(
            "orderwright_reservations_expired",
            "Reservations whose time was up, by what became of them: extended, freed, put_off (no run), spent",
            ["outcome"],
            registry=self.registry,
        )
        self.strays = Counter(
            "orderwright_stray_units_freed",
            "Units that were reserved for nobody any more and are free again",
            registry=self.registry,
        )
        self.unserved_runs = Gauge(
            "orderwright_unserved_runs",
            "Runs that this process looked at and that have waited for a workflow worker for minutes",
            registry=self.registry,
        )
        self.webhooks = Counter(
            "orderwright_webhooks",
            "Verified webhooks by kind and what became of them",
            ["kind", "result"],
            registry=self.registry,
        )
        self.webhooks_refused = Counter(
            "orderwright_webhooks_refused",
            "Webhooks that were not taken, by who is said to have sent them and the code of the answer",
            ["neighbour", "code"],
            registry=self.registry,
        )
        self.outbox_sent = Counter(
            "orderwright_outbox_events",
            "Events sent to subscribers by this process: taken, or failed and tried again",
            ["subscriber", "result"],
            registry=self.registry,
        )
        self.outbox_seconds = Histogram(
            "orderwright_outbox_seconds",
            "Time from an event to the subscriber that took it",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
            registry=self.registry,
        )
        self.streams = Gauge(
            "orderwright_streams_open",
            "Streams of availability that this process serves",
            registry=self.registry,
        )
        self._database_up = Gauge(
            "orderwright_database_up",
            "1 when PostgreSQL answered this very scrape, else 0 and without what is counted there",
            registry=self.registry,
        )
        self.database_full = Counter(
            "orderwright_database_full",
            "Times that PostgreSQL answered this process and had no room for what it was asked to do",
            registry=self.registry,
        )
        self._orders = Gauge(
            "orderwright_orders",
            "Orders by state, counted in the database when asked",
            ["state"],
            registry=self._counted,
        )
        self._late_events = Gauge(
            "orderwright_late_events",
            "Events of neighbours that found no run and are kept for reconciliation",
            registry=self._counted,
        )

        self._shipments = Gauge(
            "orderwright_shipments",
            "Shipments by state, counted in the database when asked",
            ["state"],
            registry=self._counted,
        )
        self._reviews = Gauge(
            "orderwright_reviews_open",
            "Reviews that wait for a person, by kind",
            ["kind"],
            registry=self._counted,
        )
        self._oldest_review = Gauge(
            "orderwright_reviews_oldest_seconds",
            "How long the oldest open review of a kind has waited; 0 when there is none",
            ["kind"],
            registry=self._counted,
        )
        self._overdue = Gauge(
            "orderwright_reviews_overdue",
            "Open reviews whose deadline has passed: their run should have gone on without an answer",
            registry=self._counted,
        )
        self._unclear = Gauge(
            "orderwright_effects_unclear",
            "Effects asked of a neighbour more than 5 minutes ago whose outcome we do not know, by kind",
            ["kind"],
            registry=self._counted,
        )
        self._oldest_unclear = Gauge(
            "orderwright_effects_unclear_oldest_seconds",
            "How long ago the oldest of them was asked for; 0 when there is none",
            ["kind"],
            registry=self._counted,
        )
        self._never_started = Gauge(
            "orderwright_orders_never_started",
            "Accepted orders whose run was not started yet",
            registry=self._counted,
        )
        self._oldest_never_started = Gauge(
            "orderwright_orders_never_started_oldest_seconds",
            "How long ago the oldest of them was accepted; 0 when there is none",
            registry=self._counted,
        )

        self._outbox_waiting = Gauge(
            "orderwright_outbox_waiting",
            "Events that a subscriber has not taken yet; counted up to 10,000",
            ["subscriber"],
            registry=self._counted,
        )
        self._outbox_oldest = Gauge(
            "orderwright_outbox_oldest_seconds",
            "How long the oldest event has waited that an active subscriber has not taken; 0 when there is none",
            ["subscriber"],
            registry=self._counted,
        )
        self._dead_letters = Gauge(
            "orderwright_outbox_dead_letters",
            "Events that a subscriber did not take and that are not tried any more; those of their key wait behind",
            ["subscriber"],
            registry=self._counted,
        )
        self._oldest_awaited = Gauge(
            "orderwright_orders_awaiting_customer_oldest_seconds",
            "For how long the order has waited that has waited longest for its customer; 0 when there is none",
            registry=self._counted,
        )

        self._differences = Gauge(
            "orderwright_differences_open",
            "Differences that the reconciliation found and that wait for a person, by kind",
            ["kind"],
            registry=self._counted,
        )
        self._reconciled = Gauge(
            "orderwright_reconciled_seconds_ago",
            "How long ago an area was last reconciled to the end; none for one that never was",
            ["area"],
            registry=self._counted,
        )

    def render(self, found: Measures | None) -> bytes:
        """The text exposition, with the database's gauges as ``found``; without them when it did not answer."""
        self._database_up.set(found is not None)
        if found is None:
            return generate_latest(self.registry)
        self._set(found)
        return generate_latest(self.registry) + generate_latest(self._counted)

    def _set(self, found: Measures) -> None:
        """What is missing in ``found`` counts zero."""
        for state in OrderState:
            self._orders.labels(state.value).set(found.orders.get(state, 0))
        for parcel_state in ShipmentState:
            self._shipments.labels(parcel_state.value).set(found.shipments.get(parcel_state, 0))
        for kind in ReviewKind:
            waiting = found.reviews.get(kind, Waiting())
            self._reviews.labels(kind.value).set(waiting.count)
            self._oldest_review.labels(kind.value).set(waiting.oldest_seconds)
        self._overdue.set(found.reviews_overdue)
        for effect in (*PaymentKind, *ShippingKind):
            unclear = found.effects_unclear.get(effect.value, Waiting())
            self._unclear.labels(effect.value).set(unclear.count)
            self._oldest_unclear.labels(effect.value).set(unclear.oldest_seconds)
        self._never_started.set(found.never_started.count)
        self._oldest_never_started.set(found.never_started.oldest_seconds)
        self._oldest_awaited.set(found.awaiting_customer.oldest_seconds)
        self._late_events.set(found.late_events)
        for kind_of_difference in DifferenceKind:
            self._differences.labels(kind_of_difference.value).set(
                found.differences.get(kind_of_difference, 0)
            )
        for area, ago in found.reconciled_seconds_ago.items():
            self._reconciled.labels(area.value).set(ago)
        # A subscriber that was removed is shown no more.
        for gauge in (self._outbox_waiting, self._outbox_oldest, self._dead_letters):
            gauge.clear()
        for told in found.subscribers:
            self._outbox_waiting.labels(told.subscriber_id).set(told.waiting)
            self._outbox_oldest.labels(told.subscriber_id).set(told.oldest_seconds if told.active else 0)
            self._dead_letters.labels(told.subscriber_id).set(told.dead_letters)
