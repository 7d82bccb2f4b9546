"""What we asked of payment provider, warehouse and carrier: intended first, then the answer, one row per key."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.operations import OperationState, PaymentKind, ShippingKind
from models.order import TenderKind
from models.tables.base import known_currency, moment, not_negative, one_of


class Operation(SQLModel):
    """Columns of every operation. ``parent`` is what it acts on: the provider's reference, or the key it undoes."""

    key: str = Field(primary_key=True)
    order_id: str
    shipment_id: str | None = None
    kind: str
    state: str = OperationState.INTENDED
    parent: str | None = None
    provider_ref: str | None = None
    answer: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    intended_at: datetime = moment()
    answered_at: datetime | None = moment(default=None)


class PaymentOperationRow(Operation, table=True):
    """A movement of money. A trigger keeps captures within their authorisation and refunds within their capture.

    ``amount_minor`` of an authorisation stays what was held first; voids and captures say what became of it. Another
    trigger posts what is confirmed to the ledger; ``split`` says what a capture is for, by ``policies.money.Parts``.
    """

    __tablename__ = "payment_operations"
    __table_args__ = (
        one_of("kind", PaymentKind),
        one_of("state", OperationState),
        not_negative("amount_minor"),
        known_currency(),
        CheckConstraint("kind <> 'refund' OR cause IS NOT NULL", name="refund_cause"),
        CheckConstraint("kind NOT IN ('capture', 'refund') OR parent IS NOT NULL", name="parent"),
        CheckConstraint(
            "kind = 'void' OR state <> 'confirmed' OR provider_ref IS NOT NULL", name="provider_ref"
        ),
        Index("uq_payment_operations_provider_ref", "kind", "provider_ref", unique=True),
        Index("ix_payment_operations_order", "order_id"),
        Index("ix_payment_operations_parent", "kind", "parent"),
        Index("ix_payment_operations_refunded", "answered_at", postgresql_where="kind = 'refund'"),
        # What is watched all the time: asked for, and not answered.
        Index("ix_payment_operations_intended", "intended_at", postgresql_where="state = 'intended'"),
    )

    amount_minor: int = Field(sa_type=BigInteger)
    currency: str
    cause: str | None = None
    tender: str = Field(default=TenderKind.CARD, sa_column_kwargs={"server_default": "card"})
    instrument: str | None = None
    split: dict[str, int] | None = Field(default=None, sa_type=JSONB(none_as_null=True))


class ShippingOperationRow(Operation, table=True):
    """A pick or a label, or the calling off of one."""

    __tablename__ = "shipping_operations"
    __table_args__ = (
        one_of("kind", ShippingKind),
        one_of("state", OperationState),
        Index("ix_shipping_operations_shipment", "shipment_id"),
        Index("ix_shipping_operations_intended", "intended_at", postgresql_where="state = 'intended'"),
    )
