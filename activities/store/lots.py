"""Lots of stock: which there are, when they expire, and what documents do to them (migration 0019).

``stock`` is the truth of how much there is; its lots always add up to it. Units of which nobody knows the lot are in
the lot ``UNKNOWN``. A row must be locked (``warehouse``) before its lots are changed.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.base import Contract
from models.stock import LotStock, LotUnits, MovementKind, StockDocument

UNKNOWN = ""
Place = tuple[str, str]  # node, SKU


class LotLevel(Contract):
    """A lot at one node."""

    lot: str
    expires_on: date | None
    on_hand: int
    reserved: int

    @property
    def free(self) -> int:
        """What is promised to nobody."""
        return self.on_hand - self.reserved


class Promise(Contract):
    """Units of a stock row that a reservation holds for a shipment."""

    key: str
    shipment_id: str
    node: str
    sku: str


def today() -> date:
    """The day by which lots have expired; the database's functions go by the same."""
    return datetime.now(UTC).date()


# --- what there is ---
async def lots_at(session: AsyncSession, place: Place) -> dict[str, LotLevel]:
    """Every lot of a stock row by its name, the first to expire first, unknown ones last; none: it has no lots."""
    rows = await session.execute(text(_LOTS), {"node": place[0], "sku": place[1]})
    return {row["lot"]: LotLevel.model_validate(row) for row in rows.mappings()}


async def dates(session: AsyncSession, lots: Collection[tuple[str, str]]) -> dict[tuple[str, str], date]:
    """When lots expire, by (SKU, lot); without those that were never anywhere. Nobody makes one of them meanwhile."""
    for sku, lot in sorted(lots):
        await session.execute(text(_ALONE), {"sku": sku, "lot": lot})
    rows = await session.execute(
        text(_DATES), {"skus": [sku for sku, _ in lots], "lots": [lot for _, lot in lots]}
    )
    return {(row.sku, row.lot): row.expires_on for row in rows}


async def lots_to_show(session: AsyncSession, sku: str) -> dict[str, tuple[LotStock, ...]]:
    """The lots of a SKU that have units, by node."""
    found: dict[str, tuple[LotStock, ...]] = {}
    now = today()
    for row in await session.execute(text(_SHOWN), {"sku": sku}):
        expired = row.expires_on is not None and row.expires_on < now
        shown = LotStock(
            lot=row.lot or None,
            expires_on=row.expires_on,
            on_hand=row.on_hand,
            reserved=row.reserved,
            available=0 if expired else row.on_hand - row.reserved,
            expired=expired,
        )
        found[row.node] = (*found.get(row.node, ()), shown)
    return found


async def held_lots(session: AsyncSession, promise: Promise) -> dict[str, int]:
    """The lots that a promise is to be picked from, the first to expire first."""
    rows = await session.execute(text(_HELD), _of(promise))
    return {row.lot: row.quantity for row in rows}


async def lots_to_pick(session: AsyncSession, shipment_id: str) -> dict[str, list[LotUnits]]:
    """The lots that a shipment is to be picked from, by SKU, the first to expire first; none: it has none."""
    found: dict[str, list[LotUnits]] = {}
    for row in await session.execute(text(_TO_PICK), {"shipment_id": shipment_id}):
        units = LotUnits(lot=row.lot or None, expires_on=row.expires_on, quantity=row.quantity)
        found.setdefault(row.sku, []).append(units)
    return found


# --- what is done to it ---
async def keep_good(session: AsyncSession, shipment_id: str) -> None:
    """Have a shipment served by other lots where those it was given will not be good for its customer any more.

    It may have waited for long. What no other lot can serve is as it was: see ``no_longer_good``.
    """
    if not await _bad(session, shipment_id):
        return
    await session.execute(text(_LOCK), {"shipment_id": shipment_id})
    for row in await _bad(session, shipment_id):
        promise = Promise(key=row.key, shipment_id=shipment_id, node=row.node, sku=row.sku)
        await give_way(session, promise, row.lot, row.quantity, not_to=())
    await hush(session)


async def no_longer_good(session: AsyncSession, shipment_id: str) -> str | None:
    """What a shipment must not be picked from, in words: it expires before its customer may have it. None: nothing."""
    told = [
        f"{row.quantity} of {row.sku} in lot {row.lot}, which expires on {row.expires_on}"
        f" (good until {row.good_on} is needed)"
        for row in await _bad(session, shipment_id)
    ]
    return ", ".join(told) or None


async def say(session: AsyncSession, document: StockDocument, kind: MovementKind, source: str = "") -> None:
    """What the next changes of lots are for, until something else is said."""
    said = {
        "kind": kind,
        "actor": document.actor,
        "reason": getattr(document, "reason", None),
        "source": source,
        "document_id": document.document_id,
    }
    await session.execute(text(_SAY), {"said": json.dumps(said)})


async def hush(session: AsyncSession) -> None:
    """What comes next is of something else."""
    await session.execute(text(_SAY), {"said": ""})


async def put(session: AsyncSession, place: Place, lot: str, expires_on: date, units: int = 0) -> None:
    """``units`` more of a lot; the row has lots from now on, if it had none."""
    await session.execute(text(_BEGIN), {"node": place[0], "sku": place[1]})
    await session.execute(
        text(_PUT),
        {"node": place[0], "sku": place[1], "lot": lot, "expires_on": expires_on, "units": units},
    )


async def set_to(session: AsyncSession, place: Place, lot: str, on_hand: int) -> None:
    """So many units of a lot lie there; no fewer than are reserved."""
    await session.execute(text(_SET), {"node": place[0], "sku": place[1], "lot": lot, "on_hand": on_hand})


async def give_way(
    session: AsyncSession, promise: Promise, lot: str, units: int, *, not_to: Iterable[str]
) -> int:
    """Have a promise served by other lots than this; answers for how many units there were some."""
    moved = await session.scalar(
        text(_GIVE_WAY), _of(promise) | {"units": units, "lot": lot, "not_to": sorted(not_to)}
    )
    return int(moved or 0)


async def give_back(session: AsyncSession, promise: Promise, parts: Mapping[str, int]) -> None:
    """Take units of these lots from a promise, which is then to be made smaller by as many."""
    for lot, units in parts.items():
        await session.execute(text(_GIVE_BACK), _of(promise) | {"units": units, "lot": lot})


async def settle(session: AsyncSession, place: Place) -> None:
    """Have the lots of a row come to what the row says: see ``stock_lots_settle``."""
    await session.execute(text("SELECT stock_lots_settle(:node, :sku)"), {"node": place[0], "sku": place[1]})


async def tell_of_time(session: AsyncSession) -> int:
    """Tell subscribers what is available now that lots have expired; returns of how many SKUs, at most a batch."""
    skus = set(await session.scalars(text(_TURNED), {"today": today()}))
    if skus:
        await session.execute(text("SELECT stock_tell(CAST(:skus AS text[]))"), {"skus": sorted(skus)})
    return len(skus)


def first_to_expire(found: Mapping[str, LotLevel], units: int) -> dict[str, int]:
    """``units`` that are promised to nobody, as one would pick them: what is good first, expired goods last."""
    now = today()
    left, parts = units, {}
    for level in sorted(
        found.values(),
        key=lambda level: (
            level.expires_on is not None and level.expires_on < now,
            level.expires_on or date.max,
            level.lot,
        ),
    ):
        if part := min(level.free, left):
            parts[level.lot] = part
            left -= part
    return parts


async def _bad(session: AsyncSession, shipment_id: str) -> Sequence[Any]:
    return (await session.execute(text(_BAD), {"shipment_id": shipment_id})).all()


def _of(promise: Promise) -> dict[str, Any]:
    return promise.model_dump(include={"key", "shipment_id", "node", "sku"})


_LOTS = """
SELECT lot, expires_on, on_hand, reserved FROM stock_lots WHERE node = :node AND sku = :sku
 ORDER BY expires_on NULLS LAST, lot
"""
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended(:sku || chr(1) || :lot, 19))"
_DATES = """
SELECT DISTINCT sku, lot, expires_on FROM stock_lots
  JOIN unnest(CAST(:skus AS text[]), CAST(:lots AS text[])) AS asked (sku, lot) USING (sku, lot)
"""
_SHOWN = """
SELECT node, lot, expires_on, on_hand, reserved FROM stock_lots WHERE sku = :sku AND on_hand > 0
 ORDER BY node, expires_on NULLS LAST, lot
"""
_HELD = """
SELECT lot, quantity FROM reserved_lots JOIN stock_lots USING (node, sku, lot)
 WHERE key = :key AND shipment_id = :shipment_id AND node = :node AND sku = :sku
 ORDER BY expires_on NULLS LAST, lot
"""
# Whoever is busy with a lot is not waited for: the next look finds it.
_TURNED = """
UPDATE stock_lots SET told_expired = true
  FROM (SELECT node, sku, lot FROM stock_lots WHERE expires_on < :today AND on_hand > 0 AND NOT told_expired
         LIMIT 500 FOR UPDATE SKIP LOCKED) AS turned
 WHERE stock_lots.node = turned.node AND stock_lots.sku = turned.sku AND stock_lots.lot = turned.lot
RETURNING stock_lots.sku
"""
_TO_PICK = """
SELECT sku, lot, expires_on, sum(units.quantity)::bigint AS quantity
  FROM reserved_lots AS units JOIN reserved_units USING (key, shipment_id, node, sku)
  JOIN stock_lots USING (node, sku, lot)
 WHERE shipment_id = :shipment_id AND state = 'held'
 GROUP BY sku, lot, expires_on ORDER BY sku, expires_on NULLS LAST, lot
"""
_BAD = """
SELECT key, node, sku, lot, units.quantity, expires_on, wanted.good_on
  FROM reserved_lots AS units JOIN reserved_units USING (key, shipment_id, node, sku)
  JOIN reservations USING (key) JOIN stock_lots USING (node, sku, lot)
 CROSS JOIN LATERAL stock_lot_wanted(order_id) AS wanted
 WHERE shipment_id = :shipment_id AND reserved_units.state = 'held' AND expires_on < wanted.good_on
 ORDER BY node, sku, key, lot
"""
_LOCK = """
SELECT FROM stock WHERE (node, sku) IN (
       SELECT node, sku FROM reserved_units WHERE shipment_id = :shipment_id AND state = 'held')
 ORDER BY node, sku FOR NO KEY UPDATE
"""
_SAY = "SELECT set_config('orderwright.lots', :said, true)"
_BEGIN = "SELECT stock_lots_begin(:node, :sku)"
_PUT = """
INSERT INTO stock_lots (node, sku, lot, expires_on, on_hand, reserved)
VALUES (:node, :sku, :lot, :expires_on, :units, 0)
ON CONFLICT (node, sku, lot) DO UPDATE SET on_hand = stock_lots.on_hand + excluded.on_hand
"""
_SET = """
UPDATE stock_lots SET on_hand = greatest(:on_hand, reserved) WHERE node = :node AND sku = :sku AND lot = :lot
"""
_GIVE_BACK = "SELECT stock_lot_give_back(:key, :shipment_id, :node, :sku, :units, :lot, true)"
_GIVE_WAY = """
SELECT stock_lot_give_way(:key, :shipment_id, :node, :sku, :units, :lot, CAST(:not_to AS text[]))
"""
