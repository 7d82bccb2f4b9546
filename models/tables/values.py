"""What stock was worth where it lay, as the last runs worked it out."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.tables.base import moment


class StockValueRunRow(SQLModel, table=True):
    """A run that worked values out. ``result`` is what it found in all, with method and parameters."""

    __tablename__ = "stock_value_runs"
    __table_args__ = (Index("ix_stock_value_runs_worked_out_at", "worked_out_at"),)

    run_id: str = Field(primary_key=True)
    worked_out_at: datetime = moment()
    result: dict[str, Any] = Field(sa_type=JSONB)


class StockValueRow(SQLModel, table=True):
    """What a run found of a SKU at a node, where some of it lay.

    ``price_mills``: what a unit is worth to orders to come; None: too little was sold to know. ``sold``: units within
    the run's window; None: it had not been there that long.
    """

    __tablename__ = "stock_values"
    __table_args__ = (
        CheckConstraint("price_mills >= 0 AND sold >= 0 AND on_hand >= 0", name="not_negative"),
    )

    run_id: str = Field(primary_key=True, foreign_key="stock_value_runs.run_id")
    sku: str = Field(primary_key=True)
    node: str = Field(primary_key=True)
    price_mills: int | None = Field(default=None, sa_type=BigInteger)
    sold: int | None = Field(default=None, sa_type=BigInteger)
    on_hand: int = Field(sa_type=BigInteger)
