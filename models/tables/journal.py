"""What happened and what was asked: timeline, outcomes, review tasks, late events, messages.

Timeline and outcomes are append-only; triggers refuse every change. Rows here may speak of an order that was never
stored (a run started by a foreign client with an unusable document), so they do not reference ``orders``.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.effects import Audience, Template
from models.review import ReviewKind, Verdict
from models.states import ReviewState
from models.tables.base import moment, one_of
from models.webhooks import WebhookResult


class TimelineRow(SQLModel, table=True):
    """One fact: who did what, when, why, under which policy and model. ``position`` orders all of them."""

    __tablename__ = "timeline"
    __table_args__ = (
        Index("uq_timeline_position", "position", unique=True),
        Index("ix_timeline_order", "order_id", "position"),
        # Few: what a carrier reported of a parcel that our books have given up.
        Index("ix_timeline_unexpected", "recorded_at", postgresql_where="kind = 'carrier.unexpected'"),
    )

    entry_id: str = Field(primary_key=True)
    position: int | None = Field(
        default=None, sa_type=BigInteger, nullable=False, sa_column_args=[Identity(always=True)]
    )
    order_id: str
    shipment_id: str | None = None
    at: datetime = moment()
    business_at: datetime = moment()
    actor: str
    kind: str
    what: str
    why: str | None = None
    policy_version: str | None = None
    model_version: str | None = None
    details: dict[str, Any] = Field(sa_type=JSONB)
    recorded_at: datetime = moment()


class ReviewTaskRow(SQLModel, table=True):
    """A question to a person. ``task`` is the whole contract; the columns are what lists filter by."""

    __tablename__ = "review_tasks"
    __table_args__ = (
        one_of("state", ReviewState),
        one_of("kind", ReviewKind),
        one_of("verdict", Verdict),
        Index("ix_review_tasks_state", "state", "opened_at", "task_id"),
        Index("ix_review_tasks_order", "order_id"),
    )

    task_id: str = Field(primary_key=True)
    order_id: str
    workflow_id: str
    kind: str
    state: str
    opened_at: datetime = moment()
    deadline_at: datetime | None = moment(default=None)
    reminders: int = 0
    escalated: bool = False
    decided_at: datetime | None = moment(default=None)
    decided_by: str | None = None
    verdict: str | None = None
    task: dict[str, Any] = Field(sa_type=JSONB)


class OutcomeKind(StrEnum):
    """What an outcome row tells."""

    ORDER = "order"
    SHIPMENT = "shipment"


class OutcomeRow(SQLModel, table=True):
    """How something promised turned out, with the time at which we knew it: the only source that learning reads."""

    __tablename__ = "outcomes"
    __table_args__ = (
        one_of("kind", OutcomeKind),
        CheckConstraint("(cost_minor IS NULL) = (currency IS NULL)", name="cost"),
        Index("ix_outcomes_order", "order_id"),
        Index("ix_outcomes_known", "known_at"),
    )

    outcome_id: str = Field(primary_key=True)
    order_id: str
    shipment_id: str | None = None
    kind: str
    promised_at: datetime | None = moment(default=None)
    actual_at: datetime | None = moment(default=None)
    cost_minor: int | None = Field(default=None, sa_type=BigInteger)
    currency: str | None = None
    decision: str
    details: dict[str, Any] = Field(sa_type=JSONB)
    known_at: datetime = moment()


class LateEventRow(SQLModel, table=True):
    """A message that found no running workflow: kept, so that nothing a neighbour told us is lost.

    ``event_id`` is ``models.webhooks.event_key``: the kind and the neighbour's own id, in older rows only the latter.
    """

    __tablename__ = "late_events"
    __table_args__ = (
        Index("ix_late_events_order", "order_id"),
        Index("ix_late_events_received", "received_at"),
    )

    event_id: str = Field(primary_key=True)
    workflow_id: str = Field(primary_key=True)
    order_id: str
    kind: str
    event: dict[str, Any] = Field(sa_type=JSONB)
    received_at: datetime = moment()


class WebhookReceiptRow(SQLModel, table=True):
    """A neighbour's event that we have answered for: whoever sends it again, it has no second effect.

    ``event_id`` is as above; ``fingerprint`` tells a repeat from another event under the same id. Rows go after a
    while; see ``activities.store.receipts``.
    """

    __tablename__ = "webhook_receipts"
    __table_args__ = (one_of("result", WebhookResult), Index("ix_webhook_receipts_received", "received_at"))

    workflow_id: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)
    fingerprint: str
    result: str
    received_at: datetime = moment()


class NotificationState(StrEnum):
    """Where a message stands. ``NO_ADDRESS``: there was nobody to send it to."""

    PENDING = "pending"
    SENT = "sent"
    NO_ADDRESS = "no_address"


class NotificationRow(SQLModel, table=True):
    """A message that somebody was or is to be told; never the address."""

    __tablename__ = "notifications"
    __table_args__ = (
        one_of("state", NotificationState),
        one_of("audience", Audience),
        one_of("template", Template),
        CheckConstraint("(state = 'sent') = (message_id IS NOT NULL)", name="sent"),
        Index("ix_notifications_order", "order_id"),
    )

    key: str = Field(primary_key=True)
    order_id: str
    audience: str
    template: str
    state: str
    message_id: str | None = None
    # How many tenders had been offered when the message was first about to go: its pay link stays the same by it.
    pay_link_version: int | None = None
    created_at: datetime = moment()
    sent_at: datetime | None = moment(default=None)
