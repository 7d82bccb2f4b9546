"""Units taken from orders because a warehouse does not hold them: which runs have still to be told of it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.messages import StockLost
from models.tables.stock import StockReleasedRow


class Loss(Contract):
    """What one document of a warehouse took from one order. ``released`` are the rows of ``stock_released``."""

    order_id: str
    document_id: str
    shipments: tuple[str, ...]
    released: tuple[int, ...]

    @property
    def message(self) -> StockLost:
        """As the order's run is told. The same rows make the same event, however often they are told."""
        return StockLost(
            event_id=f"stock-lost-{max(self.released)}",
            actor="warehouse",
            reason=f"stock document {self.document_id}"[:1000],
            shipments=tuple(int(shipment.rpartition(":")[2]) for shipment in self.shipments),
        )


async def untold_losses(session: AsyncSession, limit: int) -> list[Loss]:
    """What runs have not been told of yet, oldest first, by order and document."""
    rows = await session.execute(
        select(
            col(StockReleasedRow.order_id),
            col(StockReleasedRow.document_id),
            func.array_agg(func.distinct(col(StockReleasedRow.shipment_id))),
            func.array_agg(col(StockReleasedRow.released_id)),
        )
        .where(col(StockReleasedRow.handled_at).is_(None))
        .group_by(col(StockReleasedRow.order_id), col(StockReleasedRow.document_id))
        .order_by(func.min(col(StockReleasedRow.released_id)))
        .limit(limit)
    )
    return [
        Loss(
            order_id=order_id,
            document_id=document_id,
            shipments=tuple(sorted(shipments)),
            released=tuple(sorted(int(row) for row in released if row is not None)),
        )
        for order_id, document_id, shipments, released in rows
    ]


async def told_of(session: AsyncSession, released: Sequence[int]) -> None:
    """Note that the order's run knows, or that there is none any more to know."""
    await session.execute(
        update(StockReleasedRow)
        .where(col(StockReleasedRow.released_id).in_(released))
        .values(handled_at=datetime.now(UTC))
    )
