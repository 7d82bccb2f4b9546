"""What warehouses tell of stock: they are right about what they hold.

Each function is one document in one transaction: its movements, the promises that it breaks, and its answer, which is
given again when the document comes again. Units that are promised and not there are released: a promise is kept in this
order if it still fits: parcels that have left, shipments whose pick has begun, then the earliest promise.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import lots
from activities.store.lots import LotLevel, Place, Promise
from activities.store.record import record
from models.base import Contract
from models.errors import Conflict, InvalidDocument, NotFound, Problem, Refused
from models.journal import Carried, TimelineEntry
from models.stock import (
    Adjustment,
    Count,
    CountedUnits,
    Damage,
    Departure,
    Expected,
    MovementKind,
    Receipt,
    ReleasedUnits,
    SafetyStock,
    ShortPick,
    SkuUnits,
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
    StockTransferLotRow,
    StockTransferRow,
    UnitState,
)


async def receive(session: AsyncSession, receipt: Receipt) -> StockAnswer:
    """Goods lie on the shelves of ``receipt.node`` now.

    Raises ``InvalidDocument`` for a node or SKU that is not known, and for more than a transfer sent; ``Conflict`` when
    the document's id has been used for something else.
    """

    async def do() -> _Came:
        arrived = {} if receipt.transfer_id is None else await _arrive(session, receipt)
        if receipt.supply_id is not None:
            await _supplied(session, receipt)
        by_sku = _by_sku(receipt.lines)
        places = [(receipt.node, sku) for sku in by_sku]
        await _lock(session, places)
        kind = MovementKind.RECEIPT if receipt.transfer_id is None else MovementKind.TRANSFER_IN
        await lots.say(session, receipt, kind, receipt.transfer_id or "")
        known = await lots.dates(
            session, _named(receipt.lines) | {(sku, lot) for sku in arrived for lot in arrived[sku]}
        )
        for sku, lines in by_sku.items():
            place = (receipt.node, sku)
            told = {(sku, line.lot): line.expires_on for line in lines if line.expires_on is not None}
            for lot, units in arrived.get(sku, _units_of_lots(lines)).items():
                if lot != lots.UNKNOWN:
                    await lots.put(session, place, lot, known.get((sku, lot)) or told[(sku, lot)], units)
            await _change(
                session,
                place,
                receipt,
                kind,
                on_hand=sum(line.quantity for line in lines),
                source=receipt.transfer_id or "",
            )
            await lots.settle(session, place)
        return _Came(places=places)

    async def check() -> list[Problem]:
        problems = await _unknown(session, receipt.node, receipt.lines, new=receipt.new)
        problems += await _not_announced(session, receipt)
        return problems or await _lot_problems(
            session, receipt.lines, dated=True, fresh=receipt.transfer_id is None
        )

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
        by_sku = _by_sku(counted.lines)
        places = [(counted.node, sku) for sku in by_sku]
        await _lock(session, places)
        await lots.say(session, counted, MovementKind.COUNT)
        known = await lots.dates(session, _named(counted.lines))
        released = []
        for sku, lines in by_sku.items():
            place = (counted.node, sku)
            for line in lines:
                if line.lot is not None:
                    expires_on = known.get((sku, line.lot)) or line.expires_on
                    assert expires_on is not None  # noqa: S101 - checked below
                    await lots.put(session, place, line.lot, expires_on)
            held = await _held(session, place)
            targets: dict[str, int] = {}
            if all(line.lot is None for line in lines):
                # Parcels that left are on no shelf, and in our books until their goods are paid for.
                left = sum(one.quantity for one in held if one.left)
                on_hand = lines[0].quantity + left
            else:
                on_hand, targets = await _counted_by_lot(session, place, lines, held)
            released += await _come_to(
                session, place, counted, MovementKind.COUNT, on_hand=on_hand, held=held, targets=targets
            )
        return _Came(places=places, released=released)

    async def check() -> list[Problem]:
        problems = await _unknown(session, counted.node, counted.lines, new=counted.new)
        return problems or await _lot_problems(session, counted.lines, dated=True, fresh=False)

    return await _once(session, counted, check, do)


async def adjust(session: AsyncSession, adjustment: Adjustment) -> StockAnswer:
    """The books were wrong by so much. Raises as ``receive``, and ``InvalidDocument`` for what ends below zero."""
    return await _less_or_more(
        session,
        adjustment,
        adjustment.node,
        [(line.sku, line.lot, line.change) for line in adjustment.lines],
        MovementKind.ADJUSTMENT,
    )


async def damage(session: AsyncSession, damaged: Damage) -> StockAnswer:
    """So many units are no good any more. Raises as ``adjust``."""
    return await _less_or_more(
        session,
        damaged,
        damaged.node,
        [(line.sku, line.lot, -line.quantity) for line in damaged.lines],
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
        await lots.dates(session, _named(sent.lines))
        await _lock(session, [(sent.from_node, line.sku) for line in sent.lines])
        problems += await _lot_problems(session, sent.lines, dated=False, fresh=False, node=sent.from_node)
        return problems or await _not_free(session, sent)

    async def do() -> _Came:
        now = datetime.now(UTC)
        by_sku = _by_sku(sent.lines)
        places = [(sent.from_node, sku) for sku in by_sku]
        await _lock(session, places)
        await lots.say(session, sent, MovementKind.TRANSFER_OUT, sent.document_id)
        for sku, lines in by_sku.items():
            place = (sent.from_node, sku)
            units = sum(line.quantity for line in lines)
            found = await lots.lots_at(session, place)
            parts = _leaving(found, lines)
            for lot, part in parts.items():
                await lots.set_to(session, place, lot, found[lot].on_hand - part)
            await _change(
                session, place, sent, MovementKind.TRANSFER_OUT, on_hand=-units, source=sent.document_id
            )
            await lots.settle(session, place)
            session.add(
                StockTransferRow(
                    transfer_id=sent.document_id,
                    sku=sku,
                    from_node=sent.from_node,
                    to_node=sent.to_node,
                    quantity=units,
                    sent_at=now,
                )
            )
            await session.flush()
            for lot, part in parts.items():
                session.add(
                    StockTransferLotRow(transfer_id=sent.document_id, sku=sku, lot=lot, quantity=part)
                )
        await session.flush()
        return _Came(places=places)

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
        problems = [
            _problem(
                f"lines[{number}].sku",
                "not_in_shipment",
                f"{line.sku} was not reserved for {short.shipment_id}: it has {', '.join(sorted(where))}",
            )
            for number, line in enumerate(short.lines)
            if line.sku not in where
        ]
        if problems or left:
            return problems
        for sku, lines in _by_sku(short.lines).items():
            held = [
                one for node in where[sku] for one in await _held_for(session, (node, sku), short.shipment_id)
            ]
            units, missing = sum(one.quantity for one in held), sum(line.quantity for line in lines)
            if missing > units:
                problems.append(
                    _problem(
                        f"lines[{short.lines.index(lines[0])}].quantity",
                        "more_than_reserved",
                        f"{short.shipment_id} is to have {units} of {sku}: {missing} of them cannot be missing;"
                        " count the shelf for what else is not there",
                    )
                )
        if problems:
            return problems
        for number, line in enumerate(short.lines):
            picked = Counter[str]()
            for node in where[line.sku]:
                for one in await _held_for(session, (node, line.sku), short.shipment_id):
                    picked.update(await lots.held_lots(session, one))
            if line.lot is not None and picked[line.lot] < line.quantity:
                of = ", ".join(f"{units} of {lot or 'an unknown lot'}" for lot, units in picked.items())
                problems.append(
                    _problem(
                        f"lines[{number}].lot",
                        "lot_not_in_shipment",
                        f"{short.shipment_id} is not to have {line.quantity} of lot {line.lot} of {line.sku}, but"
                        f" {of or 'none of any lot'}: name one of these, or no lot",
                    )
                )
        return problems

    async def do() -> _Came:
        if left:
            raise Refused(f"shipment {short.shipment_id} has left: count the shelf instead")
        by_sku = _by_sku(short.lines)
        await _lock(session, [(node, sku) for sku in by_sku for node in where[sku]])
        released = []
        touched = []
        for sku, lines in by_sku.items():
            held = [
                one for node in where[sku] for one in await _held_for(session, (node, sku), short.shipment_id)
            ]
            total = missing = sum(line.quantity for line in lines)
            named = _units_of_lots(lines)
            place = (held[0].node if held else where[sku][0], sku)
            gone = Counter[str]()
            await lots.say(session, short, MovementKind.SHORT_PICK)
            for one in held:
                if lost := min(missing, one.quantity):
                    if parts := _lost_of_lots(await lots.held_lots(session, one), named, lost):
                        await lots.give_back(session, one, parts)
                        named -= Counter(parts)
                        gone.update(parts if (one.node, sku) == place else {})
                    released.append(await _take(session, short, one, lost))
                    missing -= lost
            level = (await _lock(session, [place]))[place]
            found = await lots.lots_at(session, place)
            released += await _come_to(
                session,
                place,
                short,
                MovementKind.SHORT_PICK,
                on_hand=max(level.on_hand - total, 0),
                held=await _held(session, place),
                targets={lot: max(found[lot].on_hand - units, 0) for lot, units in gone.items()},
            )
            touched.append(place)
        return _Came(places=touched, released=released)

    return await _once(session, short, check, do)


async def make_way(session: AsyncSession, departed: Departure) -> StockAnswer:
    """Release what others are promised of units that have left in a parcel, as far as it does not fit any more."""

    async def check() -> list[Problem]:
        return []

    async def do() -> _Came:
        places = [(departed.node, line.sku) for line in departed.lines]
        levels = await _lock(session, places)
        released: list[ReleasedUnits] = []
        for place, line in zip(places, departed.lines, strict=True):
            room = max(levels[place].on_hand - line.quantity, 0)
            taken, _ = await _make_room(session, place, departed, room, await _held(session, place))
            released += taken
        return _Came(places=places, released=released)

    return await _once(session, departed, check, do)


async def keep_back(session: AsyncSession, safety: SafetyStock) -> StockAnswer:
    """So many units at ``safety.node`` are promised to nobody new. Raises ``InvalidDocument`` as ``receive`` does."""

    async def check() -> list[Problem]:
        return await _unknown(session, safety.node, safety.lines)

    async def do() -> _Came:
        places = [(safety.node, line.sku) for line in safety.lines]
        await _lock(session, places)
        for line in safety.lines:
            await session.execute(
                update(StockRow)
                .where(col(StockRow.node) == safety.node, col(StockRow.sku) == line.sku)
                .values(safety_stock=line.quantity)
            )
        return _Came(places=places)

    return await _once(session, safety, check, do)


class _Came(Contract):
    """What a document did: to which rows, and whose units it took."""

    places: Sequence[Place]
    released: Sequence[ReleasedUnits] = ()


class _Level(Contract):
    on_hand: int
    reserved: int
    safety_stock: int


class _Held(Promise):
    """Units that a shipment is promised; ``left``: they are in a parcel that has left the house."""

    order_id: str
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
    fingerprint = hashlib.sha256(
        json.dumps([kind, _without_lots(content)], sort_keys=True).encode()
    ).hexdigest()
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
        _problem(
            f"lines[{number}].sku", "repeated_sku", f"{told} stands in another line as well: add them up"
        )
        for number, told in _repeated(
            f"lot {line.lot} of {line.sku}" if getattr(line, "lot", None) else line.sku
            for line in document.lines  # type: ignore[attr-defined]
        )
    ]
    if problems := repeated or await check():
        raise InvalidDocument(tuple(problems))
    came = await do()
    await lots.hush(session)
    levels = await _lock(session, came.places)
    available = await _open(session, came.places)
    answer = StockAnswer(
        document_id=document.document_id,
        stock=tuple(
            StockNow(
                node=node,
                sku=sku,
                on_hand=level.on_hand,
                reserved=level.reserved,
                available=available[(node, sku)],
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
    changes: Sequence[tuple[str, str | None, int]],
    kind: MovementKind,
) -> StockAnswer:
    by_sku: dict[str, list[tuple[str | None, int]]] = defaultdict(list)
    for sku, lot, change in sorted(changes, key=lambda change: change[0]):
        by_sku[sku].append((lot, change))
    places = [(node, sku) for sku in by_sku]

    async def check() -> list[Problem]:
        problems = await _unknown(session, node, document.lines)  # type: ignore[attr-defined]
        if problems:
            return problems
        # Before the rows, as receipts do.
        await lots.dates(session, _named(document.lines))  # type: ignore[attr-defined]
        levels = await _lock(session, places)
        problems = await _lot_problems(
            session,
            document.lines,  # type: ignore[attr-defined]
            dated=False,
            fresh=False,
            node=node,
        )
        for number, (sku, lot, change) in enumerate(changes if not problems else ()):
            in_lot = (await lots.lots_at(session, (node, sku))).get(lot or "")
            if lot is not None and in_lot is not None and in_lot.on_hand + change < 0:
                message = f"{node} has {in_lot.on_hand} of lot {lot} of {sku} in the books"
            elif levels[(node, sku)].on_hand + sum(some for _, some in by_sku[sku]) < 0:
                message = f"{node} has {levels[(node, sku)].on_hand} of {sku} in the books"
            else:
                continue
            problems.append(
                _problem(
                    f"lines[{number}]", "more_than_on_hand", f"{message}: count the shelf, and send the count"
                )
            )
        return problems

    async def do() -> _Came:
        levels = await _lock(session, places)
        await lots.say(session, document, kind)
        known = await lots.dates(session, {(sku, lot) for sku, lot, _ in changes if lot is not None})
        released = []
        for sku, of_lots in by_sku.items():
            place = (node, sku)
            targets = {}
            for lot, change in of_lots:
                if lot is not None:
                    await lots.put(session, place, lot, known[(sku, lot)])
                    targets[lot] = (await lots.lots_at(session, place))[lot].on_hand + change
            released += await _come_to(
                session,
                place,
                document,
                kind,
                on_hand=levels[place].on_hand + sum(change for _, change in of_lots),
                held=await _held(session, place),
                targets=targets,
            )
        return _Came(places=places, released=released)

    return await _once(session, document, check, do)


async def _not_free(session: AsyncSession, sent: Transfer) -> list[Problem]:
    """What of a transfer is promised to somebody, or not there."""
    problems = []
    wanted = Counter[str]()
    for number, line in enumerate(sent.lines):
        place = (sent.from_node, line.sku)
        wanted[line.sku] += line.quantity
        level = (await _lock(session, [place]))[place]
        lot = None if line.lot is None else (await lots.lots_at(session, place))[line.lot]
        if lot is not None and lot.free < line.quantity:
            of, level = (
                f"lot {lot.lot} of {line.sku}",
                _Level(on_hand=lot.on_hand, reserved=lot.reserved, safety_stock=0),
            )
        elif level.on_hand - level.reserved < wanted[line.sku]:
            of = line.sku
        else:
            continue
        problems.append(
            _problem(
                f"lines[{number}].quantity",
                "not_available",
                f"{sent.from_node} can give away {level.on_hand - level.reserved} of {of}:"
                f" of {level.on_hand} on hand {level.reserved} are reserved",
            )
        )
    return problems


def _leaving(found: Mapping[str, LotLevel], lines: Sequence[SkuUnits]) -> dict[str, int]:
    """The lots that a transfer of one SKU takes: those that it names, else the first to expire."""
    if not found:
        return {}
    parts = Counter[str]({line.lot: line.quantity for line in lines if line.lot is not None})
    rest = {
        lot: level.model_copy(update={"on_hand": level.on_hand - parts[lot]}) for lot, level in found.items()
    }
    unnamed = sum(line.quantity for line in lines if line.lot is None)
    return dict(parts + Counter(lots.first_to_expire(rest, unnamed)))


async def _arrive(session: AsyncSession, receipt: Receipt) -> dict[str, dict[str, int]]:
    """Take what arrived off the transfer; answers of which lots it is, for the SKUs that were sent with lots.

    Raises ``InvalidDocument`` for what was not sent.
    """
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
    arrived = Counter[str]()
    for number, line in enumerate(receipt.lines if not problems else ()):
        row = sent.get(line.sku)
        awaited = 0 if row is None else row.quantity - row.received - row.lost - arrived[line.sku]
        arrived[line.sku] += line.quantity
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
    of_lots = await _arrived_lots(session, receipt)
    now = datetime.now(UTC)
    for row in sent.values():
        row.received += arrived[row.sku]
        if receipt.last:
            row.lost = row.quantity - row.received
        if row.received + row.lost == row.quantity and row.closed_at is None:
            row.closed_at = now
    await session.flush()
    return of_lots


async def _arrived_lots(session: AsyncSession, receipt: Receipt) -> dict[str, dict[str, int]]:
    """Take lots off the transfer: those that are named, then the first to expire of those still on their way.

    A lot that nobody knew when it was sent may be named when it arrives. Raises ``InvalidDocument``.
    """
    found = await session.execute(
        select(StockTransferLotRow)
        .where(col(StockTransferLotRow.transfer_id) == receipt.transfer_id)
        .order_by(col(StockTransferLotRow.sku), col(StockTransferLotRow.lot))
        .with_for_update()
    )
    by_sku: dict[str, dict[str, StockTransferLotRow]] = defaultdict(dict)
    for row in found.scalars():
        by_sku[row.sku][row.lot] = row
    expiry = await lots.dates(session, {(sku, lot) for sku, rows in by_sku.items() for lot in rows if lot})
    arrived: dict[str, dict[str, int]] = {}
    problems = []
    for number, line in sorted(enumerate(receipt.lines), key=lambda told: told[1].lot is None):
        rows = by_sku.get(line.sku)
        if rows is None:
            continue
        into = arrived.setdefault(line.sku, {})
        left = line.quantity
        of = (
            [line.lot, lots.UNKNOWN]
            if line.lot is not None
            else sorted(
                rows,
                key=lambda lot: (expiry.get((line.sku, lot), date.max), lot),
            )
        )
        for lot in of:
            part = min(left, rows[lot].quantity - rows[lot].received) if lot in rows else 0
            if part:
                rows[lot].received += part
                into[line.lot or lot] = into.get(line.lot or lot, 0) + part
                left -= part
        if left:
            problems.append(
                _problem(
                    f"lines[{number}].lot",
                    "lot_not_sent",
                    f"{receipt.transfer_id} has no {line.quantity} of lot {line.lot} of {line.sku} on their way:"
                    " receive them without transfer_id",
                )
            )
    if problems:
        raise InvalidDocument(tuple(problems))
    await session.flush()
    return arrived


async def _not_announced(session: AsyncSession, receipt: Receipt) -> list[Problem]:
    """What a receipt says it belongs to, and nobody has announced: the announcement would be promised beside it."""
    if receipt.last and receipt.transfer_id is None:
        return [_problem("last", "last_without_transfer", "is said of a transfer: name it in transfer_id")]
    if receipt.supply_id is None:
        return []
    expected = await session.scalars(
        select(col(InboundSupplyRow.supply_id)).where(col(InboundSupplyRow.node) == receipt.node).distinct()
    )
    if receipt.supply_id in (known := set(expected)):
        return []
    return [
        _problem(
            "supply_id",
            "unknown_supply",
            f"no delivery {receipt.supply_id} is expected at {receipt.node}"
            + (f" (but {', '.join(sorted(known)[:5])})" if known else "")
            + ": mend the name, or leave it out for goods that nobody announced",
        )
    ]


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
    return {(row["node"], row["sku"]): _Level.model_validate(row) for row in rows.mappings()}


_MADE = """
INSERT INTO stock (node, sku, on_hand, reserved)
SELECT node, sku, 0, 0 FROM unnest(CAST(:nodes AS text[]), CAST(:skus AS text[])) AS place (node, sku)
ON CONFLICT (node, sku) DO NOTHING
"""
_LOCKED = """
SELECT stock.node, stock.sku, on_hand, reserved, safety_stock
  FROM stock JOIN unnest(CAST(:nodes AS text[]), CAST(:skus AS text[])) AS place (node, sku) USING (node, sku)
 ORDER BY stock.node, stock.sku FOR NO KEY UPDATE OF stock
"""


async def _open(session: AsyncSession, places: Collection[Place]) -> dict[Place, int]:
    """What anybody may still be promised of the rows."""
    rows = await session.execute(
        text(
            "SELECT node, sku, stock_open_to(stock, NULL, NULL) AS units FROM stock "
            "JOIN unnest(CAST(:nodes AS text[]), CAST(:skus AS text[])) AS place (node, sku) USING (node, sku)"
        ),
        {"nodes": [node for node, _ in places], "skus": [sku for _, sku in places]},
    )
    return {(row.node, row.sku): row.units for row in rows}


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


async def _held_for(session: AsyncSession, place: Place, shipment_id: str) -> list[_Held]:
    return [one for one in await _held(session, place) if one.shipment_id == shipment_id]


async def _come_to(
    session: AsyncSession,
    place: Place,
    document: StockDocument,
    kind: MovementKind,
    *,
    on_hand: int,
    held: Sequence[_Held],
    targets: Mapping[str, int] | None = None,
) -> list[ReleasedUnits]:
    """Let a locked row have ``on_hand`` units, and lots as many as ``targets`` says; answers the promises that do not
    fit any more.
    """
    found = await lots.lots_at(session, place) if targets else {}
    shrinking = {lot: found[lot].on_hand - units for lot, units in (targets or {}).items() if lot in found}
    released, kept = await _make_room(session, place, document, on_hand, held, shrinking=shrinking)
    level = (await _lock(session, [place]))[place]
    await lots.say(session, document, kind)
    if targets:
        released += await _lots_come_to(session, place, document, kind, targets=targets, held=kept)
    await _change(session, place, document, kind, on_hand=on_hand - level.on_hand)
    await lots.settle(session, place)
    return released


async def _make_room(
    session: AsyncSession,
    place: Place,
    document: StockDocument,
    room: int,
    held: Sequence[_Held],
    *,
    shrinking: Mapping[str, int] | None = None,
) -> tuple[list[ReleasedUnits], list[_Held]]:
    """Have no more reserved of a locked row than ``room``; answers what was released, and the promises that are kept.

    A promise that nobody works on is released as a whole. What is being picked, or is packed, loses no more than what
    is missing: the rest of it is in somebody's hands, and promised to others it would be sold twice.
    """
    released: list[ReleasedUnits] = []
    level = (await _lock(session, [place]))[place]
    if level.reserved <= room:
        return released, list(held)
    kept, left = [], room
    for one in held:
        lost = 0 if one.quantity <= left else one.quantity
        if lost and (one.begun or one.left):
            lost -= left
            await _give_lots_back(session, one, lost, shrinking or {})
        if lost:
            released.append(await _take(session, document, one, lost))
        if lost < one.quantity:
            kept.append(one.model_copy(update={"quantity": one.quantity - lost}))
            left -= one.quantity - lost
    level = (await _lock(session, [place]))[place]
    if level.reserved > room:
        # Nobody holds these; only a fault or a hand can have reserved them.
        await _change(
            session,
            place,
            document,
            MovementKind.RELEASE,
            reserved=room - level.reserved,
            reason="reserved for nobody",
        )
    return released, kept


async def _give_lots_back(
    session: AsyncSession, held: _Held, quantity: int, shrinking: Mapping[str, int]
) -> None:
    """Before a promise is made smaller: what it loses is of the lots that shrink, else of those that expire last."""
    if quantity < held.quantity and (
        parts := _lost_of_lots(await lots.held_lots(session, held), shrinking, quantity)
    ):
        await lots.give_back(session, held, parts)


async def _lots_come_to(
    session: AsyncSession,
    place: Place,
    document: StockDocument,
    kind: MovementKind,
    *,
    targets: Mapping[str, int],
    held: Sequence[_Held],
) -> list[ReleasedUnits]:
    """Let lots have so many units. A promise whose lot has fewer is served by others that its order may have, the
    latest first; one that cannot be is released.
    """
    before = await lots.lots_at(session, place)
    shrinking = [lot for lot, units in targets.items() if units < before[lot].on_hand]
    for lot, units in targets.items():
        if lot not in shrinking:
            await lots.set_to(session, place, lot, units)
    released = []
    kept = list(held)
    for lot in shrinking:
        for one in reversed(tuple(kept)):
            over = (await lots.lots_at(session, place))[lot].reserved - targets[lot]
            if over <= 0:
                break
            over = min(over, (await lots.held_lots(session, one)).get(lot, 0))
            lost = over and over - await lots.give_way(session, one, lot, over, not_to=shrinking)
            if not lost:
                continue
            kept.remove(one)
            if one.begun or one.left:
                await lots.give_back(session, one, {lot: lost})
            else:
                lost = one.quantity
            released.append(await _take(session, document, one, lost))
            if lost < one.quantity:
                kept.append(one.model_copy(update={"quantity": one.quantity - lost}))
        await lots.say(session, document, kind)
        await lots.set_to(session, place, lot, targets[lot])
    return released


async def _counted_by_lot(
    session: AsyncSession, place: Place, lines: Sequence[CountedUnits], held: Sequence[_Held]
) -> tuple[int, dict[str, int]]:
    """What a count of lots comes to: units on hand in all, and of each lot that changes.

    Parcels that left are on no shelf. What a lot has more than in the books are units of which nobody knew the lot.
    """
    left = Counter[str]()
    for one in held:
        if one.left:
            left.update(await lots.held_lots(session, one))
    found = await lots.lots_at(session, place)
    targets = {line.lot or lots.UNKNOWN: line.quantity + left[line.lot or lots.UNKNOWN] for line in lines}
    if lots.UNKNOWN in found and lots.UNKNOWN not in targets:
        more = sum(max(units - found[lot].on_hand, 0) for lot, units in targets.items())
        targets[lots.UNKNOWN] = max(found[lots.UNKNOWN].on_hand - more, 0)
    others = sum(level.on_hand for lot, level in found.items() if lot not in targets)
    on_hand = others + sum(targets.values())
    # The lot that nobody knows is made when there is something in it.
    return on_hand, {lot: units for lot, units in targets.items() if lot in found}


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


# --- lots ---
async def _lot_problems(
    session: AsyncSession, lines: Sequence[Any], *, dated: bool, fresh: bool, node: str | None = None
) -> list[Problem]:
    """What is wrong with the lots that lines name.

    ``dated``: lots may be new, and then say when they expire. ``fresh``: they must not have expired. ``node``: where
    they have to be.
    """
    known = await lots.dates(session, _named(lines))
    here = {}
    if node is not None:
        here = {sku: await lots.lots_at(session, (node, sku)) for sku, _ in _named(lines)}
    problems = []
    for number, line in enumerate(lines):
        told = getattr(line, "expires_on", None)
        if line.lot is None:
            if told is not None:
                message = "is of a lot: say which, as it stands on the goods"
                problems.append(_problem(f"lines[{number}].lot", "expiry_without_lot", message))
            continue
        name = f"lot {line.lot} of {line.sku}"
        expires_on = known.get((line.sku, line.lot))
        at, code, message = "expires_on", "", ""
        if expires_on is not None and told is not None and told != expires_on:
            code, message = "other_expiry", f"{name} expires on {expires_on} in the books: a lot has one date"
        elif node is not None and line.lot not in here[line.sku] and (expires_on is None or not _adds(line)):
            at, code = "lot", "unknown_lot"
            message = f"{node} has no {name}: it has {_list_of(here[line.sku])}"
        elif dated and expires_on is None and told is None:
            code, message = "expiry_missing", f"{name} is new: say when it expires"
        elif fresh and (expires_on or told or date.max) < lots.today():
            code = "expired"
            message = f"{name} expired on {expires_on or told}: mend the date, or send the goods back"
        if code:
            problems.append(_problem(f"lines[{number}].{at}", code, message))
    return problems


def _adds(line: Any) -> bool:
    return bool(getattr(line, "change", 0) > 0)


def _list_of(levels: Mapping[str, LotLevel]) -> str:
    return ", ".join(sorted(lot for lot, level in levels.items() if lot and level.on_hand)) or "no known lot"


def _named(lines: Iterable[Any]) -> set[tuple[str, str]]:
    """The lots that lines name, as (SKU, lot)."""
    return {(line.sku, line.lot) for line in lines if line.lot is not None}


def _units_of_lots(lines: Iterable[SkuUnits]) -> Counter[str]:
    return Counter({line.lot: line.quantity for line in lines if line.lot is not None})


def _lost_of_lots(picked: Mapping[str, int], named: Mapping[str, int], lost: int) -> dict[str, int]:
    """Of which lots ``lost`` units of a promise are: of those that are named, then of the last to expire."""
    parts = Counter[str]()
    for lot, units in picked.items():
        parts[lot] = max(min(units, named.get(lot, 0), lost - parts.total()), 0)
    for lot, units in reversed(list(picked.items())):
        parts[lot] += min(units - parts[lot], lost - parts.total())
    return dict(+parts)


_Line = TypeVar("_Line", bound=SkuUnits | CountedUnits)


def _by_sku(lines: Sequence[_Line]) -> dict[str, list[_Line]]:
    """Lines by SKU, several where they name lots; in one order for everybody, as rules over all nodes count by SKU."""
    found: dict[str, list[_Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line.sku):
        found[line.sku].append(line)
    return found


def _without_lots(content: dict[str, Any]) -> dict[str, Any]:
    """A document as it was before lots were known of, if it names none: sent again, it is still the same."""
    return content | {
        "lines": [
            {
                name: value
                for name, value in line.items()
                if name not in ("lot", "expires_on") or value is not None
            }
            for line in content["lines"]
        ]
    }


def _problem(path: str, code: str, message: str) -> Problem:
    return Problem(path=path, code=code, message=message)
