"""Where goods are and how they travel: the network, stock on hand, and who has it reserved."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Identity, Index, String, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.allocation import AllocationKind
from models.stock import MovementKind
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
    calendar: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    latitude: float | None = None
    longitude: float | None = None


class CarrierServiceRow(SQLModel, table=True):
    """One service of one carrier; ``zones`` are prices and speeds between countries."""

    __tablename__ = "carrier_services"

    carrier: str = Field(primary_key=True)
    service: str = Field(primary_key=True)
    max_weight_g: int
    zones: list[dict[str, Any]] = Field(sa_type=JSONB)
    active: bool = True
    pickup_days: list[str] | None = Field(default=None, sa_type=ARRAY(String))
    delivery_days: list[str] | None = Field(default=None, sa_type=ARRAY(String))
    holiday_delivery: bool = Field(default=True, sa_column_kwargs={"server_default": text("true")})


class PostcodeCentroidRow(SQLModel, table=True):
    """About where the postcodes of a country that begin with ``prefix`` are; ``''`` is the country itself."""

    __tablename__ = "postcode_centroids"

    country: str = Field(primary_key=True)
    prefix: str = Field(primary_key=True)
    latitude: float
    longitude: float


class StockRow(SQLModel, table=True):
    """Units of a SKU at a node. The check is what makes overselling impossible, whoever writes.

    ``safety_stock`` is kept back from new reservations. A trigger writes each change of a row down as a movement.
    ``lots``: it is divided into ``stock_lots``, which follow it.
    """

    __tablename__ = "stock"
    __table_args__ = (
        CheckConstraint("0 <= reserved AND reserved <= on_hand", name="reserved_within_on_hand"),
        CheckConstraint("safety_stock >= 0", name="safety_stock"),
        Index("ix_stock_sku", "sku"),
    )

    node: str = Field(primary_key=True, foreign_key="nodes.node_id")
    sku: str = Field(primary_key=True)
    on_hand: int = Field(sa_type=BigInteger)
    reserved: int = Field(default=0, sa_type=BigInteger)
    safety_stock: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    lots: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})


class StockMovementRow(SQLModel, table=True):
    """One change of one stock row, append-only: by how much, and (``…_after``) what it came to.

    Only the trigger on ``stock`` writes here, so that a row is always the sum of its movements. ``source`` is what of
    ours caused it (a reservation's key, a shipment), ``document_id`` what somebody else's did.
    """

    __tablename__ = "stock_movements"
    __table_args__ = (
        one_of("kind", MovementKind),
        Index("ix_stock_movements_row", "sku", "node", "movement_id"),
        Index(
            "uq_stock_movements_document",
            "document_id",
            "kind",
            "node",
            "sku",
            "source",
            unique=True,
            postgresql_where="document_id IS NOT NULL",
        ),
    )

    movement_id: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    node: str
    sku: str
    kind: str
    on_hand: int = Field(sa_type=BigInteger)
    reserved: int = Field(sa_type=BigInteger)
    on_hand_after: int = Field(sa_type=BigInteger)
    reserved_after: int = Field(sa_type=BigInteger)
    actor: str
    reason: str | None = None
    source: str = Field(default="", sa_column_kwargs={"server_default": ""})
    document_id: str | None = None
    at: datetime = moment(sa_column_kwargs={"server_default": text("clock_timestamp()")})


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
        Index(
            "ix_reservations_created_at",
            "created_at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
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
    """Units that a reservation holds for one shipment in one stock row, promised to arrive by ``promised_at``."""

    __tablename__ = "reserved_units"
    __table_args__ = (
        one_of("state", UnitState),
        not_negative("quantity"),
        ForeignKeyConstraint(["node", "sku"], ["stock.node", "stock.sku"]),
        Index("ix_reserved_units_shipment", "shipment_id"),
        Index("ix_reserved_units_sku", "sku"),
        Index("ix_reserved_units_held", "node", "sku", postgresql_where="state = 'held'"),
    )

    key: str = Field(primary_key=True, foreign_key="reservations.key")
    shipment_id: str = Field(primary_key=True)
    node: str = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)
    state: str
    promised_at: datetime | None = moment(default=None)


class StockLotRow(SQLModel, table=True):
    """Units of a stock row that came in one lot; those of which nobody knows the lot are in the lot ``''``.

    They always add up to the stock row. A lot stays when it is empty, so that its date is known when more comes.
    ``told_expired``: subscribers have been told what is available without it.
    """

    __tablename__ = "stock_lots"
    __table_args__ = (
        CheckConstraint("0 <= reserved AND reserved <= on_hand", name="reserved_within_on_hand"),
        CheckConstraint("(lot = '') = (expires_on IS NULL)", name="expires_on"),
        ForeignKeyConstraint(["node", "sku"], ["stock.node", "stock.sku"]),
        Index("ix_stock_lots_sku_lot", "sku", "lot"),
        Index("ix_stock_lots_expires_on", "expires_on", postgresql_where="on_hand > 0"),
    )

    node: str = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    lot: str = Field(primary_key=True)
    expires_on: date | None = None
    on_hand: int = Field(sa_type=BigInteger)
    reserved: int = Field(sa_type=BigInteger)
    told_expired: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})


class ReservedLotRow(SQLModel, table=True):
    """The lots that reserved units are to be picked from, were picked from, or would have been; triggers write it."""

    __tablename__ = "reserved_lots"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        ForeignKeyConstraint(
            ["key", "shipment_id", "node", "sku"],
            ["reserved_units.key", "reserved_units.shipment_id", "reserved_units.node", "reserved_units.sku"],
        ),
        ForeignKeyConstraint(["node", "sku", "lot"], ["stock_lots.node", "stock_lots.sku", "stock_lots.lot"]),
        Index("ix_reserved_lots_lot", "sku", "lot", "node"),
        Index("ix_reserved_lots_shipment", "shipment_id"),
    )

    key: str = Field(primary_key=True)
    shipment_id: str = Field(primary_key=True)
    node: str = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    lot: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)


class StockLotMovementRow(SQLModel, table=True):
    """One change of one lot, append-only; as ``StockMovementRow`` for the stock row."""

    __tablename__ = "stock_lot_movements"
    __table_args__ = (
        one_of("kind", MovementKind),
        Index("ix_stock_lot_movements_lot", "sku", "node", "lot", "movement_id"),
    )

    movement_id: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    node: str
    sku: str
    lot: str
    kind: str
    on_hand: int = Field(sa_type=BigInteger)
    reserved: int = Field(sa_type=BigInteger)
    on_hand_after: int = Field(sa_type=BigInteger)
    reserved_after: int = Field(sa_type=BigInteger)
    actor: str
    reason: str | None = None
    source: str = Field(default="", sa_column_kwargs={"server_default": ""})
    document_id: str | None = None
    at: datetime = moment(sa_column_kwargs={"server_default": text("clock_timestamp()")})


class StockDocumentRow(SQLModel, table=True):
    """What somebody outside told us of stock, and what came of it: whoever sends it again gets the same answer."""

    __tablename__ = "stock_documents"
    __table_args__ = (Index("ix_stock_documents_at", "at"),)

    document_id: str = Field(primary_key=True)
    kind: str
    fingerprint: str
    actor: str
    reason: str | None = None
    document: dict[str, Any] = Field(sa_type=JSONB)
    answer: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    at: datetime = moment()


class StockTransferRow(SQLModel, table=True):
    """Units between two nodes. What is neither ``received`` nor ``lost`` is on its way."""

    __tablename__ = "stock_transfers"
    __table_args__ = (
        CheckConstraint(
            "quantity > 0 AND received >= 0 AND lost >= 0 AND received + lost <= quantity", name="quantity"
        ),
        CheckConstraint("from_node <> to_node", name="nodes"),
        CheckConstraint("(received + lost = quantity) = (closed_at IS NOT NULL)", name="closed_at"),
        Index("ix_stock_transfers_open", "sku", "to_node", postgresql_where="closed_at IS NULL"),
    )

    transfer_id: str = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    from_node: str = Field(foreign_key="nodes.node_id")
    to_node: str = Field(foreign_key="nodes.node_id")
    quantity: int = Field(sa_type=BigInteger)
    received: int = Field(default=0, sa_type=BigInteger)
    lost: int = Field(default=0, sa_type=BigInteger)
    sent_at: datetime = moment()
    closed_at: datetime | None = moment(default=None)


class StockTransferLotRow(SQLModel, table=True):
    """Which lots a transfer carries, if its SKU has lots; ``''`` is a lot that nobody knows."""

    __tablename__ = "stock_transfer_lots"
    __table_args__ = (
        CheckConstraint("quantity > 0 AND 0 <= received AND received <= quantity", name="quantity"),
        ForeignKeyConstraint(["transfer_id", "sku"], ["stock_transfers.transfer_id", "stock_transfers.sku"]),
    )

    transfer_id: str = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    lot: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)
    received: int = Field(default=0, sa_type=BigInteger)


class InboundSupplyRow(SQLModel, table=True):
    """Goods that somebody outside has promised to a node, by ``expected_on``. Received as a whole, or closed, it is no
    supply any more.
    """

    __tablename__ = "inbound_supply"
    __table_args__ = (
        not_negative("quantity", "received"),
        Index("ix_inbound_supply_open", "sku", "node", "expected_on", postgresql_where="received < quantity"),
    )

    supply_id: str = Field(primary_key=True)
    node: str = Field(primary_key=True, foreign_key="nodes.node_id")
    sku: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)
    received: int = Field(default=0, sa_type=BigInteger)
    expected_on: date
    document_id: str = Field(foreign_key="stock_documents.document_id")
    updated_at: datetime = moment()


class StockReleasedRow(SQLModel, table=True):
    """Units taken from a promise because they are not there. Its shipment waits to be planned anew (``handled_at``)."""

    __tablename__ = "stock_released"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        Index("ix_stock_released_waiting", "released_id", postgresql_where="handled_at IS NULL"),
        Index("ix_stock_released_order", "order_id"),
    )

    released_id: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    document_id: str = Field(foreign_key="stock_documents.document_id")
    reservation: str
    order_id: str
    shipment_id: str
    node: str
    sku: str
    quantity: int = Field(sa_type=BigInteger)
    at: datetime = moment()
    handled_at: datetime | None = moment(default=None)


class AllocationPolicyRow(SQLModel, table=True):
    """The rules of who may be promised what, as they were set; the last version holds."""

    __tablename__ = "allocation_policies"

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    document_id: str = Field(unique=True)
    document: dict[str, Any] = Field(sa_type=JSONB)
    actor: str
    reason: str | None = None
    at: datetime = moment()


class StockAllocationRow(SQLModel, table=True):
    """One rule of the last version. ``told_in_force``: whether it held when availability was last told."""

    __tablename__ = "stock_allocations"
    __table_args__ = (
        one_of("kind", AllocationKind),
        CheckConstraint(
            "(units IS NULL) <> (percent IS NULL) AND coalesce(units, 0) >= 0"
            " AND coalesce(percent, 0) BETWEEN 0 AND 100 AND (kind <> 'cap' OR units IS NOT NULL)",
            name="amount",
        ),
        CheckConstraint("valid_from < valid_until", name="valid"),
        Index("ix_stock_allocations_sku", "sku"),
    )

    rule_id: str = Field(primary_key=True)
    kind: str
    sku: str | None = None
    node: str | None = None
    channels: list[str] = Field(sa_type=ARRAY(String))
    tiers: list[str] = Field(sa_type=ARRAY(String))
    units: int | None = Field(default=None, sa_type=BigInteger)
    percent: int | None = None
    valid_from: datetime | None = moment(default=None)
    valid_until: datetime | None = moment(default=None)
    told_in_force: bool | None = None


class StockAllocationUseRow(SQLModel, table=True):
    """What a rule has counted of a SKU, at one node or at all together (``''``). Triggers on reserved units count."""

    __tablename__ = "stock_allocation_use"
    __table_args__ = (Index("ix_stock_allocation_use_sku", "sku", "node"),)

    rule_id: str = Field(
        primary_key=True,
        foreign_key="stock_allocations.rule_id",
        ondelete="CASCADE",
    )
    sku: str = Field(primary_key=True)
    node: str = Field(primary_key=True)
    used: int = Field(sa_type=BigInteger)
