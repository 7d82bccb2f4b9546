"""Where goods are and how they travel: the network, stock on hand, and who has it reserved."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.tables.base import moment, not_negative, one_of


class NetworkRow(SQLModel, table=True):
    """The network's own assumptions; there is one network."""

    __tablename__ = "network"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    currency: str
    unit_weight_g: int
    split_penalty_minor: int = Field(sa_type=BigInteger)
    processing_days: int


class NodeRow(SQLModel, table=True):
    """A place that holds stock and ships."""

    __tablename__ = "nodes"

    node_id: str = Field(primary_key=True)
    name: str
    country: str
    time_zone: str
    handling_minor: int = Field(sa_type=BigInteger)
    active: bool = True


class CarrierServiceRow(SQLModel, table=True):
    """One service of one carrier; ``zones`` are prices and speeds between countries."""

    __tablename__ = "carrier_services"

    carrier: str = Field(primary_key=True)
    service: str = Field(primary_key=True)
    max_weight_g: int
    zones: list[dict[str, Any]] = Field(sa_type=JSONB)
    active: bool = True


class StockRow(SQLModel, table=True):
    """Units of a SKU at a node. The check is what makes overselling impossible, whoever writes."""

    __tablename__ = "stock"
    __table_args__ = (
        CheckConstraint("0 <= reserved AND reserved <= on_hand", name="reserved_within_on_hand"),
        Index("ix_stock_sku", "sku"),
    )

    node: str = Field(primary_key=True, foreign_key="nodes.node_id")
    sku: str = Field(primary_key=True)
    on_hand: int = Field(sa_type=BigInteger)
    reserved: int = Field(default=0, sa_type=BigInteger)


class ReservationState(StrEnum):
    """RELEASED is for good: a reservation that comes after its own release is refused."""

    HELD = "held"
    RELEASED = "released"


class ReservationRow(SQLModel, table=True):
    """One reservation of a plan, by its key. Its units stand in ``reserved_units``."""

    __tablename__ = "reservations"
    __table_args__ = (
        one_of("state", ReservationState),
        Index("ix_reservations_order", "order_id"),
        Index("ix_reservations_expiry", "expires_at", postgresql_where="state = 'held'"),
    )

    key: str = Field(primary_key=True)
    order_id: str
    plan_id: str | None = None
    state: str
    expires_at: datetime | None = moment(default=None)
    created_at: datetime = moment()


class UnitState(StrEnum):
    """HELD units are in ``stock.reserved``; CONSUMED ones have left with the carrier; RELEASED ones are free again."""

    HELD = "held"
    RELEASED = "released"
    CONSUMED = "consumed"


class ReservedUnitsRow(SQLModel, table=True):
    """Units that a reservation holds for one shipment in one stock row."""

    __tablename__ = "reserved_units"
    __table_args__ = (
        one_of("state", UnitState),
        not_negative("quantity"),
        ForeignKeyConstraint(["node", "sku"], ["stock.node", "stock.sku"]),
        Index("ix_reserved_units_shipment", "shipment_id"),
        Index("ix_reserved_units_held", "node", "sku", postgresql_where="state = 'held'"),
    )

    key: str = Field(primary_key=True, foreign_key="reservations.key")
    shipment_id: str = Field(primary_key=True)
    node: str = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)
    state: str
