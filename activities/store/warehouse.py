"""What warehouses tell of stock: they are right about what they hold.

Each function is one document in one transaction: its movements, the promises that it breaks, and its answer, which is
given again when the document comes again. Units that are promised and not there are released: a promise is kept in this
order if it still fits: parcels that have left, shipments whose pick has begun, then the earliest promise.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.record import record
from models.base import Contract
from models.errors import Conflict, InvalidDocument, NotFound, Problem, Refused
from models.journal import Carried, TimelineEntry
from models.stock import (
    Adjustment,
    Count,
    Damage,
    Expected,
    MovementKind,
    Receipt,
    ReleasedUnits,
    ShortPick,
    StockAnswer,
    StockDocument,
    StockNow,
    Transfer,
)
from models.tables.stock import (
    InboundSupplyRow,
    NodeRow,
    ReservedUnitsRow,
    StockDocumentRow,
    StockReleasedRow,
    StockRow,
    StockTransferRow,
    UnitState,
)

Place = tuple[str, str]  # node, SKU


async def receive(session: AsyncSession, receipt: Receipt) -> StockAnswer:
    """Goods lie on the shelves of ``receipt.node`` now.

    Raises ``InvalidDocument`` for a node or SKU that is not known, and for more than a transfer sent; ``Conflict`` when
    the document's id has been used for something else.
    """

    async def do() -> _Came:
        if receipt.transfer_id is not None:
            await _arrive(session, receipt)
        if receipt.supply_id is not None:
            await _supplied(session, receipt)
        places = [(receipt.node, line.sku) for line in receipt.lines]
        await _lock(session, places)
        kind = MovementKind.RECEIPT if receipt.transfer_id is None else MovementKind.TRANSFER_IN
        for line in receipt.lines:
            await _change(
                session,
                (receipt.node, line.sku),
                receipt,
                kind,
                on_hand=line.quantity,
                source=receipt.transfer_id or "",
            )
        return _Came(places=places)

    async def check() -> list[Problem]:
        return await _unknown(session, receipt.node, receipt.lines, new=receipt.new)

    return await _once(session, receipt, check, do)


async def expect(session: AsyncSession, expected: Expected) -> StockAnswer:
    """A supplier will deliver: it can be promised from its day on. Raises as ``receive``; a SKU may be new."""

    async def check() -> list[Problem]:
        return [] if await _is_node(session, expected.node) else [_no_node("node", expected.node)]

    async def do() -> _Came:
        for line in expected.lines:
            told = {
                "quantity": line.quantity,
                "expected_on": expected.expected_on,
                "document_id": expected.document_id,
                "updated_at": datetime.now(UTC),
            }
            await session.execute(
                insert(InboundSupplyRow)
                .values(supply_id=expected.supply_id, node=expected.node, sku=line.sku, received=0, **told)
                .on_conflict_do_update(index_elements=["supply_id", "node", "sku"], set_=told)
            )
        return _Came(places=[])

    return await _once(session, expected, check, do)


async def count(session: AsyncSession, counted: Count) -> StockAnswer:
    """So many units lie at ``counted.node``. Raises as above, but never for what was found."""

    async def do() -> _Came:
        places = [(counted.node, line.sku) for line in counted.lines]
        await _lock(session, places)
        released = []
        for line in counted.lines:
            place = (counted.node, line.sku)
            held = await _held(session, place)
            # Parcels that left are on no shelf, and in our books until their goods are paid for.
            left = sum(one.quantity for one in held if one.left)
            released += await _come_to(
                session, place, counted, MovementKind.COUNT, on_hand=line.quantity + left, held=held
            )
        return _Came(places=places, released=released)

    async def check() -> list[Problem]:
        return await _unknown(session, counted.node, counted.lines, new=counted.new)

    return await _once(session, counted, check, do)


async def adjust(session: AsyncSession, adjustment: Adjustment) -> StockAnswer:
    """The books were wrong by so much. Raises as ``receive``, and ``InvalidDocument`` for what ends below zero."""
    return await _less_or_more(
        session,
        adjustment,
        adjustment.node,
        [(line.sku, line.change) for line in adjustment.lines],
        MovementKind.ADJUSTMENT,
    )


async def damage(session: AsyncSession, damaged: Damage) -> StockAnswer:
    """So many units are no good any more. Raises as ``adjust``."""
    return await _less_or_more(
        session,
        damaged,
        damaged.node,
        [(line.sku, -line.quantity) for line in damaged.lines],
        MovementKind.DAMAGE,
    )


async def transfer(session: AsyncSession, sent: Transfer) -> StockAnswer:
    """Units left one node for another. Raises as ``receive``; only what is promised to nobody can be sent away."""

    async def check() -> list[Problem]:
        problems = await _unknown(session, sent.from_node, sent.lines, where="from_node")
        if sent.from_node == sent.to_node:
            problems.append(
                _problem("to_node", "same_node", "is where the goods are: name the node they go to")
            )
        elif not await _is_node(session, sent.to_node):
            problems.append(_no_node("to_node", sent.to_node))
        if problems:
            return problems
        levels = await _lock(session, [(sent.from_node, line.sku) for line in sent.lines])
        for number, line in enumerate(sent.lines):
            level = levels[(sent.from_node, line.sku)]
            if level.on_hand - level.reserved < line.quantity:
                problems.append(
                    _problem(
                        f"lines[{number}].quantity",
                        "not_available",
                        f"{sent.from_node} can give away {level.on_hand - level.reserved} of {line.sku}:"
                        f" of {level.on_hand} on hand {level.reserved} are reserved",
                    )
                )
        return problems

    async def do() -> _Came:
        now = datetime.now(UTC)
        for line in sent.lines:
            await _change(
                session,
                (sent.from_node, line.sku),
                sent,
                MovementKind.TRANSFER_OUT,
                on_hand=-line.quantity,
                source=sent.document_id,
            )
            session.add(
                StockTransferRow(
                    transfer_id=sent.document_id,
                    sku=line.sku,
                    from_node=sent.from_node,
                    to_node=sent.to_node,
                    quantity=line.quantity,
                    sent_at=now,
                )
            )
        await session.flush()
        return _Came(places=[(sent.from_node, line.sku) for line in sent.lines])

    return await _once(session, sent, check, do)


async def short_pick(session: AsyncSession, short: ShortPick) -> StockAnswer:
    """A shipment's units were not on the shelf: it loses them, and so does the stock.

    Raises ``NotFound`` for a shipment that nothing was reserved for, ``InvalidDocument`` for a SKU that is not in it,
    ``Refused`` once it has left.
    """
    rows = await session.execute(
        select(col(ReservedUnitsRow.node), col(ReservedUnitsRow.sku), col(ReservedUnitsRow.state)).where(
            col(ReservedUnitsRow.shipment_id) == short.shipment_id
        )
    )
    where: dict[str, list[str]] = {}
    left = False
    for node, sku, state in rows.all():
        left = left or state == UnitState.CONSUMED
        if node not in where.setdefault(sku, []):
            where[sku].append(node)
    if not where:
        raise NotFound(f"nothing was ever reserved for shipment {short.shipment_id}")

    async def check() -> list[Problem]:
        return [
            _problem(
                f"lines[{number}].sku",
                "not_in_shipment",
                f"{line.sku} was not reserved for {short.shipment_id}: it has {', '.join(sorted(where))}",
            )
            for number, line in enumerate(short.lines)
            if line.sku not in where
        ]

    async def do() -> _Came:
        if left:
            raise Refused(f"shipment {short.shipment_id} has left: count the shelf instead")
        places = [(node, line.sku) for line in short.lines for node in where[line.sku]]
        await _lock(session, places)
        released = []
        touched = []
        for line in short.lines:
            held = [
                one
                for node in where[line.sku]
                for one in await _held(session, (node, line.sku))
                if one.shipment_id == short.shipment_id
            ]
            missing = line.quantity
            place = (held[0].node if held else where[line.sku][0], line.sku)
            for one in held:
                if lost := min(missing, one.quantity):
                    released.append(await _take(session, short, one, lost))
                    missing -= lost
            level = (await _lock(session, [place]))[place]
            others = await _held(session, place)
            released += await _come_to(
                session,
                place,
                short,
                MovementKind.SHORT_PICK,
                on_hand=max(level.on_hand - line.quantity, 0),
                held=others,
            )
            touched.append(place)
        return _Came(places=touched, released=released)

    return await _once(session, short, check, do)


class _Came(Contract):
    """What a document did: to which rows, and whose units it took."""

    places: Sequence[Place]
    released: Sequence[ReleasedUnits] = ()


class _Level(Contract):
    on_hand: int
    reserved: int


class _Held(Contract):
    """Units that a shipment is promised; ``left``: they are in a parcel that has left the house."""

    key: str
    order_id: str
    shipment_id: str
    node: str
    sku: str
    quantity: int
    left: bool
    begun: bool


# --- documents ---
async def _once(
    session: AsyncSession,
    document: StockDocument,
    check: Callable[[], Awaitable[list[Problem]]],
    do: Callable[[], Awaitable[_Came]],
) -> StockAnswer:
    """The answer to ``document``, which happens once however often it comes."""
    content = document.model_dump(mode="json")
    kind = type(document).__name__
    for base in type(document).__mro__:
        # The API's contract of the same document says only more about who may act.
        if base.__module__ == StockDocument.__module__:
            kind = base.__name__
            break
    fingerprint = hashlib.sha256(json.dumps([kind, content], sort_keys=True).encode()).hexdigest()
    new = await session.scalar(
        insert(StockDocumentRow)
        .values(
            document_id=document.document_id,
            kind=kind.lower(),
            fingerprint=fingerprint,
            actor=document.actor,
            reason=getattr(document, "reason", None),
            document=content,
            at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["document_id"])
        .returning(col(StockDocumentRow.document_id))
    )
    if new is None:
        known = await session.get(StockDocumentRow, document.document_id, populate_existing=True)
        if known is None or known.fingerprint != fingerprint:
            raise Conflict(
                f"document {document.document_id} was taken before, and said something else:"
                " send what is new under an id of its own"
            )
        return StockAnswer.model_validate(known.answer).model_copy(update={"repeated": True})
    repeated = [
        _problem(f"lines[{number}].sku", "repeated_sku", f"{sku} stands in another line as well: add them up")
        for number, sku in _repeated(line.sku for line in document.lines)  # type: ignore[attr-defined]
    ]
    if problems := repeated or await check():
        raise InvalidDocument(tuple(problems))
    came = await do()
    levels = await _lock(session, came.places)
    answer = StockAnswer(
        document_id=document.document_id,
        stock=tuple(
            StockNow(
                node=node,
                sku=sku,
                on_hand=level.on_hand,
                reserved=level.reserved,
                available=level.on_hand - level.reserved,
            )
            for (node, sku), level in sorted(levels.items())
        ),
        released=tuple(came.released),
    )
    await session.execute(
        update(StockDocumentRow)
        .where(col(StockDocumentRow.document_id) == document.document_id)
        .values(answer=answer.model_dump(mode="json"))
    )
    return answer


async def _less_or_more(
    session: AsyncSession,
    document: StockDocument,
    node: str,
    changes: Sequence[tuple[str, int]],
    kind: MovementKind,
) -> StockAnswer:
    places = [(node, sku) for sku, _ in changes]

    async def check() -> list[Problem]:
        problems = await _unknown(session, node, document.lines)  # type: ignore[attr-defined]
        if problems:
            return problems
        levels = await _lock(session, places)
        return [
            _problem(
                f"lines[{number}]",
                "more_than_on_hand",
                f"{node} has {levels[(node, sku)].on_hand} of {sku} in the books: count the shelf, and send the count",
            )
            for number, (sku, change) in enumerate(changes)
            if levels[(node, sku)].on_hand + change < 0
        ]

    async def do() -> _Came:
        levels = await _lock(session, places)
        released = []
        for sku, change in changes:
            place = (node, sku)
            held = await _held(session, place)
            released += await _come_to(
                session, place, document, kind, on_hand=levels[place].on_hand + change, held=held
            )
        return _Came(places=places, released=released)

    return await _once(session, document, check, do)


async def _arrive(session: AsyncSession, receipt: Receipt) -> None:
    """Take what arrived off the transfer; raises ``InvalidDocument`` for what was not sent."""
    rows = await session.scalars(
        select(StockTransferRow)
        .where(col(StockTransferRow.transfer_id) == receipt.transfer_id)
        .order_by(col(StockTransferRow.sku))
        .with_for_update()
    )
    sent = {row.sku: row for row in rows.all()}
    problems = []
    if not sent:
        problems.append(
            _problem("transfer_id", "unknown_transfer", f"nothing was sent as {receipt.transfer_id}")
        )
    elif any(row.to_node != receipt.node for row in sent.values()):
        destination = next(iter(sent.values())).to_node
        problems.append(_problem("node", "other_node", f"{receipt.transfer_id} went to {destination}"))
    for number, line in enumerate(receipt.lines if not problems else ()):
        row = sent.get(line.sku)
        awaited = 0 if row is None else row.quantity - row.received - row.lost
        if row is None or awaited < line.quantity:
            problems.append(
                _problem(
                    f"lines[{number}].quantity",
                    "more_than_sent",
                    f"of {line.sku} {awaited} are still on their way as {receipt.transfer_id}: receive the rest without"
                    " transfer_id, or count",
                )
            )
    if problems:
        raise InvalidDocument(tuple(problems))
    arrived = {line.sku: line.quantity for line in receipt.lines}
    now = datetime.now(UTC)
    for row in sent.values():
        row.received += arrived.get(row.sku, 0)
        if receipt.last:
            row.lost = row.quantity - row.received
        if row.received + row.lost == row.quantity and row.closed_at is None:
            row.closed_at = now
    await session.flush()


async def _supplied(session: AsyncSession, receipt: Receipt) -> None:
    """Take what arrived off what was expected. More than that, or something else, has arrived all the same."""
    for line in receipt.lines:
        await session.execute(
            update(InboundSupplyRow)
            .where(
                col(InboundSupplyRow.supply_id) == receipt.supply_id,
                col(InboundSupplyRow.node) == receipt.node,
                col(InboundSupplyRow.sku) == line.sku,
            )
            .values(received=col(InboundSupplyRow.received) + line.quantity, updated_at=datetime.now(UTC))
        )


# --- rows ---
async def _lock(session: AsyncSession, places: Collection[Place]) -> dict[Place, _Level]:
    """The rows as they stand, made where there are none, and locked in the one order."""
    values = {
        "nodes": [node for node, _ in sorted(places)],
        "skus": [sku for _, sku in sorted(places)],
    }
    await session.execute(text(_MADE), values)
    rows = await session.execute(text(_LOCKED), values)
    return {(row.node, row.sku): _Level(on_hand=row.on_hand, reserved=row.reserved) for row in rows}


_MADE = """
INSERT INTO stock (node, sku, on_hand, reserved)
SELECT node, sku, 0, 0 FROM unnest(CAST(:nodes AS text[]), CAST(:skus AS text[])) AS place (node, sku)
ON CONFLICT (node, sku) DO NOTHING
"""
_LOCKED = """
SELECT stock.node, stock.sku, on_hand, reserved
  FROM stock JOIN unnest(CAST(:nodes AS text[]), CAST(:skus AS text[])) AS place (node, sku) USING (node, sku)
 ORDER BY stock.node, stock.sku FOR NO KEY UPDATE OF stock
"""


async def _change(
    session: AsyncSession,
    place: Place,
    document: StockDocument,
    kind: MovementKind,
    *,
    on_hand: int = 0,
    reserved: int = 0,
    source: str = "",
    reason: str | None = None,
) -> None:
    """Change one row, with a movement that names the document."""
    said = {
        "kind": kind,
        "actor": document.actor,
        "reason": reason or getattr(document, "reason", None),
        "source": source,
        "document_id": document.document_id,
    }
    await session.execute(
        text(
            "UPDATE stock SET on_hand = on_hand + :on_hand, reserved = greatest(reserved + :reserved, 0) "
            "FROM (SELECT set_config('orderwright.movement', :said, true)) AS said "
            "WHERE node = :node AND sku = :sku"
        ),
        {
            "node": place[0],
            "sku": place[1],
            "on_hand": on_hand,
            "reserved": reserved,
            "said": json.dumps(said),
        },
    )


# Whose units are kept first. A promise without a date of its own counts from its order's, or from when it was made.
_HELD = """
SELECT units.key, reservations.order_id, units.shipment_id, units.node, units.sku, units.quantity,
       shipments.handed_over_at IS NOT NULL AS left,
       coalesce(shipments.state NOT IN ('planned', 'cancelled'), false) OR EXISTS (
           SELECT FROM shipping_operations
            WHERE shipping_operations.shipment_id = units.shipment_id AND kind = 'pick'
              AND shipping_operations.state IN ('intended', 'confirmed')) AS begun
  FROM reserved_units AS units
  JOIN reservations USING (key)
  LEFT JOIN shipments ON shipments.shipment_id = units.shipment_id
  LEFT JOIN orders ON orders.order_id = reservations.order_id
 WHERE units.node = :node AND units.sku = :sku AND units.state = 'held'
 ORDER BY "left" DESC, begun DESC, coalesce(units.promised_at, orders.promised_at, reservations.created_at),
          reservations.created_at, units.key, units.shipment_id
   FOR UPDATE OF units
"""


async def _held(session: AsyncSession, place: Place) -> list[_Held]:
    """Who is promised units of a row that is locked, first whose are kept first."""
    rows = await session.execute(text(_HELD), {"node": place[0], "sku": place[1]})
    return [_Held.model_validate(row) for row in rows.mappings()]


async def _come_to(
    session: AsyncSession,
    place: Place,
    document: StockDocument,
    kind: MovementKind,
    *,
    on_hand: int,
    held: Sequence[_Held],
) -> list[ReleasedUnits]:
    """Let a locked row have ``on_hand`` units; answers the promises that do not fit any more."""
    level = (await _lock(session, [place]))[place]
    released = []
    if level.reserved > on_hand:
        room = on_hand
        for one in held:
            if one.quantity <= room:
                room -= one.quantity
            else:
                released.append(await _take(session, document, one, one.quantity))
        level = (await _lock(session, [place]))[place]
    if level.reserved > on_hand:
        # Nobody holds these; only a fault or a hand can have reserved them.
        await _change(
            session,
            place,
            document,
            MovementKind.RELEASE,
            reserved=on_hand - level.reserved,
            reason="reserved for nobody",
        )
    await _change(session, place, document, kind, on_hand=on_hand - level.on_hand)
    return released


async def _take(session: AsyncSession, document: StockDocument, held: _Held, quantity: int) -> ReleasedUnits:
    """Take units from a promise, tell its order, and leave word that it has to be planned anew."""
    units = (
        col(ReservedUnitsRow.key) == held.key,
        col(ReservedUnitsRow.shipment_id) == held.shipment_id,
        col(ReservedUnitsRow.node) == held.node,
        col(ReservedUnitsRow.sku) == held.sku,
    )
    if quantity == held.quantity:
        await session.execute(update(ReservedUnitsRow).where(*units).values(state=UnitState.RELEASED))
    # Should the parcel leave all the same, these were not in it, or were not on the shelf that was counted.
    await session.execute(update(ReservedUnitsRow).where(*units).values(quantity=held.quantity - quantity))
    await _change(
        session,
        (held.node, held.sku),
        document,
        MovementKind.RELEASE,
        reserved=-quantity,
        source=f"{held.key}/{held.shipment_id}",
    )
    now = datetime.now(UTC)
    gone = ReleasedUnits(
        order_id=held.order_id,
        shipment_id=held.shipment_id,
        reservation=held.key,
        node=held.node,
        sku=held.sku,
        quantity=quantity,
    )
    session.add(StockReleasedRow(document_id=document.document_id, at=now, **gone.model_dump()))
    entry = TimelineEntry(
        entry_id=f"stock:{document.document_id}/{held.shipment_id}/{held.node}/{held.sku}/{held.key}",
        order_id=held.order_id,
        shipment_id=held.shipment_id,
        at=now,
        business_at=now,
        actor=document.actor,
        kind="stock.lost",
        what=f"{quantity} of {held.sku} reserved at {held.node} are not there",
        why=getattr(document, "reason", None) or f"document {document.document_id}",
        details={"document_id": document.document_id, "sku": held.sku, "quantity": quantity},
    )
    await record(session, held.order_id, Carried(entries=(entry,)))
    return gone


# --- what is not known ---
async def _unknown(
    session: AsyncSession, node: str, lines: Sequence[Any], *, new: bool = False, where: str = "node"
) -> list[Problem]:
    problems = [] if await _is_node(session, node) else [_no_node(where, node)]
    if new:
        return problems
    skus = [line.sku for line in lines]
    known = set(
        await session.scalars(select(col(StockRow.sku)).distinct().where(col(StockRow.sku).in_(skus)))
    )
    return problems + [
        _problem(
            f"lines[{number}].sku",
            "unknown_sku",
            f"no node stocks {sku}: mend the name; goods that are new are received or counted with new",
        )
        for number, sku in enumerate(skus)
        if sku not in known
    ]


async def _is_node(session: AsyncSession, node: str) -> bool:
    return await session.scalar(select(col(NodeRow.node_id)).where(col(NodeRow.node_id) == node)) is not None


def _no_node(where: str, node: str) -> Problem:
    return _problem(where, "unknown_node", f"there is no node {node}: load it with the network first")


def _repeated(skus: Iterable[str]) -> list[tuple[int, str]]:
    seen = Counter[str]()
    found = []
    for number, sku in enumerate(skus):
        if seen[sku]:
            found.append((number, sku))
        seen[sku] += 1
    return found


def _problem(path: str, code: str, message: str) -> Problem:
    return Problem(path=path, code=code, message=message)
